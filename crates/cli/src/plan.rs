//! `clearway plan`: ways through mazes and clutter.

use clearway_planner::paths::PathCoordinate;
use clearway_sim::{Environment, Layout};
use serde::{Deserialize, Serialize};

/// A world of clutter, by its name here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EnvironmentName {
    /// 15 discs
    Simple,
    /// 16 discs and 14 boxes
    Dense,
    /// 8 discs, 9 boxes, and a wall with a narrow gap
    NarrowPassage,
}

impl From<EnvironmentName> for Environment {
    fn from(name: EnvironmentName) -> Self {
        match name {
            EnvironmentName::Simple => Self::Simple,
            EnvironmentName::Dense => Self::Dense,
            EnvironmentName::NarrowPassage => Self::NarrowPassage,
        }
    }
}

/// A maze, by its name here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LayoutName {
    /// maze2d-umaze-v1
    U,
    /// maze2d-medium-v1
    Medium,
    /// maze2d-large-v1
    Large,
}

impl From<LayoutName> for Layout {
    fn from(name: LayoutName) -> Self {
        match name {
            LayoutName::U => Self::U,
            LayoutName::Medium => Self::Medium,
            LayoutName::Large => Self::Large,
        }
    }
}

fn coordinates(bounds: [[f64; 2]; 2]) -> Vec<PathCoordinate> {
    let named = ["x", "y"].into_iter().zip(bounds);
    named
        .map(|(name, [lower, upper])| PathCoordinate {
            name: name.into(),
            unit: "m".into(),
            lower,
            upper,
        })
        .collect()
}

/// What is planned in clutter.
pub(crate) fn clutter_coordinates() -> Vec<PathCoordinate> {
    coordinates([[-1.0, 1.0]; 2])
}

/// What is planned in mazes: the extent of the largest.
pub(crate) fn maze_coordinates() -> Vec<PathCoordinate> {
    coordinates([[-0.7, 8.3], [-0.7, 11.3]])
}
