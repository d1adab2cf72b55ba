//! `clearway plan`: ways through mazes and clutter.

mod ask;
mod clutter;
mod maze;
mod others;
mod problem;
mod report;

#[cfg(feature = "train")]
use clearway_planner::paths::PathCoordinate;
use clearway_sim::{Environment, Layout};
use serde::{Deserialize, Serialize};

use crate::Verdict;
use crate::error::Error;

#[cfg(feature = "rerun")]
pub(crate) use ask::Answer;
#[cfg(feature = "rerun")]
pub(crate) use problem::{Problem, Shape};

/// Where plans are recorded, opened before they are made so that a wrong path is found early.
#[cfg(feature = "rerun")]
use crate::recording::PathRecorder as Recorder;

/// What stands for a recorder in a binary without rerun: there is none, and asking for one says so.
#[cfg(not(feature = "rerun"))]
enum Recorder {}

#[cfg(not(feature = "rerun"))]
impl Recorder {
    fn open(_: &str) -> Result<Self, Error> {
        Err(Error::Record)
    }

    fn problem(
        &self,
        _: &problem::Problem,
        _: &clearway_motion::FreeSpace,
        _: &ask::Answer,
        _: usize,
    ) -> Result<(), Error> {
        match *self {}
    }

    fn finish(self) -> Result<(), Error> {
        match self {}
    }
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Move a disc among the obstacles of Motion Planning Diffusion's planar worlds, or of a scene of one's own
    Clutter(clutter::Arguments),
    /// Plan ways for D4RL's Maze2D, and follow them there
    Maze(maze::Arguments),
}

pub(crate) fn run(command: &Command) -> Result<Verdict, Error> {
    match command {
        Command::Clutter(arguments) => clutter::run(arguments),
        Command::Maze(arguments) => maze::run(arguments),
    }
}

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

#[cfg(feature = "train")]
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
#[cfg(feature = "train")]
pub(crate) fn clutter_coordinates() -> Vec<PathCoordinate> {
    coordinates([[-1.0, 1.0]; 2])
}

/// What is planned in mazes: the extent of the largest.
#[cfg(feature = "train")]
pub(crate) fn maze_coordinates() -> Vec<PathCoordinate> {
    coordinates([[-0.7, 8.3], [-0.7, 11.3]])
}
