//! The check between whatever plans and whatever moves: it fails closed, and says what it did.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nalgebra::Vector3;

use crate::body::Body;
use crate::free_space::{Blocked, FreeSpace};
use crate::interpolation::State;
use crate::limits::{Bound, Limits, Violation};
use crate::scene::Scene;
use crate::space::Space;
use crate::trajectory::{Quantity, Trajectory};
use crate::workspace::{Departure, Workspace};

/// One thing that [`Safety`] looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Check {
    /// Every number is finite. Always applied.
    Finite,
    /// What the plan was made from is not too old.
    Age,
    /// The plan begins where the robot is.
    Start,
    /// Positions are within their limits.
    Position,
    /// Speeds are within their limits.
    Velocity,
    /// Accelerations are within their limits.
    Acceleration,
    /// Jerks are within their limits.
    Jerk,
    /// The way stays in the workspace and clears the scene, whichever of the two is given.
    Workspace,
}

impl Check {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Self; 8] = [
        Self::Finite,
        Self::Age,
        Self::Start,
        Self::Position,
        Self::Velocity,
        Self::Acceleration,
        Self::Jerk,
        Self::Workspace,
    ];
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Finite => "finite",
            Self::Age => "age",
            Self::Start => "start",
            Self::Position => "position",
            Self::Velocity => "velocity",
            Self::Acceleration => "acceleration",
            Self::Jerk => "jerk",
            Self::Workspace => "workspace",
        })
    }
}

/// A set of [`Check`]s.
///
/// ```
/// use clearway_motion::{Check, Checks};
///
/// let checks: Checks = [Check::Velocity, Check::Finite].into_iter().collect();
/// assert!(checks.contains(Check::Finite));
/// assert_eq!(checks.to_string(), "finite, velocity");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Checks {
    bits: u8,
}

impl Checks {
    /// Every check.
    pub fn all() -> Self {
        Check::ALL.into_iter().collect()
    }

    /// Whether `check` is among them.
    pub fn contains(self, check: Check) -> bool {
        self.bits & (1 << check as u8) != 0
    }

    /// Those in it, in the order of [`Check::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Check> {
        Check::ALL.into_iter().filter(move |&c| self.contains(c))
    }

    /// Those that are not in it.
    #[must_use]
    pub fn complement(self) -> Self {
        let rest = Check::ALL.into_iter().filter(|&c| !self.contains(c));
        rest.collect()
    }
}

impl FromIterator<Check> for Checks {
    fn from_iter<I: IntoIterator<Item = Check>>(checks: I) -> Self {
        let bits = checks
            .into_iter()
            .fold(0, |bits, check| bits | (1 << check as u8));
        Self { bits }
    }
}

impl fmt::Display for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, check) in self.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{check}")?;
        }
        Ok(())
    }
}

/// What a plan has to be before a robot may follow it.
///
/// It knows no planner: it judges trajectories and commands, and never repairs them.
/// **Every check is required until it is waived** by [`Safety::without`]. A required check without its data (a limit, a
/// workspace, a time, a position) refuses everything, [`Unsafe::Missing`]: a forgotten limit is not a permission.
/// A limit counts as data if it bounds at least one coordinate. What has data is applied, waived or not.
///
/// ```
/// use std::time::Duration;
/// use clearway_motion::{Candidate, Check, Interpolation, Limits, Safety, Space, Trajectory, Unit};
/// use ndarray::array;
///
/// // PushT plans targets in pixels, which its controller smooths: nothing bounds their derivatives.
/// let space = Space::new([("agent x", Unit::Pixel), ("agent y", Unit::Pixel)])?;
/// let waived = [Check::Velocity, Check::Acceleration, Check::Jerk, Check::Workspace];
/// let safety = Safety::new(&space)
///     .without(waived)
///     .with_limits(Limits::unlimited(2).with_position(&[0.0, 0.0], &[512.0, 512.0])?)
///     .with_max_age(Duration::from_millis(200))
///     .with_max_jump(&[100.0, 100.0]);
///
/// let now = Duration::from_millis(1000);
/// let actions = array![[250.0, 250.0], [260.0, 240.0]];
/// let plan = Trajectory::uniform(now, Duration::from_millis(100), actions, Interpolation::Hold)?;
/// let candidate = Candidate {
///     trajectory: &plan,
///     now,
///     observed_at: Some(Duration::from_millis(900)),
///     position: Some(&[240.0, 250.0]),
/// };
/// let verified = safety.check(&candidate)?;
/// assert_eq!(verified.applied.to_string(), "finite, age, start, position");
/// assert_eq!(verified.inapplicable.to_string(), "velocity, acceleration, jerk, workspace");
///
/// let stale = Candidate { now: Duration::from_millis(1200), ..candidate };
/// assert_eq!(
///     safety.check(&stale).expect_err("300 ms").to_string(),
///     "the observation is 300ms old, its limit is 200ms",
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Safety {
    dof: usize,
    required: Checks,
    limits: Option<Limits>,
    workspace: Option<Workspace>,
    surroundings: Option<Surroundings>,
    max_age: Option<Duration>,
    max_jump: Option<Vec<f64>>,
}

/// The most balls of a body whose commands are judged: their centres lie on the stack.
const MOST_BALLS: usize = 64;

/// What stands around a robot.
#[derive(Debug, Clone)]
struct Surroundings {
    body: Arc<dyn Body>,
    scene: Arc<Scene>,
    margin: f64,
    /// Positions have limits of their own.
    unlimited: Limits,
}

/// Scenes are not compared obstacle by obstacle: the same one is equal.
impl PartialEq for Surroundings {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.body, &other.body)
            && Arc::ptr_eq(&self.scene, &other.scene)
            && self.margin.total_cmp(&other.margin).is_eq()
    }
}

impl Surroundings {
    fn free(&self) -> Result<FreeSpace<'_>, Blocked> {
        let free = FreeSpace::new(&*self.body, &self.scene, &self.unlimited)?;
        Ok(free.with_margin(self.margin))
    }

    /// The least clearance of a ball at `q`, and whose it is; without allocating.
    fn nearest(&self, q: &[f64]) -> Option<(usize, f64)> {
        let radii = self.body.radii();
        let mut centers = [Vector3::zeros(); MOST_BALLS];
        let centers = centers.get_mut(..radii.len())?;
        self.body.place(q, centers);
        let clearance = |i: usize| self.scene.distance(&centers[i]) - radii[i] - self.margin;
        // NaN counts as the least: it is refused.
        let clearances = (0..radii.len()).map(|i| (i, clearance(i)));
        clearances.reduce(|a, b| if b.1 >= a.1 { a } else { b })
    }
}

/// A plan that would like to be followed, and what it is to be judged by.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// The plan.
    pub trajectory: &'a Trajectory,
    /// The robot's clock, on which the trajectory's times are too.
    pub now: Duration,
    /// When what it was planned from was observed, on the same clock.
    pub observed_at: Option<Duration>,
    /// Where the robot is, one entry a coordinate.
    pub position: Option<&'a [f64]>,
}

/// What [`Safety::check`] did with a plan that passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub struct Verified {
    /// What was checked, and holds.
    pub applied: Checks,
    /// What was waived as not applying in this space, and was not checked.
    pub inapplicable: Checks,
}

impl Safety {
    /// Requires every check of trajectories in `space`.
    pub fn new(space: &Space) -> Self {
        Self {
            dof: space.dof(),
            required: Checks::all(),
            limits: None,
            workspace: None,
            surroundings: None,
            max_age: None,
            max_jump: None,
        }
    }

    /// Requires nothing but finiteness of trajectories of `dof` coordinates; what data is given for is applied.
    pub fn lenient(dof: usize) -> Self {
        Self {
            dof,
            required: [Check::Finite].into_iter().collect(),
            limits: None,
            workspace: None,
            surroundings: None,
            max_age: None,
            max_jump: None,
        }
    }

    /// Waives checks that do not apply; [`Check::Finite`] cannot be waived.
    #[must_use]
    pub fn without(mut self, checks: impl IntoIterator<Item = Check>) -> Self {
        let waived: Checks = checks.into_iter().collect();
        let kept = |check: &Check| *check == Check::Finite || !waived.contains(*check);
        self.required = self.required.iter().filter(kept).collect();
        self
    }

    /// Bounds positions and their derivatives, as [`Limits::check`] judges them.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Bounds the way, as [`Workspace::check`] sweeps it.
    #[must_use]
    pub fn with_workspace(mut self, workspace: Workspace) -> Self {
        self.workspace = Some(workspace);
        self
    }

    /// Keeps `body` at least `margin` (m) from every obstacle of `scene`: plans by a sweep, [`FreeSpace::check_trajectory`],
    /// and each command by the clearance at its position.
    ///
    /// It is data for [`Check::Workspace`]: with a workspace and a scene, both are judged. A margin that is not finite refuses
    /// everything, and so does a body of more than 64 balls, whose commands would take memory.
    #[must_use]
    pub fn with_scene(mut self, body: Arc<dyn Body>, scene: Arc<Scene>, margin: f64) -> Self {
        self.surroundings = Some(Surroundings {
            unlimited: Limits::unlimited(body.dof()),
            body,
            scene,
            margin,
        });
        self
    }

    /// The oldest observation that a plan may be made from.
    #[must_use]
    pub fn with_max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// How far from the robot a plan may begin, per coordinate.
    ///
    /// A maximum that is negative or NaN, or of other dimensions, refuses everything.
    #[must_use]
    pub fn with_max_jump(mut self, maximum: &[f64]) -> Self {
        self.max_jump = Some(maximum.to_vec());
        self
    }

    /// The number of coordinates.
    pub fn dof(&self) -> usize {
        self.dof
    }

    /// The bounds of positions and their derivatives.
    pub fn limits(&self) -> Option<&Limits> {
        self.limits.as_ref()
    }

    /// What is required: everything but what was waived.
    pub fn required(&self) -> Checks {
        self.required
    }

    /// What there is data for, hence what is applied.
    pub fn applied(&self) -> Checks {
        let bounds = |of: fn(&Limits) -> &[f64]| {
            let limits = self.limits.as_ref();
            limits.is_some_and(|limits| of(limits).iter().any(|bound| bound.is_finite()))
        };
        let has_data = |check: &Check| match check {
            Check::Finite => true,
            Check::Age => self.max_age.is_some(),
            Check::Start => self.max_jump.is_some(),
            Check::Position => bounds(Limits::lower) || bounds(Limits::upper),
            Check::Velocity => bounds(Limits::velocity),
            Check::Acceleration => bounds(Limits::acceleration),
            Check::Jerk => bounds(Limits::jerk),
            Check::Workspace => self.workspace.is_some() || self.surroundings.is_some(),
        };
        Check::ALL.into_iter().filter(has_data).collect()
    }

    /// Whether a robot may follow `candidate`.
    ///
    /// The start is judged where the trajectory is at `now`: at its first waypoint, if that is still to come.
    ///
    /// # Errors
    ///
    /// The first of [`Safety::faults`].
    pub fn check(&self, candidate: &Candidate<'_>) -> Result<Verified, Unsafe> {
        if let Some(fault) = self.faults(candidate).into_iter().next() {
            return Err(fault);
        }
        let applied = self.applied();
        Ok(Verified {
            applied,
            inapplicable: applied.complement(),
        })
    }

    /// All that speaks against `candidate`: first what concerns it as a whole, then what it does, in the order of time.
    ///
    /// Of each limit and coordinate the first excess is listed, and of the workspace the first departure. If there is
    /// nothing to judge, because data is missing, dimensions differ or no waypoint is there, that is all.
    pub fn faults(&self, candidate: &Candidate<'_>) -> Vec<Unsafe> {
        if let Err(fault) = self.comparable(candidate) {
            return vec![fault];
        }
        let mut faults: Vec<Unsafe> = Vec::new();
        faults.extend(self.age(candidate).err());
        faults.extend(self.start(candidate).err());
        let mut moves: Vec<Unsafe> = Vec::new();
        // Without limits too: a curve whose polynomials overflow is within none.
        let unlimited;
        let limits = if let Some(limits) = &self.limits {
            limits
        } else {
            unlimited = Limits::unlimited(self.dof);
            &unlimited
        };
        let violations = limits.violations(candidate.trajectory);
        moves.extend(violations.into_iter().map(Unsafe::Limits));
        if let Some(workspace) = &self.workspace {
            let departure = workspace.check(candidate.trajectory).err();
            moves.extend(departure.map(Unsafe::Workspace));
        }
        if let Some(surroundings) = &self.surroundings {
            let swept = surroundings.free();
            let swept = swept.and_then(|free| free.check_trajectory(candidate.trajectory));
            moves.extend(swept.err().map(Unsafe::Scene));
            if surroundings.body.radii().len() > MOST_BALLS {
                moves.push(Unsafe::Balls {
                    found: surroundings.body.radii().len(),
                    limit: MOST_BALLS,
                });
            }
        }
        // Stable: limits come before the workspace.
        moves.sort_by_key(Unsafe::time);
        faults.extend(moves);
        faults
    }

    /// Whether everything is there, of the right dimensions.
    fn comparable(&self, candidate: &Candidate<'_>) -> Result<(), Unsafe> {
        let applied = self.applied();
        let missing = |check: Check| {
            let required = self.required.contains(check);
            let given = match check {
                Check::Age => candidate.observed_at.is_some(),
                Check::Start => candidate.position.is_some(),
                _ => true,
            };
            // What was configured needs its side of the comparison too.
            (required && !applied.contains(check)) || (applied.contains(check) && !given)
        };
        if let Some(check) = Check::ALL.into_iter().find(|&check| missing(check)) {
            return Err(Unsafe::Missing { check });
        }
        let dimensions = [
            ("trajectory", Some(candidate.trajectory.dof())),
            ("position", candidate.position.map(<[f64]>::len)),
            ("limits", self.limits.as_ref().map(Limits::dof)),
            (
                "workspace",
                self.workspace.as_ref().map(|w| w.region().dof()),
            ),
            ("body", self.surroundings.as_ref().map(|it| it.body.dof())),
            ("largest jump", self.max_jump.as_ref().map(Vec::len)),
        ];
        for (what, found) in dimensions {
            if let Some(found) = found.filter(|&found| found != self.dof) {
                return Err(Unsafe::Dimensions {
                    what,
                    expected: self.dof,
                    found,
                });
            }
        }
        if candidate.trajectory.is_empty() {
            return Err(Unsafe::Empty);
        }
        Ok(())
    }

    fn age(&self, candidate: &Candidate<'_>) -> Result<(), Unsafe> {
        let (Some(limit), Some(observed_at)) = (self.max_age, candidate.observed_at) else {
            return Ok(());
        };
        let now = candidate.now;
        match now.checked_sub(observed_at) {
            None => Err(Unsafe::Clock { now, observed_at }),
            Some(age) if age > limit => Err(Unsafe::Age { age, limit }),
            Some(_) => Ok(()),
        }
    }

    fn start(&self, candidate: &Candidate<'_>) -> Result<(), Unsafe> {
        let (Some(maximum), Some(position)) = (&self.max_jump, candidate.position) else {
            return Ok(());
        };
        let now = candidate.now;
        let state = candidate.trajectory.sample(now).ok_or(Unsafe::Empty)?;
        for (coordinate, (&limit, &robot)) in maximum.iter().zip(position).enumerate() {
            let plan = state.position[coordinate];
            // A comparison with NaN is false.
            let near = (plan - robot).abs() <= limit;
            if !near {
                return Err(Unsafe::Start {
                    coordinate,
                    time: now,
                    plan,
                    robot,
                    limit,
                });
            }
        }
        Ok(())
    }

    /// Whether one command may be sent, after `previous` and `elapsed` later: for the loop, it neither allocates nor waits.
    ///
    /// ```text
    /// every number is finite
    /// lower ≤ q ≤ upper,   |v| ≤ velocity,   |a| ≤ acceleration,   q in the workspace and clear of the scene
    /// |q − q_previous| ≤ velocity · elapsed      what the limit of the speed lets it move
    /// ```
    ///
    /// Each of them as far as there is data, and up to rounding: a billionth of a limit.
    /// Jerks and ages belong to plans, and so does the way between two commands: [`Safety::check`].
    /// A held command jumps; `elapsed` is then the time since `previous` was first sent, the period of the actions.
    ///
    /// # Errors
    ///
    /// The first [`Refusal`], which is `Copy`, and so is the result.
    pub fn check_command(
        &self,
        command: &State,
        previous: &State,
        elapsed: Duration,
    ) -> Result<(), Refusal> {
        let applied = self.applied();
        let judged = [
            Check::Position,
            Check::Velocity,
            Check::Acceleration,
            Check::Workspace,
        ];
        for check in judged {
            if self.required.contains(check) && !applied.contains(check) {
                return Err(Refusal::Missing { check });
            }
        }
        self.command_dimensions(command, previous)?;
        for (quantity, values) in [
            (Quantity::Position, &command.position),
            (Quantity::Velocity, &command.velocity),
            (Quantity::Acceleration, &command.acceleration),
            (Quantity::Position, &previous.position),
        ] {
            for (coordinate, &value) in values.iter().enumerate() {
                if !value.is_finite() {
                    return Err(Refusal::NonFinite {
                        quantity,
                        coordinate,
                        value,
                    });
                }
            }
        }
        for j in 0..self.dof {
            let q = command.position[j];
            if let Some(limits) = &self.limits {
                let (v, a) = (command.velocity[j], command.acceleration[j]);
                within(Bound::Lower, j, q, limits.lower()[j])?;
                within(Bound::Upper, j, q, limits.upper()[j])?;
                within(Bound::Velocity, j, v, limits.velocity()[j])?;
                within(Bound::Acceleration, j, a, limits.acceleration()[j])?;
            }
            let before = previous.position[j];
            let rounding = ROUNDING * (q.abs() + before.abs());
            // Unlimited is infinite, and infinity times no time would be NaN.
            let reach = match &self.limits {
                Some(limits) if limits.velocity()[j].is_finite() => {
                    limits.velocity()[j] * elapsed.as_secs_f64() + rounding
                }
                _ => f64::INFINITY,
            };
            let near = (q - before).abs() <= reach;
            if !near {
                return Err(Refusal::Step {
                    coordinate: j,
                    value: q - before,
                    limit: reach,
                });
            }
        }
        if let Some(workspace) = &self.workspace {
            let clearance = workspace.region().clearance(command.position.as_slice());
            let inside = clearance >= 0.0;
            if !inside {
                return Err(Refusal::Workspace { clearance });
            }
        }
        if let Some(surroundings) = &self.surroundings {
            let nearest = surroundings.nearest(command.position.as_slice());
            let (ball, clearance) = nearest.unwrap_or((MOST_BALLS, f64::NAN));
            // A body without balls touches nothing.
            let clear = clearance >= 0.0 || surroundings.body.radii().is_empty();
            if !clear {
                return Err(Refusal::Scene { ball, clearance });
            }
        }
        Ok(())
    }

    fn command_dimensions(&self, command: &State, previous: &State) -> Result<(), Refusal> {
        for found in [
            command.position.len(),
            command.velocity.len(),
            command.acceleration.len(),
            previous.position.len(),
            self.limits.as_ref().map_or(self.dof, Limits::dof),
            self.workspace
                .as_ref()
                .map_or(self.dof, |w| w.region().dof()),
            self.surroundings
                .as_ref()
                .map_or(self.dof, |it| it.body.dof()),
        ] {
            if found != self.dof {
                return Err(Refusal::Dimensions {
                    expected: self.dof,
                    found,
                });
            }
        }
        Ok(())
    }
}

/// What evaluating a polynomial may differ from its extreme by, as a share of the limit.
const ROUNDING: f64 = 1e-9;

fn within(bound: Bound, coordinate: usize, value: f64, limit: f64) -> Result<(), Refusal> {
    // The plan was judged by the extremes of its polynomials; a value of one is that up to rounding.
    let rounding = ROUNDING * limit.abs();
    let within = match bound {
        Bound::Lower => value >= limit - rounding,
        Bound::Upper => value <= limit + rounding,
        Bound::Velocity | Bound::Acceleration | Bound::Jerk => value.abs() <= limit + rounding,
    };
    // An unlimited bound has no rounding; infinity minus infinity is no number.
    if within || limit.is_infinite() {
        Ok(())
    } else {
        Err(Refusal::Exceeded {
            bound,
            coordinate,
            value,
            limit,
        })
    }
}

/// Why a robot may not follow a [`Candidate`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsafe {
    /// A check that is required, and nothing to check by.
    #[error("the {check} check is required, and there is nothing to check by")]
    Missing {
        /// Which one.
        check: Check,
    },
    /// Other dimensions than the space has: nothing was judged, so nothing is allowed.
    #[error("the space has {expected} coordinates, the {what} has {found}")]
    Dimensions {
        /// What differs.
        what: &'static str,
        /// Coordinates of the space.
        expected: usize,
        /// Coordinates of what differs.
        found: usize,
    },
    /// A trajectory without waypoints.
    #[error("the trajectory has no waypoint")]
    Empty,
    /// What the plan was made from is too old.
    #[error("the observation is {age:?} old, its limit is {limit:?}")]
    Age {
        /// How old it is.
        age: Duration,
        /// How old it may be.
        limit: Duration,
    },
    /// The observation is from the future: one of the clocks is wrong, and its age is unknown.
    #[error(
        "the observation was made at {observed_at:?}, and now it is {now:?}: the clock went backwards"
    )]
    Clock {
        /// The clock now.
        now: Duration,
        /// The clock at the observation.
        observed_at: Duration,
    },
    /// The plan does not begin where the robot is.
    #[error(
        "coordinate {coordinate} of the plan is {plan} at {time:?}, the robot's is {robot}: farther than {limit}"
    )]
    Start {
        /// Which coordinate.
        coordinate: usize,
        /// When the plan would take over.
        time: Duration,
        /// Where the plan is then.
        plan: f64,
        /// Where the robot is.
        robot: f64,
        /// How far apart the two may be.
        limit: f64,
    },
    /// The plan is beyond a limit, or not finite between its waypoints.
    #[error(transparent)]
    Limits(Violation),
    /// The plan leaves the workspace.
    #[error(transparent)]
    Workspace(Departure),
    /// The plan touches an obstacle, or comes nearer than the margin; the sweep says where and not when.
    #[error(transparent)]
    Scene(Blocked),
    /// A body with too many balls to judge each command by.
    #[error("the body has {found} balls, and commands are judged by at most {limit}")]
    Balls {
        /// How many it has.
        found: usize,
        /// The most.
        limit: usize,
    },
}

impl Unsafe {
    /// When the trajectory does it; zero for what concerns it as a whole.
    pub fn time(&self) -> Duration {
        match self {
            Self::Limits(violation) => violation.time(),
            Self::Workspace(departure) => departure.time(),
            Self::Start { time, .. } => *time,
            _ => Duration::ZERO,
        }
    }

    /// The check that failed; none if there was nothing to compare.
    pub fn check(&self) -> Option<Check> {
        match self {
            Self::Missing { check } => Some(*check),
            Self::Dimensions { .. }
            | Self::Empty
            | Self::Limits(Violation::Dimensions { .. })
            | Self::Workspace(Departure::Dimensions { .. })
            | Self::Balls { .. }
            | Self::Scene(Blocked::Dimensions { .. }) => None,
            Self::Age { .. } | Self::Clock { .. } => Some(Check::Age),
            Self::Start { .. } => Some(Check::Start),
            Self::Limits(Violation::Exceeded { value, .. }) if !value.is_finite() => {
                Some(Check::Finite)
            }
            Self::Limits(Violation::Exceeded { bound, .. }) => Some(match bound {
                Bound::Lower | Bound::Upper => Check::Position,
                Bound::Velocity => Check::Velocity,
                Bound::Acceleration => Check::Acceleration,
                Bound::Jerk => Check::Jerk,
            }),
            Self::Workspace(Departure::Left { .. }) | Self::Scene(_) => Some(Check::Workspace),
        }
    }

    /// By how much, in the unit of the value (seconds for an age); infinite if there was nothing to compare.
    pub fn excess(&self) -> f64 {
        match self {
            Self::Missing { .. } | Self::Dimensions { .. } | Self::Empty | Self::Balls { .. } => {
                f64::INFINITY
            }
            Self::Scene(blocked) => blocked.excess(),
            Self::Age { age, limit } => age.saturating_sub(*limit).as_secs_f64(),
            Self::Clock { now, observed_at } => observed_at.saturating_sub(*now).as_secs_f64(),
            Self::Start {
                plan, robot, limit, ..
            } => (plan - robot).abs() - limit,
            Self::Limits(violation) => violation.excess(),
            Self::Workspace(departure) => departure.excess(),
        }
    }
}

/// Why one command may not be sent.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A check that is required, and nothing to check by.
    #[error("the {check} check is required, and there is nothing to check by")]
    Missing {
        /// Which one.
        check: Check,
    },
    /// Other dimensions than the space has.
    #[error("the space has {expected} coordinates, not {found}")]
    Dimensions {
        /// Coordinates of the space.
        expected: usize,
        /// Coordinates of the command, the one before, or what they are judged by.
        found: usize,
    },
    /// A NaN or an infinity, in the command or in the position before.
    #[error("{quantity} of coordinate {coordinate} is {value}")]
    NonFinite {
        /// Which values.
        quantity: Quantity,
        /// Which coordinate.
        coordinate: usize,
        /// NaN, or an infinity.
        value: f64,
    },
    /// A value beyond its limit.
    #[error("{bound} of coordinate {coordinate} is {value}, beyond its limit {limit}")]
    Exceeded {
        /// Which bound.
        bound: Bound,
        /// Which coordinate.
        coordinate: usize,
        /// The value, with its sign.
        value: f64,
        /// The bound that it is beyond.
        limit: f64,
    },
    /// Too far from the command before.
    #[error("coordinate {coordinate} steps by {value}, beyond {limit}")]
    Step {
        /// Which coordinate.
        coordinate: usize,
        /// The step, with its sign.
        value: f64,
        /// How far it may step.
        limit: f64,
    },
    /// A position outside of the workspace.
    #[error("the position is outside of the workspace, its clearance is {clearance}")]
    Workspace {
        /// Negative, or NaN.
        clearance: f64,
    },
    /// A position at which a ball of the body is in an obstacle, or nearer than the margin.
    #[error("the clearance of ball {ball} at the position is {clearance} m")]
    Scene {
        /// Its place in the body.
        ball: usize,
        /// Negative, or NaN.
        clearance: f64,
    },
}

impl Refusal {
    /// By how much, in the unit of the value; infinite if there was nothing to compare.
    pub fn excess(&self) -> f64 {
        match *self {
            Self::Missing { .. } | Self::Dimensions { .. } | Self::NonFinite { .. } => {
                f64::INFINITY
            }
            Self::Exceeded {
                bound,
                value,
                limit,
                ..
            } => match bound {
                Bound::Lower => limit - value,
                Bound::Upper => value - limit,
                Bound::Velocity | Bound::Acceleration | Bound::Jerk => value.abs() - limit,
            },
            Self::Step { value, limit, .. } => value.abs() - limit,
            Self::Workspace { clearance } | Self::Scene { clearance, .. } => -clearance,
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};
    use proptest::prelude::*;

    use super::*;
    use crate::interpolation::Interpolation;
    use crate::space::Unit;
    use crate::trajectory::tests::{ms, valid};
    use crate::workspace::Region;

    fn line() -> Space {
        Space::new([("x", Unit::Metre)]).expect("one name")
    }

    fn limits() -> Limits {
        Limits::unlimited(1)
            .with_position(&[-1.0], &[1.0])
            .and_then(|limits| limits.with_velocity(&[2.0]))
            .and_then(|limits| limits.with_acceleration(&[50.0]))
            .and_then(|limits| limits.with_jerk(&[5e3]))
            .expect("they are numbers")
    }

    fn workspace() -> Workspace {
        let region = Region::cuboid(&line(), &["x"], &[-0.9], &[0.9]).expect("an interval");
        Workspace::new(region, 1e-4).expect("a resolution")
    }

    fn full() -> Safety {
        Safety::new(&line())
            .with_limits(limits())
            .with_workspace(workspace())
            .with_max_age(ms(50))
            .with_max_jump(&[0.05])
    }

    fn slow() -> Trajectory {
        valid(
            &[100, 200, 300],
            array![[0.0], [0.05], [0.1]],
            Interpolation::Cubic,
        )
    }

    fn candidate(trajectory: &Trajectory) -> Candidate<'_> {
        Candidate {
            trajectory,
            now: ms(90),
            observed_at: Some(ms(60)),
            position: Some(&[0.01]),
        }
    }

    #[test]
    fn plans_and_commands_clear_the_scene_that_is_given() {
        use crate::body::Translating;
        use crate::scene::Obstacle;
        let disc = Obstacle::disc([0.5, 0.0], 0.1).expect("a disc");
        let scene = Arc::new(Scene::new().with(disc));
        let body: Arc<dyn Body> = Arc::new(Translating::disc(0.1).expect("a disc"));
        let space = Space::new([("x", crate::Unit::Metre), ("y", crate::Unit::Metre)]);
        let waived = [
            Check::Age,
            Check::Start,
            Check::Position,
            Check::Velocity,
            Check::Acceleration,
            Check::Jerk,
        ];
        let bare = Safety::new(&space.expect("two names")).without(waived);
        let safety = bare.clone().with_scene(body.clone(), scene.clone(), 0.05);
        assert_eq!(safety, safety.clone());
        let second = Duration::from_secs(1);
        let plan = |y: f64| {
            let rows = ndarray::array![[0.0, y], [1.0, y]];
            Trajectory::uniform(Duration::ZERO, second, rows, crate::Interpolation::Linear)
                .expect("finite")
        };
        let judge = |safety: &Safety, y: f64| {
            let trajectory = &plan(y);
            let now = Duration::ZERO;
            let candidate = Candidate {
                trajectory,
                now,
                observed_at: None,
                position: None,
            };
            safety.check(&candidate)
        };
        // A scene is data for the workspace's check; without either it is missing.
        let missing = judge(&bare, 1.0).expect_err("nothing to check by");
        assert_eq!(missing.check(), Some(Check::Workspace));
        let verified = judge(&safety, 0.26).expect("a centimetre more than 0.25 is needed");
        assert!(verified.applied.contains(Check::Workspace));
        let touches = judge(&safety, 0.24).expect_err("a centimetre less");
        assert_eq!(touches.check(), Some(Check::Workspace));
        assert!((0.0..0.011).contains(&touches.excess()), "{touches}");
        let strict = bare.with_scene(body, scene, f64::NAN);
        assert!(judge(&strict, 5.0).is_err());

        let at = |x: f64, y: f64| {
            plan(y)
                .sample(Duration::from_secs_f64(x))
                .expect("it has waypoints")
        };
        let command =
            |safety: &Safety, x: f64, y: f64| safety.check_command(&at(x, y), &at(x, y), second);
        assert_eq!(command(&safety, 0.5, 0.26), Ok(()));
        let refused = command(&safety, 0.5, 0.24).expect_err("too near");
        assert!(
            matches!(refused, Refusal::Scene { ball: 0, clearance } if (clearance + 0.01).abs() < 1e-9)
        );
        assert!(command(&strict, 0.5, 5.0).is_err());
    }

    #[test]
    fn what_was_checked_is_listed() {
        let verified = full().check(&candidate(&slow())).expect("nothing is wrong");
        assert_eq!(verified.applied, Checks::all());
        assert_eq!(verified.inapplicable, Checks::default());
        let less = Safety::new(&line()).without(Check::ALL);
        let verified = less
            .check(&candidate(&slow()))
            .expect("nothing is required");
        assert_eq!(verified.applied.to_string(), "finite");
        assert_eq!(verified.inapplicable.iter().count(), 7);
    }

    #[test]
    fn a_check_without_data_refuses() {
        let path = slow();
        let all = candidate(&path);
        let missing = |safety: &Safety, candidate: &Candidate<'_>| match safety
            .check(candidate)
            .expect_err("something is missing")
        {
            Unsafe::Missing { check } => check,
            other => panic!("{other}"),
        };
        assert_eq!(missing(&Safety::new(&line()), &all), Check::Age);
        let without = |checks: &[Check]| Safety::new(&line()).without(checks.iter().copied());
        for check in Check::ALL
            .into_iter()
            .filter(|&check| check != Check::Finite)
        {
            let others = Check::ALL.into_iter().filter(|&other| other != check);
            assert_eq!(missing(&without(&others.collect::<Vec<_>>()), &all), check);
        }
        // Limits without a bound of the jerk do not serve for it.
        let unbounded = Limits::unlimited(1)
            .with_velocity(&[1.0])
            .expect("a number");
        let jerk = without(&[
            Check::Age,
            Check::Start,
            Check::Position,
            Check::Acceleration,
        ])
        .with_limits(unbounded)
        .with_workspace(workspace());
        assert_eq!(missing(&jerk, &all), Check::Jerk);
        // And neither does a limit serve without what it limits.
        let unseen = Candidate {
            observed_at: None,
            ..all
        };
        assert_eq!(missing(&full(), &unseen), Check::Age);
        let lost = Candidate {
            position: None,
            ..all
        };
        assert_eq!(missing(&full(), &lost), Check::Start);
        assert_eq!(
            full().check(&lost).expect_err("no position").to_string(),
            "the start check is required, and there is nothing to check by"
        );
    }

    #[test]
    fn old_early_far_and_empty_plans_are_refused() {
        let path = slow();
        let all = candidate(&path);
        let fault = |candidate: &Candidate<'_>| full().check(candidate).expect_err("it is unsafe");
        let stale = fault(&Candidate {
            now: ms(120),
            ..all
        });
        assert_eq!(
            stale,
            Unsafe::Age {
                age: ms(60),
                limit: ms(50)
            }
        );
        approx::assert_relative_eq!(stale.excess(), 0.01);
        let future = fault(&Candidate { now: ms(59), ..all });
        assert_eq!((future.check(), future.excess()), (Some(Check::Age), 0.001));
        let far = fault(&Candidate {
            position: Some(&[0.2]),
            ..all
        });
        assert_eq!(
            far.to_string(),
            "coordinate 0 of the plan is 0 at 90ms, the robot's is 0.2: farther than 0.05"
        );
        approx::assert_relative_eq!(far.excess(), 0.15);
        assert!(matches!(
            fault(&Candidate {
                position: Some(&[f64::NAN]),
                ..all
            }),
            Unsafe::Start { .. }
        ));
        // Half a way through it is the plan at `now` that counts.
        let later = Candidate {
            now: ms(300),
            observed_at: Some(ms(290)),
            position: Some(&[0.1]),
            ..all
        };
        assert!(full().check(&later).is_ok());
        let empty = Trajectory::empty(1).expect("a coordinate");
        assert_eq!(fault(&candidate(&empty)), Unsafe::Empty);
        let other = Trajectory::empty(2).expect("two coordinates");
        assert_eq!(
            fault(&candidate(&other)).to_string(),
            "the space has 1 coordinates, the trajectory has 2"
        );
        let nan = full().with_max_jump(&[f64::NAN]);
        assert!(nan.check(&all).is_err());
        let wide = full().with_max_jump(&[1.0, 1.0]);
        assert!(matches!(wide.check(&all), Err(Unsafe::Dimensions { .. })));
    }

    #[test]
    fn faults_are_in_the_order_of_time() {
        let wild = valid(
            &[0, 1000, 2000, 2100],
            array![[0.0], [0.95], [0.0], [0.8]],
            Interpolation::Linear,
        );
        let all = Candidate {
            now: ms(0),
            observed_at: Some(ms(0)),
            position: Some(&[0.5]),
            ..candidate(&wild)
        };
        let faults = full().faults(&all);
        let found: Vec<_> = faults
            .iter()
            .map(|fault| (fault.check(), fault.time().as_millis()))
            .collect();
        assert_eq!(found[0], (Some(Check::Start), 0));
        // 0.9 of 0.95 is reached at 947 ms; the last segment goes at 8 m/s.
        assert_eq!(found[1], (Some(Check::Workspace), 947));
        assert_eq!(found[2], (Some(Check::Velocity), 2000));
        assert!(
            faults[1..]
                .windows(2)
                .all(|pair| pair[0].time() <= pair[1].time())
        );
        assert!(faults.iter().all(|fault| fault.excess() > 0.0));
        assert_eq!(full().check(&all).as_ref(), Err(&faults[0]));
    }

    #[test]
    fn a_curve_that_overflows_between_its_waypoints_is_refused() {
        // Finite waypoints and derivatives; 10 Δ is not.
        let huge = valid(
            &[0, 1000],
            array![[-4e307], [4e307]],
            Interpolation::Quintic,
        );
        let safety = Safety::new(&line()).without(Check::ALL);
        let fault = safety.check(&candidate(&huge)).expect_err("it overflows");
        assert_eq!(fault.check(), Some(Check::Finite));
    }

    fn at(q: f64, v: f64, a: f64) -> State {
        let mut state = State::zeros(1);
        (state.position[0], state.velocity[0], state.acceleration[0]) = (q, v, a);
        state
    }

    #[test]
    fn a_command_is_judged_by_itself_and_by_the_one_before() {
        let safety = full();
        let judge = |command: State| safety.check_command(&command, &at(0.5, 0.0, 0.0), ms(10));
        assert_eq!(judge(at(0.52, 2.0, -50.0)), Ok(()));
        for (command, message) in [
            (at(f64::NAN, 0.0, 0.0), "position of coordinate 0 is NaN"),
            (
                at(0.5, f64::INFINITY, 0.0),
                "velocity of coordinate 0 is inf",
            ),
            (
                at(0.5, 0.0, f64::NAN),
                "acceleration of coordinate 0 is NaN",
            ),
            (
                at(1.5, 0.0, 0.0),
                "position of coordinate 0 is 1.5, beyond its limit 1",
            ),
            (
                at(-1.5, 0.0, 0.0),
                "position of coordinate 0 is -1.5, beyond its limit -1",
            ),
            (
                at(0.5, -2.5, 0.0),
                "velocity of coordinate 0 is -2.5, beyond its limit 2",
            ),
            (
                at(0.5, 0.0, 51.0),
                "acceleration of coordinate 0 is 51, beyond its limit 50",
            ),
        ] {
            let refusal = judge(command).expect_err("it is unsafe");
            assert_eq!(refusal.to_string(), message);
            assert!(refusal.excess() > 0.0);
        }
        assert!(matches!(
            judge(at(0.53, 0.0, 0.0)),
            Err(Refusal::Step { .. })
        ));
        // With more time it may; how far from the robot a plan begins is another question.
        let late = safety.check_command(&at(0.56, 0.0, 0.0), &at(0.5, 0.0, 0.0), ms(1000));
        assert_eq!(late, Ok(()));
        // At its limit it is at its limit, whatever a polynomial makes of that.
        let rounded = safety.check_command(&at(0.5, 2.0 + 1e-12, 0.0), &at(0.5, 2.0, 0.0), ms(10));
        assert_eq!(rounded, Ok(()));
        let outside = safety.check_command(&at(0.91, 0.0, 0.0), &at(0.9, 0.0, 0.0), ms(10));
        assert!(matches!(outside, Err(Refusal::Workspace { .. })));
        let wide = safety.check_command(&State::zeros(2), &State::zeros(2), ms(10));
        assert_eq!(
            wide,
            Err(Refusal::Dimensions {
                expected: 1,
                found: 2
            })
        );
        let nothing = Safety::new(&line());
        let refusal = nothing.check_command(&at(0.0, 0.0, 0.0), &at(0.0, 0.0, 0.0), ms(10));
        assert_eq!(
            refusal,
            Err(Refusal::Missing {
                check: Check::Position
            })
        );
    }

    proptest! {
        /// The two checks agree: what passes as a plan passes as commands.
        #[test]
        fn the_commands_of_a_verified_plan_are_not_refused(
            steps in prop::collection::vec(-0.04..0.04_f64, 2..8),
            period in 1_u64..20,
        ) {
            let mut now = 0.0;
            let positions = steps.iter().map(|step| { now += step; now }).collect();
            let positions = Array2::from_shape_vec((steps.len(), 1), positions).expect("a column");
            let plan = Trajectory::uniform(ms(100), ms(100), positions, Interpolation::Quintic)
                .expect("finite")
                .with_braking(&limits())
                .expect("it can stop");
            let start = [plan.positions()[[0, 0]]];
            let candidate = Candidate { position: Some(&start), ..candidate(&plan) };
            let verified = full().check(&candidate);
            prop_assume!(verified.is_ok());
            let mut previous = plan.sample(ms(100)).expect("waypoints");
            let end = plan.times()[plan.len() - 1] + ms(50);
            let mut t = ms(100);
            while t < end {
                t += ms(period);
                let command = plan.sample(t).expect("waypoints");
                prop_assert_eq!(full().check_command(&command, &previous, ms(period)), Ok(()));
                previous = command;
            }
        }
    }
}
