//! Which shapes may touch, and in which order they are solved.
//!
//! The impulse solver is Gauss-Seidel: with several contacts its result depends on their order.
//! Chipmunk's order follows from its two trees of bounding boxes, so that an exact port needs them: one for the walls,
//! which never move, and one for the three moving shapes.
//! A tree of three leaves is small enough to write down: two leaves are nested under one node, the third is single.
//!
//! A moving shape has a fat box, a little larger than its own, and is re-inserted only when it leaves that: then it
//! looks up its neighbours afresh, and remembers them as pairs. Otherwise the remembered pairs are visited, newest
//! first, each with the narrow phase's last simplex.

use super::{narrow_phase::Simplex, shape::Bounds, vector::Vector};

/// The number of moving shapes: the agent and the two boxes of the T.
pub(super) const MOVING: usize = 3;
/// The number of walls.
pub(super) const WALLS: usize = 4;

/// The agent, among the moving shapes.
pub(super) const AGENT: usize = 0;
/// The upper box of the T, 120 by 30.
pub(super) const BAR: usize = 1;
/// The lower box of the T, 30 by 90.
pub(super) const STEM: usize = 2;

/// The order in which the boxes of moving shapes are renewed: Chipmunk keeps them in a hash table of five bins, by
/// shape numbers 4, 5 and 6.
const RENEWAL: [usize; MOVING] = [BAR, STEM, AGENT];

/// The order in which the walls' tree is walked. Inserting the walls 0 to 3 makes the tree (((3, 2), 1), 0): every cost
/// is tied, because the frame is square, and a tie goes to the first child, where a new leaf comes first.
const WALL_ORDER: [usize; WALLS] = [3, 2, 1, 0];

/// How much fatter than the shape a box is, and how many seconds of motion it allows for. Chipmunk's single-precision
/// 0.1.
const MARGIN: f64 = 0.1_f32 as f64;

/// Every pair of a moving shape with a wall or another moving shape.
const MAX_PAIRS: usize = MOVING * WALLS + MOVING * (MOVING - 1) / 2;

/// The shape that a moving shape meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Other {
    Wall(usize),
    Moving(usize),
}

/// A remembered pair. It is visited when `visitor`'s turn comes.
#[derive(Debug, Clone, Copy)]
struct Pair {
    other: Other,
    visitor: usize,
    simplex: Simplex,
}

/// The tree of the moving shapes, and the pairs that it found.
#[derive(Debug, Clone)]
pub(super) struct BroadPhase {
    walls: [Bounds; WALLS],
    fat: [Bounds; MOVING],
    /// When each shape was last inserted.
    inserted: [u64; MOVING],
    /// The leaves from first to last.
    order: [usize; MOVING],
    /// Whether the two nested leaves are the first two; otherwise they are the last two.
    nested_first: bool,
    /// From oldest to newest; only the first `pair_count` count.
    pairs: [Pair; MAX_PAIRS],
    pair_count: usize,
    clock: u64,
}

impl BroadPhase {
    /// The tree after the agent, the bar and the stem were inserted in this order, at rest; the agent and the bar clear
    /// of each other and of the walls, as gym-pusht creates them.
    pub(super) fn new(walls: [Bounds; WALLS], bounds: [Bounds; MOVING]) -> Self {
        let mut this = Self {
            walls,
            fat: bounds.map(|tight| fattened(tight, Vector::ZERO)),
            inserted: [0, 1, 2],
            // A new leaf goes before the one that it is nested with: the bar before the agent. The stem is placed below.
            order: [BAR, AGENT, STEM],
            nested_first: true,
            pairs: [Pair {
                other: Other::Wall(0),
                visitor: 0,
                simplex: Simplex::default(),
            }; MAX_PAIRS],
            pair_count: 0,
            clock: 2,
        };
        this.place(STEM, [BAR, AGENT]);
        this.look_up(STEM, &mut |_, _| {});
        this.clock = 3;
        this
    }

    /// Takes the shapes' new boxes and calls `collide` on every pair that may touch, in the solver's order.
    ///
    /// `collide` gets the visiting shape, the other one and the pair's simplex to start from and to renew.
    pub(super) fn update(
        &mut self,
        bounds: [Bounds; MOVING],
        velocities: [Vector; MOVING],
        mut collide: impl FnMut(usize, Other, &mut Simplex),
    ) {
        for shape in RENEWAL {
            if !self.fat[shape].contains(bounds[shape]) {
                self.fat[shape] = fattened(bounds[shape], velocities[shape]);
                self.place(shape, self.without(shape));
                self.forget(shape);
                self.inserted[shape] = self.clock;
            }
        }
        for shape in self.order {
            if self.inserted[shape] == self.clock {
                self.look_up(shape, &mut |visitor, other| {
                    collide(visitor, other, &mut Simplex::default());
                });
            } else {
                for pair in self.pairs[..self.pair_count].iter_mut().rev() {
                    if pair.visitor == shape {
                        collide(shape, pair.other, &mut pair.simplex);
                    }
                }
            }
        }
        self.clock += 1;
    }

    /// The other two leaves, in order.
    fn without(&self, shape: usize) -> [usize; 2] {
        let [a, b, c] = self.order;
        if a == shape {
            [b, c]
        } else if b == shape {
            [a, c]
        } else {
            [a, b]
        }
    }

    /// Inserts a leaf beside the one of the two others that makes the smaller boxes, or, where they are equal, the
    /// nearer one.
    fn place(&mut self, shape: usize, [first, second]: [usize; 2]) {
        let new = self.fat[shape];
        let [a, b] = [self.fat[first], self.fat[second]];
        let mut cost_first = b.area() + a.merged(new).area();
        let mut cost_second = a.area() + b.merged(new).area();
        #[expect(
            clippy::float_cmp,
            reason = "the tie-break is for exact ties, which the symmetric T makes"
        )]
        if cost_first == cost_second {
            cost_first = a.proximity(new);
            cost_second = b.proximity(new);
        }
        self.nested_first = cost_second >= cost_first;
        self.order = if self.nested_first {
            [shape, first, second]
        } else {
            [first, shape, second]
        };
    }

    /// Drops the pairs of a shape.
    fn forget(&mut self, shape: usize) {
        let mut kept = 0;
        for index in 0..self.pair_count {
            let pair = self.pairs[index];
            if pair.visitor != shape && pair.other != Other::Moving(shape) {
                self.pairs[kept] = pair;
                kept += 1;
            }
        }
        self.pair_count = kept;
    }

    fn remember(&mut self, visitor: usize, other: Other) {
        self.pairs[self.pair_count] = Pair {
            other,
            visitor,
            simplex: Simplex::default(),
        };
        self.pair_count += 1;
    }

    /// Finds the neighbours of a shape that was just inserted: first the walls, then upwards in its own tree. A
    /// neighbour that comes later in the tree's order will visit this one in its own turn; the others are visited now.
    fn look_up(&mut self, shape: usize, visit: &mut impl FnMut(usize, Other)) {
        let fat = self.fat[shape];
        for wall in WALL_ORDER {
            if fat.intersects(self.walls[wall]) {
                self.remember(shape, Other::Wall(wall));
                visit(shape, Other::Wall(wall));
            }
        }
        for (neighbour, is_later) in self.relatives(shape) {
            if !fat.intersects(self.fat[neighbour]) {
                continue;
            }
            if is_later {
                self.remember(neighbour, Other::Moving(shape));
            } else {
                // One inserted at the same time has remembered the pair already.
                if self.inserted[neighbour] < self.inserted[shape] {
                    self.remember(shape, Other::Moving(neighbour));
                }
                visit(shape, Other::Moving(neighbour));
            }
        }
    }

    /// The other two leaves, nearest in the tree first, and whether each comes later in the tree's order.
    fn relatives(&self, shape: usize) -> [(usize, bool); 2] {
        let [a, b, c] = self.order;
        let (near, far) = if self.nested_first {
            match shape {
                _ if shape == a => ((b, true), (c, true)),
                _ if shape == b => ((a, false), (c, true)),
                _ => ((a, false), (b, false)),
            }
        } else {
            match shape {
                _ if shape == a => ((b, true), (c, true)),
                _ if shape == b => ((c, true), (a, false)),
                _ => ((b, false), (a, false)),
            }
        };
        [near, far]
    }
}

/// A shape's box with a margin, and room for its motion.
fn fattened(tight: Bounds, velocity: Vector) -> Bounds {
    let x = (tight.max.x - tight.min.x) * MARGIN;
    let y = (tight.max.y - tight.min.y) * MARGIN;
    let motion = velocity * MARGIN;
    Bounds {
        min: tight.min + Vector::new(f64::min(-x, motion.x), f64::min(-y, motion.y)),
        max: tight.max + Vector::new(f64::max(x, motion.x), f64::max(y, motion.y)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numpy::Generator;

    #[test]
    fn every_pair_that_overlaps_is_visited_once() {
        let walls = [
            [3.0, 3.0, 7.0, 508.0],
            [3.0, 3.0, 508.0, 7.0],
            [504.0, 3.0, 508.0, 508.0],
            [3.0, 504.0, 508.0, 508.0],
        ]
        .map(|[left, top, right, bottom]| Bounds {
            min: Vector::new(left, top),
            max: Vector::new(right, bottom),
        });
        let mut draw = Generator::new(3);
        // Agent, bar, stem: the first two apart, as they are created.
        let mut centres = [400.0, 300.0, 350.0].map(|y| Vector::new(256.0, y));
        let bounds = |centres: [Vector; MOVING]| centres.map(|centre| Bounds::around(centre, 40.0));
        let mut tree = BroadPhase::new(walls, bounds(centres));
        let (mut overlaps, mut candidates) = (0, 0);
        for _ in 0..20_000 {
            // Small steps mostly, so that boxes both stay and leave; a jump now and then.
            let reach = if draw.integers(0, 50) == 0 { 60.0 } else { 1.5 };
            let velocities = [(); MOVING].map(|()| Vector::new(draw.angle(), draw.angle()) * reach);
            for (centre, velocity) in centres.iter_mut().zip(velocities) {
                let moved = *centre + velocity;
                *centre = Vector::new(moved.x.clamp(0.0, 512.0), moved.y.clamp(0.0, 512.0));
            }
            let tight = bounds(centres);
            let mut visits = [[0; MOVING + WALLS]; MOVING];
            tree.update(tight, velocities, |visitor, other, _| match other {
                Other::Wall(wall) => visits[visitor][MOVING + wall] += 1,
                Other::Moving(moving) => visits[visitor.min(moving)][visitor.max(moving)] += 1,
            });
            for shape in 0..MOVING {
                let others = (shape + 1..MOVING)
                    .map(|moving| (moving, tight[moving]))
                    .chain((0..WALLS).map(|wall| (MOVING + wall, walls[wall])));
                for (column, other) in others {
                    let overlap = tight[shape].intersects(other);
                    let count = visits[shape][column];
                    assert!(
                        count <= 1 && (count == 1 || !overlap),
                        "{shape} and {column}: {count}"
                    );
                    overlaps += usize::from(overlap);
                    candidates += count;
                }
            }
        }
        assert!(
            overlaps > 10_000 && candidates > overlaps,
            "{overlaps} of {candidates}"
        );
    }
}
