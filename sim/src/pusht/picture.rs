//! What a camera policy sees of PushT: gym-pusht's drawing of the world, and that drawing shrunk to 96 × 96 pixels.

use super::{
    canvas::{Canvas, Colour, Point},
    coverage::GOAL,
    space::{AGENT_RADIUS, Space, WALL_ENDS, WALL_RADIUS},
    tee::{BOXES, Pose},
    vector::Vector,
};

/// The width and height of a policy's picture: pixels.
pub const PICTURE_SIZE: usize = 96;

const WHITE: Colour = [255, 255, 255];
/// Light green.
const TARGET: Colour = [144, 238, 144];
/// Light slate gray, and 1.2 times that inside of the outline.
const BLOCK: Colour = [119, 136, 153];
const BLOCK_INSIDE: Colour = [143, 163, 184];
/// Royal blue, and 1.2 times that inside of the rim.
const AGENT: Colour = [65, 105, 225];
const AGENT_INSIDE: Colour = [78, 126, 255];
/// Light gray.
const WALL: Colour = [211, 211, 211];
const CONTACT: Colour = [231, 76, 60];

/// Half the width of the block's outline: px.
const OUTLINE_RADIUS: f64 = 2.0;
/// The width of the agent's rim: px.
const RIM: f64 = 4.0;
/// How far the stroke at a contact goes beyond the point on either shape: px.
const STROKE: f64 = 2.0;

/// The largest magnitude of a coordinate that is drawn: px. It is beyond anything that the physics can reach.
const FARTHEST: f64 = 1e9;

/// A square RGB picture of 8 bits a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    size: usize,
    pixels: Vec<Colour>,
}

impl Picture {
    /// `size × size` pixels, row by row from the top left.
    pub(super) fn new(size: usize, pixels: Vec<Colour>) -> Self {
        Self { size, pixels }
    }

    /// The number of pixels in a row.
    pub fn width(&self) -> usize {
        self.size
    }

    /// The number of rows.
    pub fn height(&self) -> usize {
        self.size
    }

    /// The channels as height × width × 3: rows from the top, pixels from the left, red, green, blue.
    pub fn bytes(&self) -> &[u8] {
        self.pixels.as_flattened()
    }

    /// The channels in the order of [`Picture::bytes`], without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.pixels.into_flattened()
    }

    /// Red, green and blue at column `x` and row `y`, or `None` outside of the picture.
    pub fn pixel(&self, x: usize, y: usize) -> Option<[u8; 3]> {
        let is_inside = x < self.size && y < self.size;
        is_inside.then(|| self.pixels[y * self.size + x])
    }

    /// The picture at [`PICTURE_SIZE`], in the fixed-point arithmetic of OpenCV's `resize` with `INTER_LINEAR`.
    ///
    /// Each pixel is made of the four that surround its centre, by products of weights of 11 bits. The pixels between
    /// are not looked at: the picture is aliased, as gym-pusht's is.
    pub(super) fn shrunk(&self) -> Self {
        let taps: Vec<Tap> = (0..PICTURE_SIZE)
            .map(|at| Tap::new(at, self.size))
            .collect();
        let row = |at: usize| &self.pixels[at * self.size..][..self.size];
        let mut pixels = Vec::with_capacity(PICTURE_SIZE * PICTURE_SIZE);
        for down in &taps {
            let rows = [
                (row(down.first), WHOLE - down.weight),
                (row(down.second), down.weight),
            ];
            for tap in &taps {
                let [upper, lower] = rows.map(|(row, weight)| {
                    let [left, right] = [row[tap.first], row[tap.second]];
                    [0, 1, 2].map(|channel| {
                        let [left, right] = [left[channel], right[channel]].map(u32::from);
                        let across = left * (WHOLE - tap.weight) + right * tap.weight;
                        // Of 19 and 11 bits: four are dropped before the product and sixteen after it.
                        ((across >> 4) * weight) >> 16
                    })
                });
                // Two are left. The weights are a whole and all else is cut: at most 255.
                pixels.push(
                    [0, 1, 2].map(|channel| ((upper[channel] + lower[channel] + 2) >> 2) as u8),
                );
            }
        }
        Self::new(PICTURE_SIZE, pixels)
    }
}

/// A weight of one: 11 bits.
const WHOLE: u32 = 1 << 11;

/// The two source pixels on either side of a pixel's centre, and the weight of the second.
struct Tap {
    first: usize,
    second: usize,
    weight: u32,
}

impl Tap {
    /// For pixel `at` of a row that is shrunk from `size` pixels, `size` being at least [`PICTURE_SIZE`].
    ///
    /// ```text
    /// centre = (at + ½) · size / PICTURE_SIZE − ½ = ((2 at + 1) · size − PICTURE_SIZE) / (2 PICTURE_SIZE)
    /// ```
    fn new(at: usize, size: usize) -> Self {
        let whole = 2 * PICTURE_SIZE;
        let centre = (2 * at + 1) * size - PICTURE_SIZE;
        let (first, rest) = (centre / whole, centre % whole);
        Self {
            first,
            second: (first + 1).min(size - 1),
            weight: ((WHOLE as usize * rest + PICTURE_SIZE) / whole) as u32,
        }
    }
}

/// The world as gym-pusht draws it, in its order: target, block, agent, walls, contacts.
pub(super) fn drawing(space: &Space) -> Picture {
    let mut canvas = Canvas::new(WHITE);

    let [x, y, angle] = GOAL;
    let target = Pose::from_origin(Vector::new(x, y), angle);
    for vertices in &BOXES {
        let vertices = vertices.map(|vertex| target.world_from_body(vertex));
        canvas.polygon(&outline(vertices), TARGET);
    }

    for quad in space.boxes() {
        let vertices = *quad.vertices();
        canvas.polygon(&outline(vertices), BLOCK_INSIDE);
        for (index, &from) in vertices.iter().enumerate() {
            let to = vertices[(index + 1) % vertices.len()];
            stroke(&mut canvas, [from, to], OUTLINE_RADIUS, BLOCK);
        }
    }

    let centre = pixel(space.agent);
    canvas.disc(centre, nearest(AGENT_RADIUS), AGENT);
    canvas.disc(centre, nearest(AGENT_RADIUS - RIM), AGENT_INSIDE);

    for ends in WALL_ENDS {
        stroke(&mut canvas, ends, WALL_RADIUS, WALL);
    }

    for ([on_other, on_block], normal) in space.touches() {
        let ends = [on_other + normal * -STROKE, on_block + normal * STROKE];
        let [from, to] = ends.map(pixel);
        canvas.smooth_line(from, to, CONTACT);
    }
    canvas.into_picture()
}

/// A line with round ends, `radius` px to either side.
///
/// gym-pusht's: a thick line, a parallelogram and two discs. The parallelogram's sides are offset by the absolute
/// values of the line's direction, which is across the line for one diagonal and along it for the other; it is drawn as
/// it is.
fn stroke(canvas: &mut Canvas, ends: [Vector; 2], radius: f64, colour: Colour) {
    let [from, to] = ends.map(pixel);
    canvas.thick_line(from, to, colour);
    if from == to {
        return;
    }
    let [width, height] = [0, 1].map(|axis| (to[axis] - from[axis]).abs() as f64);
    let scale = radius / (height * height + width * width).sqrt();
    let [x, y] = [nearest(height * scale), nearest(width * scale)];
    let sides = [
        [from[0] - x, from[1] - y],
        [from[0] + x, from[1] + y],
        [to[0] + x, to[1] + y],
        [to[0] - x, to[1] - y],
    ];
    canvas.polygon(&sides, colour);
    canvas.disc(from, nearest(radius), colour);
    canvas.disc(to, nearest(radius), colour);
}

/// The closed outline of a box. Its first point comes again at the end, which draws that point.
fn outline(vertices: [Vector; 4]) -> [Point; 5] {
    let [a, b, c, d] = vertices.map(pixel);
    [a, b, c, d, a]
}

/// The pixel nearest to a point.
fn pixel(point: Vector) -> Point {
    [nearest(point.x), nearest(point.y)]
}

/// The whole number nearest to a value, of two equally near ones the even one, as Python's `round`.
fn nearest(value: f64) -> i64 {
    value.clamp(-FARTHEST, FARTHEST).round_ties_even() as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        PushT,
        pusht::{LIMIT, SIZE},
    };

    #[test]
    fn one_colour_stays_one_colour() {
        for value in 0..=255 {
            let colour = [value, 255 - value, value / 2];
            let picture = Picture::new(512, vec![colour; 512 * 512]).shrunk();
            assert_eq!(picture.pixels.len(), PICTURE_SIZE * PICTURE_SIZE);
            // Four products are cut, and half of the last bit is added.
            for (found, expected) in picture.pixels[0].into_iter().zip(colour) {
                assert!(found.abs_diff(expected) <= 1, "{found} for {expected}");
            }
            assert!(picture.pixels.iter().all(|pixel| {
                let channels = pixel.iter().zip(colour);
                channels.into_iter().all(|(a, b)| a.abs_diff(b) <= 1)
            }));
        }
    }

    #[test]
    fn what_is_drawn_is_where_it_is() {
        let world = PushT::at_pose([100.0, 400.0], [300.0, 100.0, 0.0]).expect("finite");
        let drawing = world.drawing();
        assert_eq!(
            (drawing.width(), drawing.height()),
            (SIZE as usize, SIZE as usize)
        );
        let seen = [
            ([100, 400], AGENT_INSIDE),
            ([113, 400], AGENT),
            ([300, 200], BLOCK_INSIDE),
            ([240, 115], BLOCK),
            ([256, 256], TARGET),
            ([5, 256], WALL),
            ([256, 506], WALL),
            ([2, 2], WHITE),
            ([256, 450], WHITE),
        ];
        for ([x, y], colour) in seen {
            assert_eq!(drawing.pixel(x, y), Some(colour), "({x}, {y})");
        }
        assert_eq!(drawing.pixel(512, 0), None);
        assert_eq!(drawing.pixel(0, 512), None);
        // Pixel 19 of 96 is around 103, and 75 around 402.
        assert_eq!(world.picture().pixel(18, 75), Some(AGENT_INSIDE));
        let bytes = drawing.bytes().to_vec();
        assert_eq!(drawing.into_bytes(), bytes);
    }

    #[test]
    fn contacts_are_drawn_after_a_step_and_not_after_a_placement() {
        let red = |world: &PushT| world.drawing().pixels.contains(&CONTACT);
        let mut world = PushT::at_pose([300.0, 100.0], [300.0, 100.0, 0.0]).expect("finite");
        assert!(!red(&world));
        world.step([300.0, 100.0]).expect("finite");
        assert!(world.contacts().agent > 0 && red(&world));
    }

    #[test]
    fn the_wildest_accepted_poses_are_drawn() {
        let background = PushT::at_pose([LIMIT; 2], [LIMIT; 3]).expect("within the limit");
        for corner in 0..32_u8 {
            let sign = |bit: u8| f64::from(corner >> bit & 1) * 2.0 * LIMIT - LIMIT;
            let state = [0, 1, 2, 3, 4].map(sign);
            let mut world = PushT::from_state(state).expect("within the limit");
            assert_eq!(world.picture(), background.picture(), "{state:?}");
            world.step([sign(4), sign(3)]).expect("within the limit");
            assert_eq!(world.picture().width(), PICTURE_SIZE);
        }
    }
}
