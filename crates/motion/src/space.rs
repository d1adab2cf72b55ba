//! Names and units of the coordinates of a trajectory.

use std::fmt;

/// The unit of one coordinate of a position.
///
/// Its velocity is per second, its acceleration per second squared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unit {
    /// Length, m.
    Metre,
    /// Angle, rad.
    Radian,
    /// Distance on a screen, px; the y axis points down.
    Pixel,
    /// A ratio, such as how far a gripper is open.
    Unitless,
}

impl Unit {
    /// The symbol that is written behind a number: `m`, `rad`, `px`, or nothing.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Metre => "m",
            Self::Radian => "rad",
            Self::Pixel => "px",
            Self::Unitless => "",
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.symbol())
    }
}

/// One coordinate of a [`Space`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Coordinate {
    /// What it is called, such as `agent x` or `panda_joint1`.
    pub name: String,
    /// What it is measured in.
    pub unit: Unit,
}

/// The coordinates that a policy plans in, in the order of a trajectory's columns.
///
/// A space has at least one coordinate, and no two of the same name.
///
/// ```
/// use clearway_motion::{Space, Unit};
///
/// let space = Space::new([("agent x", Unit::Pixel), ("agent y", Unit::Pixel)])?;
/// assert_eq!(space.dof(), 2);
/// assert_eq!(space.index("agent y"), Some(1));
/// assert_eq!(space.to_string(), "agent x [px], agent y [px]");
/// # Ok::<(), clearway_motion::SpaceError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Space {
    coordinates: Vec<Coordinate>,
}

impl Space {
    /// A space of these coordinates, in this order.
    ///
    /// # Errors
    ///
    /// [`SpaceError::Empty`] without coordinates, [`SpaceError::Duplicate`] if two have one name.
    pub fn new<N: Into<String>>(
        coordinates: impl IntoIterator<Item = (N, Unit)>,
    ) -> Result<Self, SpaceError> {
        let coordinates: Vec<Coordinate> = coordinates
            .into_iter()
            .map(|(name, unit)| Coordinate {
                name: name.into(),
                unit,
            })
            .collect();
        if coordinates.is_empty() {
            return Err(SpaceError::Empty);
        }
        for (second, coordinate) in coordinates.iter().enumerate() {
            let mut earlier = coordinates[..second].iter();
            if let Some(first) = earlier.position(|other| other.name == coordinate.name) {
                let name = coordinate.name.clone();
                return Err(SpaceError::Duplicate {
                    name,
                    first,
                    second,
                });
            }
        }
        Ok(Self { coordinates })
    }

    /// The number of coordinates.
    pub fn dof(&self) -> usize {
        self.coordinates.len()
    }

    /// The coordinates, in the order of a trajectory's columns.
    pub fn coordinates(&self) -> &[Coordinate] {
        &self.coordinates
    }

    /// The column of the coordinate of this name.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.coordinates.iter().position(|c| c.name == name)
    }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Coordinate { name, unit }) in self.coordinates.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            match unit {
                Unit::Unitless => write!(f, "{separator}{name}")?,
                unit => write!(f, "{separator}{name} [{unit}]")?,
            }
        }
        Ok(())
    }
}

/// Why coordinates do not make a [`Space`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpaceError {
    /// A space without coordinates.
    #[error("a space needs at least one coordinate")]
    Empty,
    /// Two coordinates of one name.
    #[error("coordinates {first} and {second} are both called `{name}`")]
    Duplicate {
        /// The name.
        name: String,
        /// The column that had it first.
        first: usize,
        /// The column that has it again.
        second: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_one_column() {
        let joints = (1..=7).map(|i| (format!("panda_joint{i}"), Unit::Radian));
        let space = Space::new(joints).expect("names are distinct");
        assert_eq!(space.dof(), 7);
        assert_eq!(space.index("panda_joint3"), Some(2));
        assert_eq!(space.index("panda_joint8"), None);
        assert_eq!(space.coordinates()[0].unit, Unit::Radian);
    }

    #[test]
    fn names_are_present_and_distinct() {
        let none: [(&str, Unit); 0] = [];
        assert_eq!(Space::new(none), Err(SpaceError::Empty));

        let error = Space::new([
            ("x", Unit::Metre),
            ("y", Unit::Metre),
            ("x", Unit::Unitless),
        ])
        .expect_err("x is there twice");
        assert_eq!(error.to_string(), "coordinates 0 and 2 are both called `x`");
    }

    #[test]
    fn a_unitless_coordinate_has_no_bracket() {
        let space = Space::new([("x", Unit::Metre), ("gripper", Unit::Unitless)]);
        assert_eq!(
            space.expect("names are distinct").to_string(),
            "x [m], gripper"
        );
    }
}
