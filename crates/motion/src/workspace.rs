//! Where a robot may be: regions of positions, and trajectories that stay in them.

use std::fmt;
use std::time::Duration;

use crate::interpolation::Interpolation;
use crate::space::Space;
use crate::trajectory::Trajectory;

/// A set of positions, as a signed clearance: how far inside a position is, and negative outside.
///
/// ```text
/// cuboid         min over its coordinates of (q − lower, upper − q)
/// half space     offset − n · q,   |n| = 1
/// ball           radius − |q − center|
/// outside        −clearance of the region
/// union          the largest,      intersection   the smallest
/// ```
///
/// No clearance is larger than the distance to the boundary, and none changes faster than the position moves: that is
/// what the sweep of [`Workspace::check`] rests on.
/// Shapes are over coordinates that are named, such as `x` and `y` of a planar robot; the other coordinates are free.
/// The coordinates of a ball or a half space have one unit, in which the clearance is.
///
/// ```
/// use clearway_motion::{Region, Space, Unit};
///
/// let space = Space::new([("x", Unit::Metre), ("y", Unit::Metre), ("grip", Unit::Unitless)])?;
/// let table = Region::cuboid(&space, &["x", "y"], &[0.0, 0.0], &[1.0, 0.6])?;
/// let lamp = Region::ball(&space, &["x", "y"], &[0.5, 0.3], 0.1)?;
/// let free = Region::intersection([table, lamp.outside()])?;
/// assert!((free.clearance(&[0.5, 0.5, 9.0]) - 0.1).abs() < 1e-12);
/// assert!(free.clearance(&[0.5, 0.35, 9.0]) < 0.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Region {
    dof: usize,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Cuboid {
        axes: Vec<usize>,
        lower: Vec<f64>,
        upper: Vec<f64>,
    },
    HalfSpace {
        axes: Vec<usize>,
        normal: Vec<f64>,
        offset: f64,
    },
    Ball {
        axes: Vec<usize>,
        center: Vec<f64>,
        radius: f64,
    },
    Outside(Box<Kind>),
    Union(Vec<Kind>),
    Intersection(Vec<Kind>),
}

impl Region {
    /// Positions between `lower` and `upper` in each of the named coordinates, bounds included.
    ///
    /// # Errors
    ///
    /// [`RegionError`] if a name is unknown or repeated, there is not one entry a name, or an interval is empty or NaN.
    pub fn cuboid(
        space: &Space,
        names: &[&str],
        lower: &[f64],
        upper: &[f64],
    ) -> Result<Self, RegionError> {
        let axes = axes(space, names, lower.len())?;
        check_entries(names, upper.len())?;
        for (j, (&lower, &upper)) in lower.iter().zip(upper).enumerate() {
            let ordered = lower <= upper;
            if !ordered {
                return Err(RegionError::Interval {
                    name: names[j].to_owned(),
                    lower,
                    upper,
                });
            }
        }
        Ok(Self {
            dof: space.dof(),
            kind: Kind::Cuboid {
                axes,
                lower: lower.to_vec(),
                upper: upper.to_vec(),
            },
        })
    }

    /// Positions with `normal · q ≤ offset`, both in the scale of `normal`, which need not be of length one.
    ///
    /// # Errors
    ///
    /// [`RegionError`] if names or entries do not fit, units differ, a number is not finite or the normal is zero.
    pub fn half_space(
        space: &Space,
        names: &[&str],
        normal: &[f64],
        offset: f64,
    ) -> Result<Self, RegionError> {
        let axes = axes_of_one_unit(space, names, normal.len())?;
        check_finite(normal.iter().chain([&offset]))?;
        let length = length(normal.iter().copied());
        if !(length > 0.0 && length.is_finite()) {
            return Err(RegionError::Extent { value: length });
        }
        Ok(Self {
            dof: space.dof(),
            kind: Kind::HalfSpace {
                axes,
                normal: normal.iter().map(|n| n / length).collect(),
                offset: offset / length,
            },
        })
    }

    /// Positions within `radius` of `center`: a disc of two coordinates, a ball of three.
    ///
    /// # Errors
    ///
    /// [`RegionError`] if names or entries do not fit, units differ, a number is not finite or the radius is not positive.
    pub fn ball(
        space: &Space,
        names: &[&str],
        center: &[f64],
        radius: f64,
    ) -> Result<Self, RegionError> {
        let axes = axes_of_one_unit(space, names, center.len())?;
        check_finite(center.iter().chain([&radius]))?;
        if radius <= 0.0 {
            return Err(RegionError::Extent { value: radius });
        }
        Ok(Self {
            dof: space.dof(),
            kind: Kind::Ball {
                axes,
                center: center.to_vec(),
                radius,
            },
        })
    }

    /// What is not inside: an obstacle's free space.
    #[must_use]
    pub fn outside(self) -> Self {
        Self {
            dof: self.dof,
            kind: Kind::Outside(Box::new(self.kind)),
        }
    }

    /// Positions in at least one of the regions.
    ///
    /// # Errors
    ///
    /// [`RegionError::Parts`] if there is none, [`RegionError::Dimensions`] if they are of different spaces.
    pub fn union(regions: impl IntoIterator<Item = Self>) -> Result<Self, RegionError> {
        Self::parts(regions, Kind::Union)
    }

    /// Positions in all of the regions.
    ///
    /// # Errors
    ///
    /// [`RegionError::Parts`] if there is none, [`RegionError::Dimensions`] if they are of different spaces.
    pub fn intersection(regions: impl IntoIterator<Item = Self>) -> Result<Self, RegionError> {
        Self::parts(regions, Kind::Intersection)
    }

    fn parts(
        regions: impl IntoIterator<Item = Self>,
        kind: fn(Vec<Kind>) -> Kind,
    ) -> Result<Self, RegionError> {
        let regions: Vec<Self> = regions.into_iter().collect();
        let dof = regions.first().ok_or(RegionError::Parts)?.dof;
        if let Some(other) = regions.iter().find(|region| region.dof != dof) {
            return Err(RegionError::Dimensions {
                expected: dof,
                found: other.dof,
            });
        }
        Ok(Self {
            dof,
            kind: kind(regions.into_iter().map(|region| region.kind).collect()),
        })
    }

    /// The number of coordinates of its space.
    pub fn dof(&self) -> usize {
        self.dof
    }

    /// How far inside a position is; negative outside, and NaN for a NaN or a position of other dimensions.
    ///
    /// It does not allocate.
    pub fn clearance(&self, position: &[f64]) -> f64 {
        if position.len() == self.dof {
            self.kind.clearance(position).0
        } else {
            f64::NAN
        }
    }

    /// The shape that decides the clearance there.
    fn nearest(&self, position: &[f64]) -> Shape {
        self.kind.clearance(position).1
    }

    /// Which coordinates it is about.
    fn concerns(&self, coordinate: usize) -> bool {
        self.kind.concerns(coordinate)
    }
}

impl Kind {
    fn clearance(&self, q: &[f64]) -> (f64, Shape) {
        match self {
            Self::Cuboid { axes, lower, upper } => {
                let faces = axes.iter().zip(lower.iter().zip(upper));
                let least = faces
                    .map(|(&j, (lower, upper))| least(q[j] - lower, upper - q[j]))
                    .fold(f64::INFINITY, least);
                (least, Shape::Cuboid)
            }
            Self::HalfSpace {
                axes,
                normal,
                offset,
            } => {
                let along: f64 = axes.iter().zip(normal).map(|(&j, n)| n * q[j]).sum();
                (offset - along, Shape::HalfSpace)
            }
            Self::Ball {
                axes,
                center,
                radius,
            } => {
                let away = length(axes.iter().zip(center).map(|(&j, c)| q[j] - c));
                (radius - away, Shape::Ball)
            }
            Self::Outside(kind) => {
                let (clearance, shape) = kind.clearance(q);
                (-clearance, shape)
            }
            Self::Union(kinds) => decide(kinds, q, |one, other| one > other),
            Self::Intersection(kinds) => decide(kinds, q, |one, other| one < other),
        }
    }

    fn concerns(&self, coordinate: usize) -> bool {
        match self {
            Self::Cuboid { axes, .. } | Self::HalfSpace { axes, .. } | Self::Ball { axes, .. } => {
                axes.contains(&coordinate)
            }
            Self::Outside(kind) => kind.concerns(coordinate),
            Self::Union(kinds) | Self::Intersection(kinds) => {
                kinds.iter().any(|kind| kind.concerns(coordinate))
            }
        }
    }
}

/// The part that is `before` all others; a NaN wins, so that it cannot hide.
fn decide(kinds: &[Kind], q: &[f64], before: fn(f64, f64) -> bool) -> (f64, Shape) {
    let mut parts = kinds.iter().map(|kind| kind.clearance(q));
    let first = parts.next().unwrap_or((f64::NAN, Shape::Cuboid));
    parts.fold(first, |kept, part| {
        let replaces = part.0.is_nan() || before(part.0, kept.0);
        if replaces && !kept.0.is_nan() {
            part
        } else {
            kept
        }
    })
}

/// The smaller one; NaN if one is, unlike `f64::min`.
fn least(one: f64, other: f64) -> f64 {
    if other.is_nan() || other < one {
        other
    } else {
        one
    }
}

fn length(parts: impl Iterator<Item = f64>) -> f64 {
    parts.map(|part| part * part).sum::<f64>().sqrt()
}

fn axes(space: &Space, names: &[&str], entries: usize) -> Result<Vec<usize>, RegionError> {
    check_entries(names, entries)?;
    let mut axes = Vec::with_capacity(names.len());
    for &name in names {
        let known = space.index(name).filter(|axis| !axes.contains(axis));
        axes.push(known.ok_or_else(|| RegionError::Name {
            name: name.to_owned(),
        })?);
    }
    Ok(axes)
}

fn axes_of_one_unit(
    space: &Space,
    names: &[&str],
    entries: usize,
) -> Result<Vec<usize>, RegionError> {
    let axes = axes(space, names, entries)?;
    let unit = |axis: usize| space.coordinates()[axis].unit;
    match axes.iter().find(|&&axis| unit(axis) != unit(axes[0])) {
        None => Ok(axes),
        Some(&axis) => Err(RegionError::Units {
            first: names[0].to_owned(),
            second: space.coordinates()[axis].name.clone(),
        }),
    }
}

fn check_entries(names: &[&str], found: usize) -> Result<(), RegionError> {
    if names.is_empty() || names.len() != found {
        return Err(RegionError::Entries {
            names: names.len(),
            found,
        });
    }
    Ok(())
}

fn check_finite<'a>(values: impl IntoIterator<Item = &'a f64>) -> Result<(), RegionError> {
    match values.into_iter().find(|value| !value.is_finite()) {
        None => Ok(()),
        Some(&value) => Err(RegionError::Extent { value }),
    }
}

/// A region that trajectories may not leave, and how closely its boundary is resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Workspace {
    region: Region,
    resolution: f64,
}

impl Workspace {
    /// A region, swept at `resolution`, in the unit of its clearance: such as 1e-4 m.
    ///
    /// The cost of a sweep along the boundary is its length over the resolution; away from it there is next to none.
    ///
    /// # Errors
    ///
    /// [`RegionError::Extent`] if the resolution is not a positive number.
    pub fn new(region: Region, resolution: f64) -> Result<Self, RegionError> {
        if resolution > 0.0 && resolution.is_finite() {
            Ok(Self { region, resolution })
        } else {
            Err(RegionError::Extent { value: resolution })
        }
    }

    /// The region.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// How closely a moving trajectory may come to the boundary.
    pub fn resolution(&self) -> f64 {
        self.resolution
    }

    /// Whether `trajectory` stays inside, between its waypoints too.
    ///
    /// **A trajectory that leaves is always refused; one that keeps the resolution clear always passes.** Between the two
    /// it may be refused, with a clearance that is not negative. A waypoint exactly on the boundary is inside.
    /// A segment is halved until the clearance in the middle of each piece exceeds what the position can move in half of
    /// it, by the largest speeds in the segment.
    /// Between held commands the straight way is swept: what follows them has to move somewhere.
    ///
    /// # Errors
    ///
    /// The [`Departure`] that comes first in time.
    pub fn check(&self, trajectory: &Trajectory) -> Result<(), Departure> {
        let mut position = vec![0.0; trajectory.dof()];
        for (i, &time) in trajectory.times().iter().enumerate() {
            for (j, q) in position.iter_mut().enumerate() {
                *q = trajectory.positions()[[i, j]];
            }
            self.stays(&position, 0.0, i, time)?;
            if i + 1 < trajectory.len() {
                self.sweep(trajectory, i, &mut position)?;
            }
        }
        Ok(())
    }

    fn sweep(
        &self,
        trajectory: &Trajectory,
        i: usize,
        position: &mut [f64],
    ) -> Result<(), Departure> {
        let straight = matches!(
            trajectory.interpolation(),
            Interpolation::Hold | Interpolation::Linear
        );
        let (begin, end) = (trajectory.times()[i], trajectory.times()[i + 1]);
        let ends = |j| {
            (
                trajectory.positions()[[i, j]],
                trajectory.positions()[[i + 1, j]],
            )
        };
        let segments: Vec<_> = (0..trajectory.dof())
            .map(|j| trajectory.segment(i, j))
            .collect();
        // The largest speed of each coordinate that matters, and of all together; per segment, not per second.
        let speeds = segments.iter().enumerate().map(|(j, segment)| {
            if !self.region.concerns(j) {
                return 0.0;
            }
            if straight {
                let (from, to) = ends(j);
                return (to - from).abs();
            }
            let places = segment.critical_points();
            let at = |u: f64| (trajectory.step(i) * segment.velocity(u)).abs();
            let speeds = places.iter().chain([0.0, 1.0]).map(at);
            // A NaN stays one, and then nothing is near enough.
            -speeds.map(|speed| -speed).fold(0.0, least)
        });
        // A little more than computed, for the roundings of the polynomial.
        let speed = length(speeds) * (1.0 + 1e-9);
        // Pieces [low, low + size], in the order of time: an inner node of the halving has been split.
        let (mut low, mut size) = (0.0_f64, 1.0_f64);
        while low < 1.0 {
            let middle = low + size / 2.0;
            for (j, q) in position.iter_mut().enumerate() {
                let (from, to) = ends(j);
                *q = if straight {
                    (1.0 - middle) * from + middle * to
                } else {
                    segments[j].position(middle)
                };
            }
            let motion = speed * size / 2.0;
            let clear = self.region.clearance(position) >= motion;
            if !clear && motion > self.resolution / 2.0 && size > f64::EPSILON {
                size /= 2.0;
                continue;
            }
            let time = begin.saturating_add(end.saturating_sub(begin).mul_f64(middle));
            self.stays(position, motion, i, time)?;
            low += size;
            // To the largest piece that begins there: sizes are powers of two, so that both are exact.
            while low < 1.0 && (low / (2.0 * size)).fract() <= 0.0 {
                size *= 2.0;
            }
        }
        Ok(())
    }

    /// Whether the clearance is at least `motion`; a NaN is not.
    fn stays(
        &self,
        position: &[f64],
        motion: f64,
        waypoint: usize,
        time: Duration,
    ) -> Result<(), Departure> {
        if self.region.dof != position.len() {
            return Err(Departure::Dimensions {
                workspace: self.region.dof,
                trajectory: position.len(),
            });
        }
        let clearance = self.region.clearance(position);
        if clearance >= motion {
            return Ok(());
        }
        Err(Departure::Left {
            shape: self.region.nearest(position),
            waypoint,
            time,
            position: position.to_vec(),
            clearance,
            required: motion,
        })
    }
}

/// What a [`Region`] is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Shape {
    /// Of [`Region::cuboid`].
    Cuboid,
    /// Of [`Region::half_space`].
    HalfSpace,
    /// Of [`Region::ball`].
    Ball,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cuboid => "cuboid",
            Self::HalfSpace => "half space",
            Self::Ball => "ball",
        })
    }
}

/// Where a trajectory leaves its [`Workspace`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Departure {
    /// A workspace of another number of coordinates: nothing was judged, so nothing is allowed.
    #[error("the workspace is for {workspace} coordinates, the trajectory has {trajectory}")]
    Dimensions {
        /// Coordinates of the workspace.
        workspace: usize,
        /// Coordinates of the trajectory.
        trajectory: usize,
    },
    /// A position that is outside, or too near the boundary to tell.
    #[error(
        "position {position:?} at {time:?} (waypoint {waypoint}) has the clearance {clearance} from a {shape}, below {required}"
    )]
    Left {
        /// What it leaves or enters.
        shape: Shape,
        /// The waypoint at or before it.
        waypoint: usize,
        /// When.
        time: Duration,
        /// Where.
        position: Vec<f64>,
        /// How far inside that is; negative outside.
        clearance: f64,
        /// What the motion nearby needs: at most half of the resolution, and zero at a waypoint.
        required: f64,
    },
}

impl Departure {
    /// When it happens; zero for [`Departure::Dimensions`].
    pub fn time(&self) -> Duration {
        match *self {
            Self::Dimensions { .. } => Duration::ZERO,
            Self::Left { time, .. } => time,
        }
    }

    /// By how much clearance is lacking; infinite for [`Departure::Dimensions`].
    pub fn excess(&self) -> f64 {
        match *self {
            Self::Dimensions { .. } => f64::INFINITY,
            Self::Left {
                clearance,
                required,
                ..
            } => required - clearance,
        }
    }
}

/// Why numbers do not make a [`Region`] or a [`Workspace`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// The space has no such coordinate, or the name was there before.
    #[error("`{name}` is not a coordinate of the space, or was named twice")]
    Name {
        /// The name.
        name: String,
    },
    /// Not one entry a name, or no name.
    #[error("a region of {names} named coordinates cannot have {found} entries")]
    Entries {
        /// The number of names.
        names: usize,
        /// The number of entries.
        found: usize,
    },
    /// Coordinates of which there is no distance.
    #[error("`{first}` and `{second}` differ in their unit: there is no distance in both")]
    Units {
        /// One of the two.
        first: String,
        /// The other one.
        second: String,
    },
    /// No position is within.
    #[error("`{name}` cannot be between {lower} and {upper}")]
    Interval {
        /// The coordinate.
        name: String,
        /// The lower bound.
        lower: f64,
        /// The upper bound.
        upper: f64,
    },
    /// A radius, a normal, a center or a resolution that is none.
    #[error("{value} does not make a region")]
    Extent {
        /// A NaN, an infinity, or a length that is not positive.
        value: f64,
    },
    /// A union or an intersection of nothing.
    #[error("a region needs at least one part")]
    Parts,
    /// Parts from different spaces.
    #[error("regions of {expected} and of {found} coordinates do not make one")]
    Dimensions {
        /// Coordinates of the first.
        expected: usize,
        /// Coordinates of another one.
        found: usize,
    },
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};
    use proptest::prelude::*;

    use super::*;
    use crate::space::Unit;
    use crate::trajectory::tests::{ms, valid};

    fn plane() -> Space {
        Space::new([("x", Unit::Metre), ("y", Unit::Metre)]).expect("names are distinct")
    }

    fn disc(x: f64, y: f64, radius: f64) -> Region {
        Region::ball(&plane(), &["x", "y"], &[x, y], radius).expect("a disc")
    }

    /// An L of two boxes, with a pillar in the lower one, cut off at an edge.
    fn room() -> Region {
        let cuboid = |lower: &[f64], upper: &[f64]| {
            Region::cuboid(&plane(), &["x", "y"], lower, upper).expect("a box")
        };
        let lower = cuboid(&[-1.0, -1.0], &[1.0, 0.0]);
        let left = cuboid(&[-1.0, -1.0], &[0.0, 1.0]);
        let edge = Region::half_space(&plane(), &["y", "x"], &[2.0, 2.0], 1.8).expect("a normal");
        let both = Region::union([lower, left]).expect("one space");
        let parts = [both, disc(0.5, -0.5, 0.2).outside(), edge];
        Region::intersection(parts).expect("one space")
    }

    #[test]
    fn clearances_are_the_ones_on_paper() {
        let room = room();
        for ([x, y], clearance) in [
            ([-0.5, -0.5], 0.5),
            ([0.5, -0.5], -0.2),
            ([0.5, -0.2], 0.1),
            ([0.5, 0.25], -0.25),
            ([-1.0, 0.3], 0.0),
            // From the edge x + y = 0.9.
            ([0.95, -0.05], 0.0),
        ] {
            approx::assert_relative_eq!(room.clearance(&[x, y]), clearance, epsilon = 1e-12);
        }
        assert!(room.clearance(&[f64::NAN, 0.0]).is_nan());
        assert!(room.clearance(&[0.0, f64::NAN]).is_nan());
        assert!(room.clearance(&[0.0]).is_nan());
    }

    #[test]
    fn regions_are_numbers_of_one_space() {
        let space = Space::new([
            ("x", Unit::Metre),
            ("y", Unit::Metre),
            ("turn", Unit::Radian),
        ])
        .expect("names are distinct");
        let message =
            |region: Result<Region, RegionError>| region.expect_err("it is no region").to_string();
        let ball = |names: &[&str], center: &[f64], radius| {
            message(Region::ball(&space, names, center, radius))
        };
        assert_eq!(
            ball(&["x", "z"], &[0.0, 0.0], 1.0),
            "`z` is not a coordinate of the space, or was named twice"
        );
        assert_eq!(
            ball(&["x", "x"], &[0.0, 0.0], 1.0),
            "`x` is not a coordinate of the space, or was named twice"
        );
        assert_eq!(
            ball(&["x", "turn"], &[0.0, 0.0], 1.0),
            "`x` and `turn` differ in their unit: there is no distance in both"
        );
        assert_eq!(
            ball(&["x", "y"], &[0.0], 1.0),
            "a region of 2 named coordinates cannot have 1 entries"
        );
        assert_eq!(ball(&["x"], &[0.0], 0.0), "0 does not make a region");
        assert_eq!(ball(&["x"], &[f64::NAN], 1.0), "NaN does not make a region");
        assert_eq!(
            message(Region::half_space(&space, &["x"], &[0.0], 1.0)),
            "0 does not make a region"
        );
        assert_eq!(
            message(Region::cuboid(&space, &["turn"], &[1.0], &[0.0])),
            "`turn` cannot be between 1 and 0"
        );
        assert_eq!(
            message(Region::union([])),
            "a region needs at least one part"
        );
        let ball = Region::ball(&space, &["x"], &[0.0], 1.0).expect("an interval");
        assert_eq!(
            message(Region::union([ball.clone(), disc(0.0, 0.0, 1.0)])),
            "regions of 3 and of 2 coordinates do not make one"
        );
        assert!(Workspace::new(ball, 0.0).is_err());
    }

    #[test]
    fn a_pillar_between_two_waypoints_is_seen() {
        let workspace = Workspace::new(room(), 1e-4).expect("a resolution");
        for interpolation in [
            Interpolation::Hold,
            Interpolation::Linear,
            Interpolation::Cubic,
            Interpolation::Quintic,
        ] {
            let through = valid(&[0, 1000], array![[0.1, -0.5], [0.9, -0.5]], interpolation);
            let departure = workspace.check(&through).expect_err("the pillar is at 0.5");
            // It enters at x = 0.3, a quarter of the way.
            let late = departure.time().as_secs_f64() - 0.25;
            assert!(late.abs() < 1e-3, "{departure}");
            assert!(departure.excess() > 0.0 && departure.excess() <= 2e-4);
            assert!(matches!(
                departure,
                Departure::Left {
                    shape: Shape::Ball,
                    ..
                }
            ));
            let past = valid(&[0, 1000], array![[0.1, -0.1], [0.9, -0.1]], interpolation);
            assert_eq!(workspace.check(&past), Ok(()));
        }
    }

    #[test]
    fn a_rest_on_the_boundary_is_inside() {
        let workspace = Workspace::new(room(), 1e-4).expect("a resolution");
        let rest = valid(
            &[0, 100],
            array![[-1.0, 0.5], [-1.0, 0.5]],
            Interpolation::Cubic,
        );
        assert_eq!(workspace.check(&rest), Ok(()));
        let other = valid(&[0], array![[0.0]], Interpolation::Cubic);
        assert_eq!(
            workspace.check(&other),
            Err(Departure::Dimensions {
                workspace: 2,
                trajectory: 1
            })
        );
    }

    proptest! {
        #[test]
        fn what_leaves_is_refused_and_what_keeps_clear_passes(
            positions in prop::collection::vec(-0.95..0.95_f64, 6),
            interpolation in prop::sample::select(vec![
                Interpolation::Linear,
                Interpolation::Cubic,
                Interpolation::Quintic,
            ]),
        ) {
            let resolution = 1e-3;
            let workspace = Workspace::new(room(), resolution).expect("a resolution");
            let positions = Array2::from_shape_vec((3, 2), positions).expect("two columns");
            let path = valid(&[0, 400, 700], positions, interpolation);
            let least = (0..=7000).map(|i| {
                let state = path.sample(Duration::from_micros(100 * i)).expect("it has waypoints");
                workspace.region().clearance(state.position.as_slice())
            });
            let least = least.fold(f64::INFINITY, f64::min);
            match workspace.check(&path) {
                Ok(()) => prop_assert!(least >= 0.0, "{least}"),
                Err(departure) => {
                    prop_assert!(departure.excess() > 0.0);
                    prop_assert!(least < resolution, "{departure}");
                    let Departure::Left { time, position, clearance, .. } = departure else {
                        panic!("the dimensions agree");
                    };
                    let state = path.sample(time).expect("it has waypoints");
                    // Times are whole nanoseconds, speeds below 1e2.
                    prop_assert!((state.position[0] - position[0]).abs() < 1e-6);
                    prop_assert!((workspace.region().clearance(&position) - clearance).abs() <= 0.0);
                    // Before it nothing was outside, save in the piece of which it is the middle.
                    let samples = if time.is_zero() { 0 } else { 1000_u32 };
                    for i in 0..samples {
                        let state = path.sample(time * i / samples).expect("it has waypoints");
                        let clearance = workspace.region().clearance(state.position.as_slice());
                        prop_assert!(clearance >= -resolution / 2.0);
                    }
                }
            }
        }

        #[test]
        fn a_clearance_changes_no_faster_than_the_position(
            (x, y) in (-2.0..2.0_f64, -2.0..2.0_f64),
            (u, v) in (-2.0..2.0_f64, -2.0..2.0_f64),
        ) {
            let room = room();
            let change = (room.clearance(&[x, y]) - room.clearance(&[u, v])).abs();
            prop_assert!(change <= (x - u).hypot(y - v) + 1e-12);
        }
    }

    #[test]
    fn a_wait_at_millisecond_steps_is_swept() {
        let path = valid(
            &[0, 1, 2],
            array![[0.0, -0.5], [0.1, -0.5], [0.0, -0.5]],
            Interpolation::Linear,
        );
        let workspace = Workspace::new(room(), 1e-4).expect("a resolution");
        assert_eq!(workspace.check(&path), Ok(()));
        assert_eq!(path.times()[2], ms(2));
    }
}
