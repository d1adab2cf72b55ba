//! What path priors learn from: ways of classical planners through worlds that are drawn.

use clearway_motion::{Path, Scene};
use clearway_planner::paths::train::Demonstrations;
use clearway_planner::paths::{PathConfig, PriorConfig};
use clearway_sim::{Clutter, Environment, Layout, maze2d::Map};
use rayon::prelude::*;
use serde::Deserialize;

use crate::error::{Error, spinner};
use crate::plan::{self, EnvironmentName, LayoutName};

/// Which demonstrations are made, and how many.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Demonstrated {
    /// Where.
    world: World,
    /// How many problems are drawn.
    problems: u32,
    /// How many ways are looked for in each.
    #[serde(default = "one")]
    ways: u32,
    /// The seed of the first problem.
    #[serde(default)]
    seed: u64,
}

/// The worlds that demonstrations are made in.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum World {
    /// Motion Planning Diffusion's, each problem with a number of random obstacles more: 0, 1, and so on up to `added`.
    Clutter {
        environment: EnvironmentName,
        #[serde(default)]
        added: u32,
    },
    /// D4RL's mazes, in turn.
    Mazes(Vec<LayoutName>),
}

fn one() -> u32 {
    1
}

/// The ways of a problem, and where they are.
type Found = (Scene, Vec<Path>);

impl Demonstrated {
    /// Makes them. They depend on the numbers of this alone, whatever the threads.
    pub(super) fn make(&self, prior: &PriorConfig) -> Result<Demonstrations, Error> {
        let failed = |error| Error::TrainPaths(Box::new(error));
        let coordinates = match &self.world {
            World::Clutter { .. } => plan::clutter_coordinates(),
            World::Mazes(_) => plan::maze_coordinates(),
        };
        let config = PathConfig::new(coordinates, prior.clone());
        let mut demonstrations = Demonstrations::new(config).map_err(failed)?;
        let bar = spinner("making demonstrations");
        let found: Result<Vec<Found>, Error> = (0..u64::from(self.problems))
            .into_par_iter()
            .map(|i| self.problem(i))
            .collect();
        bar.finish_and_clear();
        for (scene, paths) in found? {
            for path in paths {
                let path = if path.len() == prior.horizon {
                    path
                } else {
                    path.resampled(prior.horizon)
                };
                demonstrations.push(&path, &scene).map_err(failed)?;
            }
        }
        Ok(demonstrations)
    }

    /// One problem's; what has no way has none.
    fn problem(&self, i: u64) -> Result<Found, Error> {
        let wrong = |error: &dyn std::fmt::Display| Error::World(error.to_string());
        let seed = self.seed + i;
        match &self.world {
            World::Clutter { environment, added } => {
                let environment = Environment::from(*environment);
                let count = i % (u64::from(*added) + 1);
                let world = Clutter::with_random_additions(environment, count as usize, seed)
                    .map_err(|error| wrong(&error))?;
                let ways = world.problem(seed).map_or(Vec::new(), |problem| {
                    let ways = (0..u64::from(self.ways)).filter_map(|way| {
                        let seed = seed.wrapping_mul(u64::from(self.ways)).wrapping_add(way);
                        let path = world.expert(&problem, seed).ok()?;
                        Path::new(path.positions().to_owned()).ok()
                    });
                    ways.collect()
                });
                Ok((world.scene().clone(), ways))
            }
            World::Mazes(layouts) => {
                let Some(layout) = layouts.get(i as usize % layouts.len().max(1)) else {
                    return Err(Error::World("no maze is named".into()));
                };
                let map = Map::new(Layout::from(*layout)).map_err(|error| wrong(&error))?;
                let way = map.problem(seed).and_then(|it| map.way(&it).ok());
                Ok((map.scene().clone(), way.into_iter().collect()))
            }
        }
    }
}
