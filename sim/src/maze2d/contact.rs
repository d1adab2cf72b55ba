//! Walls that push back.

use super::{MASS, RADIUS};
use crate::maze2d::Layout;

/// How far from its surface a wall acts: m. Each of MuJoCo's two geoms has it; the larger counted in D4RL's MuJoCo.
const MARGIN: f64 = 0.002;

/// Stiffness and damping of a contact, 1/s² and 1/s: `solref` = (0.02, 1) and the largest impedance.
const K: f64 = 1.0 / (IMPEDANCE[1] * TIME * IMPEDANCE[1] * TIME);
const B: f64 = 2.0 / (IMPEDANCE[1] * TIME);
const TIME: f64 = 0.02;

/// The impedance at the margin and from `WIDTH` on: `solimp` = (0.9, 0.95, 0.001, 0.5, 2).
const IMPEDANCE: [f64; 2] = [0.9, 0.95];
const WIDTH: f64 = 0.001;

/// The corner of the cell (0, 0) in positions: its centre is at (1, 1) of a world in which the position 0 is at 1.2.
pub(super) const ORIGIN: f64 = 1.0 - 0.5 - 1.2;

/// The ball and a wall, nearer than the margin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Contact {
    /// From the wall to the ball.
    normal: [f64; 2],
    /// Between the surfaces, less the margin: m, negative.
    depth: f64,
}

/// All walls that act, row by row. A ball of 0.1 m reaches at most the cells around its own.
pub(super) fn contacts(layout: Layout, position: [f64; 2]) -> impl Iterator<Item = Contact> {
    let around = position.map(|x| {
        let cell = (x - ORIGIN).floor() as isize;
        cell - 1..=cell + 1
    });
    let [rows, columns] = around;
    rows.flat_map(move |i| columns.clone().map(move |j| [i, j]))
        .filter(move |[i, j]| {
            let wall = |(i, j)| layout.is_wall(i, j);
            usize::try_from(*i)
                .ok()
                .zip(usize::try_from(*j).ok())
                .is_some_and(wall)
        })
        .filter_map(move |cell| contact(cell, position))
}

/// The ball against the wall in one cell.
fn contact(cell: [isize; 2], position: [f64; 2]) -> Option<Contact> {
    // Relative to the centre of the wall.
    let away = [0, 1].map(|axis: usize| position[axis] - (ORIGIN + 0.5 + cell[axis] as f64));
    let clamped = away.map(|x| x.clamp(-0.5, 0.5));
    let [x, y] = [away[0] - clamped[0], away[1] - clamped[1]];
    let distance = (x * x + y * y).sqrt();
    let (normal, distance) = if distance > 0.0 {
        ([x / distance, y / distance], distance)
    } else {
        // The centre is inside: out by the nearest face.
        let axis = usize::from(away[1].abs() > away[0].abs());
        let mut normal = [0.0; 2];
        normal[axis] = 1.0_f64.copysign(away[axis]);
        (normal, away[axis].abs() - 0.5)
    };
    let depth = distance - RADIUS - MARGIN;
    (depth < 0.0).then_some(Contact { normal, depth })
}

/// What one contact asks for.
#[derive(Debug, Clone, Copy, Default)]
struct Constraint {
    normal: [f64; 2],
    /// The acceleration along the normal below which it pushes: m/s².
    reference: f64,
    /// Newtons for each m/s² that lacks.
    stiffness: f64,
}

impl Constraint {
    fn new(contact: &Contact, velocity: [f64; 2]) -> Self {
        let x = (-contact.depth / WIDTH).min(1.0);
        // A power of two, mirrored at the middle.
        let y = if x <= 0.5 {
            2.0 * x * x
        } else {
            1.0 - 2.0 * (1.0 - x) * (1.0 - x)
        };
        let impedance = IMPEDANCE[0] + y * (IMPEDANCE[1] - IMPEDANCE[0]);
        Self {
            normal: contact.normal,
            reference: -B * dot(contact.normal, velocity) - K * impedance * contact.depth,
            stiffness: MASS * impedance / (1.0 - impedance),
        }
    }

    /// How much the acceleration falls short.
    fn lack(&self, acceleration: [f64; 2]) -> f64 {
        self.reference - dot(self.normal, acceleration)
    }
}

/// More walls than a ball can feel at once: there are eight around it, and it spans a fifth of a way.
const MOST: usize = 6;

/// The force of the walls, N, on a ball that another force pushes.
pub(super) fn force(
    layout: Layout,
    position: [f64; 2],
    velocity: [f64; 2],
    pushing: [f64; 2],
) -> [f64; 2] {
    let mut constraints = [Constraint::default(); MOST];
    let mut count = 0;
    for contact in contacts(layout, position).take(MOST) {
        constraints[count] = Constraint::new(&contact, velocity);
        count += 1;
    }
    if count == 0 {
        return [0.0; 2];
    }
    let constraints = &constraints[..count];
    // Strictly convex: one set of contacts pushes and agrees with the accelerations that it makes. The set that agrees
    // best is that one, whatever rounding does.
    let mut best = ([0.0; 2], f64::INFINITY);
    for set in 0..1_usize << count {
        let active = |i: usize| set >> i & 1 == 1;
        let acceleration = solve(constraints, active, pushing);
        let disagreement = constraints.iter().enumerate().map(|(i, it)| {
            let lack = it.lack(acceleration);
            if active(i) { -lack } else { lack }
        });
        let worst = disagreement.fold(0.0, f64::max);
        if worst < best.1 {
            let mut force = [0.0; 2];
            for (_, it) in constraints.iter().enumerate().filter(|(i, _)| active(*i)) {
                let push = it.stiffness * it.lack(acceleration);
                force[0] += push * it.normal[0];
                force[1] += push * it.normal[1];
            }
            best = (force, worst);
        }
    }
    best.0
}

/// The accelerations if exactly these contacts push: `(m I + Σ D n nᵀ) a = f + Σ D r n`.
fn solve(
    constraints: &[Constraint],
    active: impl Fn(usize) -> bool,
    pushing: [f64; 2],
) -> [f64; 2] {
    let [mut xx, mut xy, mut yy] = [MASS, 0.0, MASS];
    let [mut x, mut y] = pushing;
    for (i, it) in constraints.iter().enumerate() {
        if active(i) {
            let [n, m] = it.normal;
            xx += it.stiffness * n * n;
            xy += it.stiffness * n * m;
            yy += it.stiffness * m * m;
            x += it.stiffness * it.reference * n;
            y += it.stiffness * it.reference * m;
        }
    }
    let determinant = xx * yy - xy * xy;
    [
        (yy * x - xy * y) / determinant,
        (xx * y - xy * x) / determinant,
    ]
}

fn dot(one: [f64; 2], other: [f64; 2]) -> f64 {
    one[0] * other[0] + one[1] * other[1]
}
