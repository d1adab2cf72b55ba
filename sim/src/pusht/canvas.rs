//! Drawing on a square of pixels, by pygame's rules.
//!
//! A picture that a policy was trained on is made of these rules' artefacts: which of two pixels a vertex at the border
//! between them colours, discs of even diameter, lines whose ends are cut along an axis.
//! So every shape here covers the pixels that pygame 2.6.1 covers (its `draw.polygon`, `draw.circle`, `draw.lines` and
//! `draw.aalines` on a surface of 32 bits), found in the same arithmetic where a rounding decides: f64 for polygons, f32
//! for blending.
//!
//! Points are whole pixels `[x, y]`, and may lie anywhere: what is outside of the canvas is left out.

use super::picture::Picture;

/// Red, green, blue.
pub(super) type Colour = [u8; 3];

/// Column and row of a pixel.
pub(super) type Point = [i64; 2];

/// The width and height of the canvas: a pixel for each px of the world.
pub(super) const SIDE: i64 = 512;

/// What is drawn on.
#[derive(Debug)]
pub(super) struct Canvas {
    pixels: Vec<Colour>,
}

impl Canvas {
    /// A canvas in one colour.
    pub(super) fn new(colour: Colour) -> Self {
        Self {
            pixels: vec![colour; (SIDE * SIDE) as usize],
        }
    }

    /// The canvas as a picture.
    pub(super) fn into_picture(self) -> Picture {
        Picture::new(SIDE as usize, self.pixels)
    }

    /// A filled polygon.
    ///
    /// An edge covers the rows from its upper end to the one before its lower end, and in each of them it crosses at
    /// the x that is found on the line between its ends and cut to a whole number. Between the first and second
    /// crossing, the third and fourth, and so on, the row is filled, the crossings included.
    /// The lowest row takes the lower ends as its crossings. Horizontal edges cross nothing and are drawn last.
    pub(super) fn polygon(&mut self, points: &[Point], colour: Colour) {
        let heights = || points.iter().map(|point| point[1]);
        let (Some(top), Some(bottom)) = (heights().min(), heights().max()) else {
            return;
        };
        let edges = || {
            let before = points.iter().cycle().skip(points.len() - 1);
            before.zip(points).map(|(&from, &to)| (from, to))
        };
        let mut crossings = Vec::with_capacity(points.len());
        for y in top.max(0)..=bottom.min(SIDE - 1) {
            crossings.clear();
            for (from, to) in edges() {
                let [upper, lower] = if from[1] < to[1] {
                    [from, to]
                } else {
                    [to, from]
                };
                let is_crossed = (upper[1] <= y && y < lower[1])
                    || (y == bottom && lower[1] == bottom && upper[1] < bottom);
                if is_crossed {
                    let down = (y - upper[1]) as f64;
                    let [width, height] = [lower[0] - upper[0], lower[1] - upper[1]];
                    let x = down * width as f64 / height as f64 + upper[0] as f64;
                    crossings.push(x as i64);
                }
            }
            crossings.sort_unstable();
            for pair in crossings.chunks_exact(2) {
                self.row(y, pair[0], pair[1], colour);
            }
        }
        // A level edge in between can be the lower border of a part of the polygon, which no crossing has coloured; one
        // at the top or bottom has been, unless the polygon is nothing else.
        for (from, to) in edges() {
            if from[1] == to[1] && (top == bottom || (top < to[1] && to[1] < bottom)) {
                self.row(to[1], from[0], to[0], colour);
            }
        }
    }

    /// A filled disc of `2 · radius` pixels across: the centre is the corner between four pixels, the lower right of
    /// which is `centre`.
    ///
    /// The midpoint algorithm: `error` is `x² + y² − radius²` at the midpoint of the next step, and two octants are
    /// mirrored from one.
    pub(super) fn disc(&mut self, [centre_x, centre_y]: Point, radius: i64, colour: Colour) {
        let mut mirrored = |half: i64, offset: i64| {
            for y in [centre_y + offset - 1, centre_y - offset] {
                self.row(y, centre_x - half, centre_x + half - 1, colour);
            }
        };
        let (mut x, mut y, mut error) = (0, radius, 1 - radius);
        while x < y {
            if error >= 0 {
                y -= 1;
                error -= 2 * y;
            }
            x += 1;
            error += 2 * x + 1;
            // The octant next to the vertical is as wide as its last step in the row.
            if error >= 0 {
                mirrored(x, y);
            }
            mirrored(y, x);
        }
    }

    /// A line of four pixels' width, along the axis it is steeper to.
    ///
    /// Bresenham's line, with a brush of one pixel before and two behind, horizontal for a steep line and vertical for
    /// a flat one. A line that leaves the canvas is clipped first but keeps the slope of the whole, and its brush goes
    /// on until it has left the canvas too.
    pub(super) fn thick_line(&mut self, from: Point, to: Point, colour: Colour) {
        let Some([start, stop]) = clipped(from, to) else {
            return;
        };
        let [width, height] = [(to[0] - from[0]).abs(), (to[1] - from[1]).abs()];
        let is_steep = width <= height;
        let [right, down] = [0, 1].map(|axis| if from[axis] < to[axis] { 1 } else { -1 });
        // Both halves are cut towards zero.
        let mut error = (if width > height { width } else { -height }) / 2;
        let [mut x, mut y] = start;
        let mut step = |x: &mut i64, y: &mut i64| {
            let before = error;
            if before > -width {
                error -= height;
                *x += right;
            }
            if before < height {
                error += width;
                *y += down;
            }
        };
        let mut brush = |x: i64, y: i64| {
            if is_steep {
                self.row(y, x - 1, x + 2, colour);
            } else {
                for row in y - 1..=y + 2 {
                    self.row(row, x, x, colour);
                }
            }
        };
        while (stop[0] - x) * right > 0 || (stop[1] - y) * down > 0 {
            brush(x, y);
            step(&mut x, &mut y);
        }
        let is_visible = |x: i64, y: i64| {
            if is_steep {
                contains(x - 1, y) || contains(x + 2, y)
            } else {
                contains(x, y - 1) || contains(x, y + 2)
            }
        };
        while (if is_steep { y != to[1] } else { x != to[0] }) && is_visible(x, y) {
            brush(x, y);
            step(&mut x, &mut y);
        }
        brush(x, y);
    }

    /// A smooth line of one pixel's width: Wu's, each of the two pixels that it passes between takes its share.
    ///
    /// Single precision, as pygame's.
    pub(super) fn smooth_line(&mut self, from: Point, to: Point, colour: Colour) {
        if from == to {
            self.blend(from[0], from[1], 1.0, colour);
            return;
        }
        let [mut from, mut to] = [from, to].map(|point| point.map(|value| value as f32));
        let is_steep = (to[0] - from[0]).abs() < (to[1] - from[1]).abs();
        if is_steep {
            from.reverse();
            to.reverse();
        }
        if to[0] < from[0] {
            (from, to) = (to, from);
        }
        let slope = (to[1] - from[1]) / (to[0] - from[0]);
        if !crop(&mut from, &mut to, slope) {
            return;
        }

        // From row −1 on: one row down, cutting is rounding down, and what is cut to is the row below the line.
        from[1] += 1.0;
        to[1] += 1.0;

        let mut pixel = |along: i64, across: i64, share: f32| {
            let [x, y] = if is_steep {
                [across, along]
            } else {
                [along, across]
            };
            self.blend(x, y, share, colour);
        };
        // Above row −1, where a cropped line can begin, cutting is rounding up: the share below is negative, and
        // nothing is drawn there.
        let mut pair = |along: i64, lower: i64, [above, below]: [f32; 2]| {
            pixel(along, lower - 1, above);
            if below > 0.0 {
                pixel(along, lower, below);
            }
        };
        // An end takes the share of its pixel's length too.
        let mut end = |along: i64, across: f32, length: f32| {
            let lower = across as i64;
            let share = across - lower as f32;
            pair(along, lower, [(1.0 - share) * length, share * length]);
        };
        let mut first = from[0] as i64;
        let last = to[0].ceil() as i64;
        let mut across = from[1] + slope * (first as f32 - from[0]);
        if to[0] > 0.0 {
            end(first, across, (1 + first) as f32 - from[0]);
            across += slope;
            first += 1;
        }
        if from[0] < BEYOND - 1.0 {
            let across = to[1] + slope * (last as f32 - to[0]);
            end(last, across, (1 - last) as f32 + to[0]);
        }
        for along in first..last {
            let lower = across as i64;
            let above = 1.0 - across + lower as f32;
            pair(along, lower, [above, 1.0 - above]);
            across += slope;
        }
    }

    /// Pixels `from` to `to` of row `y`, in either order, both included.
    fn row(&mut self, y: i64, from: i64, to: i64, colour: Colour) {
        let [from, to] = [from.min(to).max(0), from.max(to).min(SIDE - 1)];
        if (0..SIDE).contains(&y) && from <= to {
            let row = y * SIDE;
            self.pixels[(row + from) as usize..=(row + to) as usize].fill(colour);
        }
    }

    /// `share` of the colour over the rest of what is there, cut to whole numbers.
    ///
    /// Modulo 256, as a processor converts: at the end of a cropped line a share can exceed one.
    fn blend(&mut self, x: i64, y: i64, share: f32, colour: Colour) {
        if contains(x, y) {
            let pixel = &mut self.pixels[(y * SIDE + x) as usize];
            for (old, new) in pixel.iter_mut().zip(colour) {
                *old = (share * f32::from(new) + (1.0 - share) * f32::from(*old)) as i32 as u8;
            }
        }
    }
}

/// The first row and column outside of the canvas, before and after: what smooth lines are cropped to, so that the
/// pixels at the border get their shares.
const BEFORE: f32 = -1.0;
const BEYOND: f32 = SIDE as f32;

/// Whether the canvas has the pixel.
fn contains(x: i64, y: i64) -> bool {
    (0..SIDE).contains(&x) && (0..SIDE).contains(&y)
}

/// The part of a line in `[0, SIDE]²`, its ends rounded to whole pixels, or `None` where the line misses the square.
///
/// Liang and Barsky, "A new concept and method for line clipping", 1984.
fn clipped(from: Point, to: Point) -> Option<[Point; 2]> {
    let along = [to[0] - from[0], to[1] - from[1]];
    let (mut enter, mut leave) = (0.0, 1.0);
    for axis in [0, 1] {
        // How fast the line nears a side, and how far inside of it the line starts.
        for (towards, inside) in [(-along[axis], from[axis]), (along[axis], SIDE - from[axis])] {
            let share = inside as f64 / towards as f64;
            match towards.signum() {
                0 if inside < 0 => return None,
                -1 => enter = f64::max(enter, share),
                1 => leave = f64::min(leave, share),
                _ => {}
            }
        }
    }
    let at = |share: f64| {
        [0, 1].map(|axis| {
            let offset = along[axis] as f64 * share;
            from[axis] + (offset + 0.5_f64.copysign(offset)) as i64
        })
    };
    (enter <= leave).then(|| [at(enter), at(leave)])
}

/// Crops a line with `from[0] < to[0]` to the canvas and a pixel around it. `false` where nothing is left.
fn crop(from: &mut [f32; 2], to: &mut [f32; 2], slope: f32) -> bool {
    if to[0] <= BEFORE || from[0] >= BEYOND {
        return false;
    }
    if from[0] < BEFORE {
        from[1] += slope * (BEFORE - from[0]);
        from[0] = BEFORE;
    }
    if to[0] > BEYOND {
        to[1] += slope * (BEYOND - to[0]);
        to[0] = BEYOND;
    }
    let (upper, lower) = if slope > 0.0 { (from, to) } else { (to, from) };
    if lower[1] <= BEFORE || upper[1] >= BEYOND {
        return false;
    }
    if upper[1] < BEFORE {
        upper[0] += (BEFORE - upper[1]) / slope;
        upper[1] = BEFORE;
    }
    if lower[1] > BEYOND {
        lower[0] += (BEYOND - lower[1]) / slope;
        lower[1] = BEYOND;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLACK: Colour = [0; 3];
    const WHITE: Colour = [255; 3];

    /// The pixels that are not white, row by row.
    fn drawn(draw: impl FnOnce(&mut Canvas)) -> Vec<Point> {
        let mut canvas = Canvas::new(WHITE);
        draw(&mut canvas);
        let places = (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| [x, y]));
        let pixels = places.zip(canvas.pixels);
        pixels
            .filter(|&(_, pixel)| pixel != WHITE)
            .map(|(place, _)| place)
            .collect()
    }

    /// All pixels of these columns and rows.
    fn block(columns: std::ops::Range<i64>, rows: std::ops::Range<i64>) -> Vec<Point> {
        rows.flat_map(|y| columns.clone().map(move |x| [x, y]))
            .collect()
    }

    #[test]
    fn a_polygon_holds_its_vertices() {
        let square = [[2, 3], [5, 3], [5, 6], [2, 6]];
        assert_eq!(drawn(|c| c.polygon(&square, BLACK)), block(2..6, 3..7));
        let level = [[4, 7], [9, 7], [6, 7]];
        assert_eq!(drawn(|c| c.polygon(&level, BLACK)), block(4..10, 7..8));
        // A step down to the left: its tread is a lower border that no crossing colours.
        let step = [[0, 0], [9, 0], [9, 8], [6, 8], [6, 4], [0, 4]];
        let expected = [block(0..10, 0..5), block(6..10, 5..9)].concat();
        assert_eq!(drawn(|c| c.polygon(&step, BLACK)), expected);
        assert!(drawn(|c| c.polygon(&[], BLACK)).is_empty());
    }

    #[test]
    fn a_disc_is_of_even_diameter() {
        let expected = [
            block(9..11, 18..19),
            block(8..12, 19..21),
            block(9..11, 21..22),
        ];
        assert_eq!(drawn(|c| c.disc([10, 20], 2, BLACK)), expected.concat());
        let corner = drawn(|c| c.disc([0, 0], 15, BLACK));
        assert!(corner.len() > 150 && corner.iter().all(|&[x, y]| x < 15 && y < 15));
    }

    #[test]
    fn a_thick_line_has_four_pixels_and_flat_ends() {
        let [left, right, lower] = [[10, 10], [20, 10], [10, 20]];
        assert_eq!(
            drawn(|c| c.thick_line(left, right, BLACK)),
            block(10..21, 9..13)
        );
        assert_eq!(
            drawn(|c| c.thick_line(right, left, BLACK)),
            block(10..21, 9..13)
        );
        assert_eq!(
            drawn(|c| c.thick_line(left, lower, BLACK)),
            block(9..13, 10..21)
        );
        // Across the canvas and out of it on both sides.
        let band = drawn(|c| c.thick_line([-100, 50], [700, 50], BLACK));
        assert_eq!(band, block(0..SIDE, 49..53));
    }

    #[test]
    fn a_smooth_line_shares_pixels() {
        let mut canvas = Canvas::new(WHITE);
        canvas.smooth_line([10, 10], [14, 11], BLACK);
        // 255 · ¼, 255 · ½ and 255 · ¾ of the background are left, cut.
        let gray = |x: usize, y: usize| canvas.pixels[y * SIDE as usize + x][0];
        assert_eq!(
            [10, 11, 12, 13, 14].map(|x| gray(x, 10)),
            [0, 63, 127, 191, 255]
        );
        assert_eq!(
            [10, 11, 12, 13, 14].map(|x| gray(x, 11)),
            [255, 191, 127, 63, 0]
        );
    }

    /// Above the canvas the share of the pixel below the line is negative, and pygame draws none.
    #[test]
    fn a_smooth_line_that_leaves_at_the_top_ends_there() {
        let line = drawn(|c| c.smooth_line([506, 5], [493, -7], BLACK));
        assert!(line.contains(&[506, 5]) && line.contains(&[500, 0]));
        assert!(!line.contains(&[499, 0]), "{line:?}");
    }

    #[test]
    fn what_is_far_outside_draws_nothing_and_ends() {
        let far: i64 = 1_000_000_000;
        for corner in [[far, far], [-far, far], [far, -far], [-far, -far]] {
            let near = corner.map(|value| value - value.signum() * 30);
            let points = [corner, [corner[0], near[1]], near];
            let lines = |c: &mut Canvas| {
                c.polygon(&points, BLACK);
                c.disc(corner, 15, BLACK);
                c.thick_line(corner, near, BLACK);
                c.smooth_line(corner, near, BLACK);
            };
            assert!(drawn(lines).is_empty());
        }
    }
}
