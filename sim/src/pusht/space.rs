//! The physics: one substep of the agent, the T and the walls.
//!
//! Contacts carry their impulses from one substep to the next (warm starting), so that ten passes of sequential impulses
//! are enough. Catto, "Iterative dynamics with temporal coherence", 2005; the constants and the order are those of
//! Chipmunk 7.0.3.
//!
//! Friction and elasticity are zero on every shape and damping removes all velocity in every substep: the T moves only
//! while it is pushed.

use super::{
    broad_phase::{AGENT, BAR, BroadPhase, MOVING, Other, STEM, WALLS},
    narrow_phase::{Manifold, disc_and_quad, segment_and_quad},
    shape::{Bounds, Convex as _, Disc, Quad, Segment},
    tee::{INVERSE_MASS, INVERSE_MOMENT, Pose},
    vector::Vector,
};

/// The length of a substep: s.
pub(super) const DT: f64 = 0.01;

/// Passes over all contacts a substep.
const ITERATIONS: usize = 10;
/// Overlap that is left alone, so that resting contacts persist: px. Chipmunk's single-precision 0.1.
const SLOP: f64 = 0.1_f32 as f64;
/// The share of the overlap that is left after a second is `(1 − 0.1)^60`, with the base in single precision.
const BIAS_BASE: f64 = (1.0_f32 - 0.1_f32) as f64;
const BIAS_POWER: f64 = 60.0;
/// Substeps after which the impulse of a contact that is gone is forgotten.
const PERSISTENCE: u64 = 3;

/// The agent's radius: px.
pub(super) const AGENT_RADIUS: f64 = 15.0;
pub(super) const WALL_RADIUS: f64 = 2.0;

/// The walls in the order in which gym-pusht adds them: left, top, right, bottom.
pub(super) const WALL_ENDS: [[Vector; 2]; WALLS] = [
    [Vector::new(5.0, 506.0), Vector::new(5.0, 5.0)],
    [Vector::new(5.0, 5.0), Vector::new(506.0, 5.0)],
    [Vector::new(506.0, 5.0), Vector::new(506.0, 506.0)],
    [Vector::new(5.0, 506.0), Vector::new(506.0, 506.0)],
];

/// Where gym-pusht creates the agent and the T, before it moves them to their start.
const CREATED_AGENT: Vector = Vector::new(256.0, 400.0);
const CREATED_BLOCK: Vector = Vector::new(256.0, 300.0);

/// A box of the T against the agent or one wall: ten pairs.
const ARBITERS: usize = 2 * (1 + WALLS);

/// A point of contact during a substep.
#[derive(Debug, Clone, Copy, Default)]
struct Contact {
    feature: (u8, u8),
    /// The point on the agent or the wall: from the agent's centre, or from the world's origin.
    other_arm: Vector,
    /// From the T's centre of mass to the point on the T.
    arm: Vector,
    /// The mass that the T shows along the normal: `1 / (1/m + (arm × n)²/I)`.
    mass: f64,
    /// The velocity at which overlap is to shrink: px/s.
    bias: f64,
    /// The sum of the impulses, kept for the next substep.
    impulse: f64,
    /// The sum of the impulses on the bias velocity.
    bias_impulse: f64,
}

/// What is known of one pair of shapes, now and in the last few substeps.
#[derive(Debug, Clone, Copy, Default)]
struct Arbiter {
    normal: Vector,
    contacts: [Contact; 2],
    count: usize,
    /// The substep of the last contact; 0 for never.
    touched: u64,
    /// Whether the substep before had contact too.
    is_warm: bool,
}

/// The number of contact points of the last substep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Contacts {
    /// Between the agent and the T.
    pub agent: usize,
    /// Between the walls and the T.
    pub walls: usize,
}

/// The T's velocity at its centre of mass, px/s, and its angular velocity, rad/s.
#[derive(Debug, Clone, Copy, Default)]
struct Motion {
    velocity: Vector,
    spin: f64,
}

impl Motion {
    /// The velocity of the point at `arm` from the centre of mass.
    fn at(&self, arm: Vector) -> Vector {
        self.velocity + arm.perpendicular() * self.spin
    }

    /// Takes an impulse at `arm` from the centre of mass.
    fn push(&mut self, arm: Vector, impulse: Vector) {
        self.velocity += impulse * INVERSE_MASS;
        self.spin += INVERSE_MOMENT * arm.cross(impulse);
    }
}

/// The agent, the T and the walls.
#[derive(Debug, Clone)]
pub(super) struct Space {
    pub(super) agent: Vector,
    pub(super) agent_velocity: Vector,
    pub(super) block: Pose,
    motion: Motion,
    /// The motion that undoes overlap: it moves the T in the next substep and is forgotten.
    bias_motion: Motion,
    boxes: [Quad; 2],
    walls: [Segment; WALLS],
    broad_phase: BroadPhase,
    arbiters: [Arbiter; ARBITERS],
    /// The arbiters with contact, in the order in which they are solved; only the first `active_count` count.
    active: [usize; ARBITERS],
    active_count: usize,
    substep: u64,
    /// `1 − (0.9^60)^dt`, the share of the overlap that one substep removes.
    correction: f64,
}

impl Space {
    /// Everything at rest, nothing touched yet.
    pub(super) fn new(agent: Vector, block: Pose) -> Self {
        let walls = WALL_ENDS.map(|ends| Segment {
            ends,
            radius: WALL_RADIUS,
        });
        let created = Pose::turned_in_place(CREATED_BLOCK, 0.0).boxes();
        Self {
            agent,
            agent_velocity: Vector::ZERO,
            block,
            motion: Motion::default(),
            bias_motion: Motion::default(),
            boxes: block.boxes(),
            walls,
            broad_phase: BroadPhase::new(
                walls.map(|wall| wall.bounds()),
                bounds(CREATED_AGENT, &created),
            ),
            arbiters: [Arbiter::default(); ARBITERS],
            active: [0; ARBITERS],
            active_count: 0,
            substep: 0,
            correction: 1.0 - BIAS_BASE.powf(BIAS_POWER).powf(DT),
        }
    }

    /// One substep: positions by the last velocities, contacts, then velocities by impulses.
    pub(super) fn step(&mut self) {
        self.substep += 1;
        self.integrate();
        self.find_contacts();
        self.solve();
    }

    pub(super) fn contacts(&self) -> Contacts {
        let mut contacts = Contacts::default();
        for &index in &self.active[..self.active_count] {
            let count = self.arbiters[index].count;
            *(if index < 2 {
                &mut contacts.agent
            } else {
                &mut contacts.walls
            }) += count;
        }
        contacts
    }

    /// The contact points of the last substep in the order in which they were solved: on the agent or the wall, on the
    /// T, and the normal from the one to the other.
    pub(super) fn touches(&self) -> impl Iterator<Item = ([Vector; 2], Vector)> {
        let active = &self.active[..self.active_count];
        active.iter().flat_map(move |&place| {
            let anchor = if place < 2 { self.agent } else { Vector::ZERO };
            let arbiter = &self.arbiters[place];
            let contacts = &arbiter.contacts[..arbiter.count];
            contacts.iter().map(move |contact| {
                let points = [anchor + contact.other_arm, self.block.centre + contact.arm];
                (points, arbiter.normal)
            })
        })
    }

    /// The two boxes of the T in the world, the bar first.
    pub(super) fn boxes(&self) -> &[Quad; 2] {
        &self.boxes
    }

    fn integrate(&mut self) {
        self.agent += self.agent_velocity * DT;
        let velocity = self.motion.velocity + self.bias_motion.velocity;
        let spin = self.motion.spin + self.bias_motion.spin;
        // The T rests most of the time, and then keeps its vertices.
        if velocity != Vector::ZERO || spin != 0.0 {
            self.block = Pose::from_centre(
                self.block.centre + velocity * DT,
                self.block.angle + spin * DT,
            );
            self.boxes = self.block.boxes();
        }
    }

    fn find_contacts(&mut self) {
        let Self {
            agent,
            agent_velocity,
            block,
            motion,
            boxes,
            walls,
            broad_phase,
            arbiters,
            active,
            ..
        } = self;
        let disc = Disc {
            centre: *agent,
            radius: AGENT_RADIUS,
        };
        let tight = bounds(*agent, boxes);
        let mut count = 0;
        broad_phase.update(
            tight,
            [*agent_velocity, motion.velocity, motion.velocity],
            |visitor, other, simplex| {
                // The agent passes through walls, and the T's boxes through each other.
                let Some((part, against)) = block_pair(visitor, other) else {
                    return;
                };
                let quad = &boxes[part];
                let (manifold, anchor, place) = match against {
                    Other::Moving(_) => {
                        if !tight[AGENT].intersects(quad.bounds()) {
                            return;
                        }
                        (disc_and_quad(&disc, quad, simplex), *agent, part)
                    }
                    Other::Wall(wall) => {
                        let segment = &walls[wall];
                        if !segment.bounds().intersects(quad.bounds()) {
                            return;
                        }
                        (
                            segment_and_quad(segment, quad, simplex),
                            Vector::ZERO,
                            2 + 2 * wall + part,
                        )
                    }
                };
                if manifold.touches().is_empty() {
                    return;
                }
                arbiters[place].renew(
                    &manifold,
                    self.substep,
                    anchor,
                    block.centre,
                    self.correction,
                );
                active[count] = place;
                count += 1;
            },
        );
        self.active_count = count;
    }

    fn solve(&mut self) {
        let mut motion = Motion::default();
        let mut bias_motion = Motion::default();
        let active = &self.active[..self.active_count];
        for &place in active {
            let arbiter = &self.arbiters[place];
            if arbiter.is_warm {
                for contact in &arbiter.contacts[..arbiter.count] {
                    motion.push(contact.arm, arbiter.normal * contact.impulse);
                }
            }
        }
        for _ in 0..ITERATIONS {
            let mut is_settled = true;
            for &place in active {
                let against = if place < 2 {
                    self.agent_velocity
                } else {
                    Vector::ZERO
                };
                let arbiter = &mut self.arbiters[place];
                let normal = arbiter.normal;
                for contact in &mut arbiter.contacts[..arbiter.count] {
                    let Contact {
                        arm, mass, bias, ..
                    } = *contact;

                    let separating = bias_motion.at(arm).dot(normal);
                    let bias_impulse =
                        f64::max(contact.bias_impulse + (bias - separating) * mass, 0.0);
                    let bias_change = bias_impulse - contact.bias_impulse;
                    contact.bias_impulse = bias_impulse;
                    bias_motion.push(arm, normal * bias_change);

                    let separating = (motion.at(arm) - against).dot(normal);
                    let impulse = f64::max(contact.impulse - separating * mass, 0.0);
                    let change = impulse - contact.impulse;
                    contact.impulse = impulse;
                    motion.push(arm, normal * change);

                    is_settled &= bias_change == 0.0 && change == 0.0;
                }
            }
            // A pass that changed nothing will change nothing again: the result is that of all passes, to the bit.
            if is_settled {
                break;
            }
        }
        self.motion = motion;
        self.bias_motion = bias_motion;
    }
}

impl Arbiter {
    /// Takes this substep's contacts, with the impulses of those that are the same as before.
    fn renew(
        &mut self,
        manifold: &Manifold,
        substep: u64,
        anchor: Vector,
        centre: Vector,
        correction: f64,
    ) {
        let absence = substep - self.touched;
        let is_known = self.touched > 0 && absence <= PERSISTENCE;
        let old = self.contacts;
        let old = if is_known { &old[..self.count] } else { &[] };
        self.is_warm = is_known && absence == 1;
        self.touched = substep;
        self.normal = manifold.normal;
        self.count = manifold.touches().len();
        for (contact, touch) in self.contacts.iter_mut().zip(manifold.touches()) {
            let arm = touch.on_second - centre;
            let other_arm = touch.on_first - anchor;
            let turn = arm.cross(self.normal);
            let overlap = (arm - other_arm + (centre - anchor)).dot(self.normal);
            *contact = Contact {
                feature: touch.feature,
                other_arm,
                arm,
                mass: 1.0 / (INVERSE_MASS + INVERSE_MOMENT * turn * turn),
                bias: -correction * f64::min(0.0, overlap + SLOP) / DT,
                impulse: old
                    .iter()
                    .find(|before| before.feature == touch.feature)
                    .map_or(0.0, |before| before.impulse),
                bias_impulse: 0.0,
            };
        }
    }
}

/// The moving shapes' boxes.
fn bounds(agent: Vector, [bar, stem]: &[Quad; 2]) -> [Bounds; MOVING] {
    let mut all = [Bounds::around(agent, AGENT_RADIUS); MOVING];
    all[BAR] = bar.bounds();
    all[STEM] = stem.bounds();
    all
}

/// Which box of the T meets what, if one does and the other is not the T itself.
fn block_pair(visitor: usize, other: Other) -> Option<(usize, Other)> {
    match (visitor, other) {
        (BAR | STEM, Other::Wall(_) | Other::Moving(AGENT)) => Some((visitor - BAR, other)),
        (AGENT, Other::Moving(part)) => Some((part - BAR, Other::Moving(AGENT))),
        _ => None,
    }
}
