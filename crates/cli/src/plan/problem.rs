//! Problems as files have them, and as planners take them.

use std::path::Path as FilePath;

use clearway_motion::{FreeSpace, Limits, Obstacle, OccupancyGrid, Scene, Translating};
use clearway_sim::clutter::Outline;
use clearway_sim::{Clutter, Layout, clutter, maze2d};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A disc that shall go from a start to a goal: SI units.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Problem {
    /// The radius of the robot.
    pub(crate) radius: f64,
    limits: Bounds,
    pub(crate) obstacles: Vec<Shape>,
    pub(crate) start: Vec<f64>,
    pub(crate) goal: Vec<f64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bounds {
    lower: [f64; 2],
    upper: [f64; 2],
    velocity: Option<[f64; 2]>,
    acceleration: Option<[f64; 2]>,
    jerk: Option<[f64; 2]>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Shape {
    Disc {
        center: [f64; 2],
        radius: f64,
    },
    /// Whole edges; the corners are rounded by a radius, and the box is turned by an angle, if it says so.
    Box {
        center: [f64; 2],
        edges: [f64; 2],
        #[serde(default)]
        rounding: f64,
        #[serde(default)]
        angle: f64,
    },
    /// A map: rows of cells, x fastest.
    Cells {
        origin: [f64; 2],
        cell: f64,
        columns: usize,
        occupied: Vec<bool>,
    },
}

/// What a free space is made of.
pub(super) struct World {
    body: Translating,
    pub(super) scene: Scene,
    limits: Limits,
}

impl Problem {
    /// Reads a file of problems.
    pub(super) fn read(path: &FilePath) -> Result<Vec<Self>, Error> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::read(path, &error))?;
        // A list is many; what is none is one. Either is read as what it is, so that an error names its line.
        let problems = if text.trim_start().starts_with('[') {
            serde_json::from_str(&text)
        } else {
            serde_json::from_str(&text).map(|it| vec![it])
        };
        let problems: Vec<Self> = problems.map_err(|error| Error::read(path, &error))?;
        if problems.is_empty() {
            return Err(Error::read(path, &"it has no problem"));
        }
        for (i, problem) in problems.iter().enumerate() {
            let found = [problem.start.len(), problem.goal.len()];
            if found != [2, 2] {
                return Err(Error::read(
                    path,
                    &format!("start and goal of problem {i} must be two numbers each"),
                ));
            }
        }
        Ok(problems)
    }

    /// A problem of a world of clutter.
    pub(super) fn of_clutter(world: &Clutter, problem: &clutter::Problem) -> Self {
        let obstacles = world.outlines().iter().map(|outline| match *outline {
            Outline::Disc { center, radius } => Shape::Disc { center, radius },
            Outline::Box {
                center,
                edges,
                rounding,
            } => Shape::Box {
                center,
                edges,
                rounding,
                angle: 0.0,
            },
        });
        Self {
            radius: clutter::RADIUS,
            limits: Bounds {
                lower: [-1.0; 2],
                upper: [1.0; 2],
                velocity: Some([clutter::MAX_SPEED; 2]),
                acceleration: None,
                jerk: None,
            },
            obstacles: obstacles.collect(),
            start: problem.start.to_vec(),
            goal: problem.goal.to_vec(),
        }
    }

    /// A problem of a maze, in which a share of what the motors can do is left for following the plan.
    pub(super) fn of_maze(layout: Layout, start: [f64; 2], goal: [f64; 2], share: f64) -> Self {
        let [rows, columns] = layout.size();
        let cells = (0..columns).flat_map(|j| (0..rows).map(move |i| layout.is_wall(i, j)));
        let origin = maze2d::ORIGIN;
        let acceleration = maze2d::GEAR / maze2d::MASS;
        Self {
            radius: maze2d::RADIUS,
            limits: Bounds {
                lower: [origin; 2],
                upper: [rows, columns].map(|it| origin + it as f64),
                velocity: Some([maze2d::MAX_SPEED * share; 2]),
                acceleration: Some([acceleration * share; 2]),
                jerk: None,
            },
            obstacles: vec![Shape::Cells {
                origin: [origin; 2],
                cell: 1.0,
                columns: rows,
                occupied: cells.collect(),
            }],
            start: start.to_vec(),
            goal: goal.to_vec(),
        }
    }

    /// What it is asked in.
    pub(super) fn world(&self) -> Result<World, Error> {
        let wrong = |error: &dyn std::fmt::Display| Error::World(error.to_string());
        let mut scene = Scene::new();
        for shape in &self.obstacles {
            let obstacle = match shape {
                Shape::Disc { center, radius } => Obstacle::disc(*center, *radius),
                Shape::Box {
                    center,
                    edges,
                    rounding,
                    angle,
                } if *rounding > 0.0 && *angle == 0.0 => Outline::Box {
                    center: *center,
                    edges: *edges,
                    rounding: *rounding,
                }
                .obstacle(),
                Shape::Box {
                    center,
                    edges,
                    rounding,
                    angle,
                } => {
                    if *rounding > 0.0 {
                        return Err(wrong(&"a box that is turned cannot have rounded corners"));
                    }
                    Obstacle::rectangle(*center, edges.map(|it| it / 2.0), *angle)
                }
                Shape::Cells {
                    origin,
                    cell,
                    columns,
                    occupied,
                } => OccupancyGrid::new(*origin, *cell, *columns, occupied.clone())
                    .map(Obstacle::grid),
            };
            scene.push(obstacle.map_err(|error| wrong(&error))?);
        }
        let Bounds {
            lower,
            upper,
            velocity,
            acceleration,
            jerk,
        } = &self.limits;
        let limits = Limits::unlimited(2).with_position(lower, upper);
        let limits = limits.and_then(|it| match velocity {
            Some(most) => it.with_velocity(most),
            None => Ok(it),
        });
        let limits = limits.and_then(|it| match acceleration {
            Some(most) => it.with_acceleration(most),
            None => Ok(it),
        });
        let limits = limits.and_then(|it| match jerk {
            Some(most) => it.with_jerk(most),
            None => Ok(it),
        });
        Ok(World {
            body: Translating::disc(self.radius).map_err(|error| wrong(&error))?,
            scene,
            limits: limits.map_err(|error| wrong(&error))?,
        })
    }
}

impl World {
    /// Where the robot can be.
    pub(super) fn free(&self) -> Result<FreeSpace<'_>, Error> {
        let free = FreeSpace::new(&self.body, &self.scene, &self.limits);
        free.map_err(|error| Error::World(error.to_string()))
    }
}
