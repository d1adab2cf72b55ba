//! What a path prior's folder says.

use std::str::FromStr as _;

use clearway_diffusion::{Discrete, Parameterization, ScheduleError};
use clearway_motion::{Space, SpaceError, Unit};
use serde::{Deserialize, Serialize};

use super::SceneCode;
use crate::{LoadError, Method, Sampling};

/// The file that says what a prior is, in its folder.
pub(super) const FILE: &str = "config.json";

/// What that file calls itself.
const KIND: &str = "clearway_paths";

/// The most of what can be multiplied: waypoints, channels, levels, places of a code.
const MOST: usize = 4096;

/// `config.json`: all that is needed to plan with the weights beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathConfig {
    /// `clearway_paths`.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// What is planned, in the order of a path's columns.
    pub coordinates: Vec<PathCoordinate>,
    /// What was chosen for training.
    pub prior: PriorConfig,
}

/// A coordinate and the bounds that become −1 and 1 in the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathCoordinate {
    /// What it is called.
    pub name: String,
    /// What it is measured in: `m`, `rad`, `px`, or nothing for a ratio.
    pub unit: String,
    /// The lower bound.
    pub lower: f64,
    /// The upper one.
    pub upper: f64,
}

/// What a prior is, apart from what it plans.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PriorConfig {
    /// The waypoints of a path, start and goal among them.
    pub horizon: usize,
    /// How the scene is shown to the network; left out where it is trained for one scene.
    pub scene: Option<SceneCode>,
    /// The network.
    pub network: NetworkConfig,
    /// What it predicts: `epsilon`, `sample`, `v_prediction` or `flow_prediction`.
    pub prediction_type: String,
    /// The timesteps of training; the noise grows as diffusers' `squaredcos_cap_v2`.
    pub num_train_timesteps: usize,
    /// How paths are drawn where nobody asks otherwise.
    pub sampling: SamplingConfig,
}

/// A solver and its steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplingConfig {
    /// A solver's name.
    pub solver: String,
    /// The steps of its grid.
    pub steps: usize,
}

/// The network of a prior.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum NetworkConfig {
    /// [`ConditionalUnet1d`](crate::network::ConditionalUnet1d) over waypoints.
    ConditionalUnet1d {
        /// The channels of each level; time is halved from one to the next.
        down_dims: Vec<usize>,
        /// The taps of its convolutions.
        kernel_size: usize,
        /// The groups of its normalization.
        n_groups: usize,
        /// The size of the embedded diffusion time.
        diffusion_step_embed_dim: usize,
    },
    /// [`TrajectoryTransformer`](crate::network::TrajectoryTransformer) over waypoints.
    TrajectoryTransformer {
        /// The features of a waypoint.
        width: usize,
        /// How many blocks.
        depth: usize,
        /// How many heads attend.
        heads: usize,
    },
}

impl Default for PriorConfig {
    fn default() -> Self {
        Self {
            horizon: 64,
            scene: None,
            network: NetworkConfig::ConditionalUnet1d {
                down_dims: vec![32, 64, 128],
                kernel_size: 5,
                n_groups: 8,
                diffusion_step_embed_dim: 32,
            },
            prediction_type: "v_prediction".into(),
            num_train_timesteps: 100,
            sampling: SamplingConfig {
                solver: "ddim".into(),
                steps: 8,
            },
        }
    }
}

impl PathConfig {
    /// A configuration for such coordinates; it is [checked](Self::check) where it is used.
    pub fn new(coordinates: Vec<PathCoordinate>, prior: PriorConfig) -> Self {
        Self {
            kind: KIND.into(),
            coordinates,
            prior,
        }
    }

    /// The number of coordinates.
    pub fn dof(&self) -> usize {
        self.coordinates.len()
    }

    /// The numbers that condition the network: start, goal, and the scene's code.
    pub fn condition_dim(&self) -> usize {
        2 * self.dof() + self.prior.scene.as_ref().map_or(0, SceneCode::len)
    }

    /// What is planned.
    ///
    /// # Errors
    ///
    /// Without coordinates, or with two of one name.
    pub fn space(&self) -> Result<Space, SpaceError> {
        let unit = |symbol: &str| match symbol {
            "m" => Unit::Metre,
            "rad" => Unit::Radian,
            "px" => Unit::Pixel,
            _ => Unit::Unitless,
        };
        let coordinates = self.coordinates.iter();
        Space::new(coordinates.map(|it| (it.name.clone(), unit(&it.unit))))
    }

    /// Makes sure that the numbers are those of a prior.
    ///
    /// # Errors
    ///
    /// [`LoadError::Value`] for the first that is not.
    #[allow(clippy::too_many_lines, reason = "one row a number")]
    pub fn check(&self) -> Result<(), LoadError> {
        let PriorConfig {
            horizon,
            scene,
            network,
            num_train_timesteps,
            ..
        } = &self.prior;
        let wrong = |key: &str, found: String, expected: &str| {
            Err(LoadError::Value {
                file: FILE.into(),
                key: key.into(),
                found,
                expected: expected.into(),
            })
        };
        if self.kind != KIND {
            return wrong("type", format!("`{}`", self.kind), "`clearway_paths`");
        }
        if let Err(error) = self.space() {
            return wrong(
                "coordinates",
                error.to_string(),
                "one or more, each with its own name",
            );
        }
        for PathCoordinate {
            name,
            unit,
            lower,
            upper,
        } in &self.coordinates
        {
            if !["m", "rad", "px", ""].contains(&unit.as_str()) {
                let key = format!("coordinates.{name}.unit");
                return wrong(&key, format!("`{unit}`"), "m, rad, px or nothing");
            }
            if !(lower.is_finite() && upper.is_finite() && lower < upper) {
                let key = format!("coordinates.{name}");
                return wrong(&key, format!("{lower} to {upper}"), "a finite interval");
            }
        }
        let multiple = match network {
            NetworkConfig::ConditionalUnet1d {
                down_dims,
                kernel_size,
                n_groups,
                diffusion_step_embed_dim: embed,
            } => {
                let levels = down_dims.len();
                let divides = |channels: &usize| {
                    (1..=MOST).contains(channels)
                        && *n_groups > 0
                        && channels.is_multiple_of(*n_groups)
                };
                // The last block has eight groups whatever the others have.
                let last = down_dims.first().is_some_and(|it| it.is_multiple_of(8));
                if !(1..=8).contains(&levels) || !down_dims.iter().all(divides) || !last {
                    let expected =
                        "up to 8 levels of channels that the groups divide, the first by 8";
                    let found = format!("{down_dims:?}");
                    return wrong("prior.network.down_dims", found, expected);
                }
                if kernel_size.is_multiple_of(2) || *kernel_size > 63 {
                    let found = kernel_size.to_string();
                    return wrong("prior.network.kernel_size", found, "odd and below 64");
                }
                if !(4..=MOST).contains(embed) || !embed.is_multiple_of(2) {
                    let key = "prior.network.diffusion_step_embed_dim";
                    return wrong(key, embed.to_string(), "even and at least 4");
                }
                // Time is halved from one level to the next.
                1_usize << (levels - 1)
            }
            NetworkConfig::TrajectoryTransformer {
                width,
                depth,
                heads,
            } => {
                let shared = *heads > 0 && width.is_multiple_of(2 * *heads);
                if !(4..=MOST).contains(width) || !shared {
                    let found = format!("{width}, of {heads} heads");
                    let expected = "at least 4, and a multiple of twice the heads";
                    return wrong("prior.network.width", found, expected);
                }
                if !(1..=64).contains(depth) {
                    let found = depth.to_string();
                    return wrong("prior.network.depth", found, "from 1 to 64");
                }
                1
            }
        };
        if !(4..=MOST).contains(horizon) || !horizon.is_multiple_of(multiple) {
            let expected = format!("a multiple of {multiple} from 4 to {MOST}");
            return wrong("prior.horizon", horizon.to_string(), &expected);
        }
        if !(2..=100_000).contains(num_train_timesteps) {
            let found = num_train_timesteps.to_string();
            return wrong("prior.num_train_timesteps", found, "from 2 to 100000");
        }
        if let Some(scene) = scene
            && let Some(found) = scene.wrong(MOST)
        {
            let expected =
                format!("a lattice of at most {MOST} places with a positive spacing and reach");
            return wrong("prior.scene", found, &expected);
        }
        self.parameterization()?;
        let sampling = self.sampling()?;
        if sampling.steps == 0 || sampling.steps > *num_train_timesteps {
            let expected = "at least 1 and at most the timesteps of training";
            return wrong("prior.sampling.steps", sampling.steps.to_string(), expected);
        }
        Ok(())
    }

    /// What the network predicts.
    ///
    /// # Errors
    ///
    /// [`LoadError::Value`] for another word.
    pub fn parameterization(&self) -> Result<Parameterization, LoadError> {
        Ok(match self.prior.prediction_type.as_str() {
            "epsilon" => Parameterization::Noise,
            "sample" => Parameterization::Sample,
            "v_prediction" => Parameterization::Velocity,
            "flow_prediction" => Parameterization::Flow,
            other => {
                return Err(LoadError::Value {
                    file: FILE.into(),
                    key: "prior.prediction_type".into(),
                    found: format!("`{other}`"),
                    expected: "epsilon, sample, v_prediction or flow_prediction".into(),
                });
            }
        })
    }

    /// How paths are drawn where nobody asks otherwise.
    ///
    /// # Errors
    ///
    /// [`LoadError::Value`] for a solver that is not known.
    pub fn sampling(&self) -> Result<Sampling, LoadError> {
        let SamplingConfig { solver, steps } = &self.prior.sampling;
        let method = Method::from_str(solver).map_err(|_| LoadError::Value {
            file: FILE.into(),
            key: "prior.sampling.solver".into(),
            found: format!("`{solver}`"),
            expected: "the name of a solver".into(),
        })?;
        Ok(Sampling::new(method, *steps))
    }

    /// The noise.
    ///
    /// # Errors
    ///
    /// If there are no timesteps.
    pub fn schedule(&self) -> Result<Discrete, ScheduleError> {
        Discrete::squared_cosine(self.prior.num_train_timesteps)
    }

    /// A configuration in the network's terms: the bounds become −1 and 1.
    pub(super) fn normalized(&self, q: &[f64]) -> impl Iterator<Item = f32> {
        let values = q.iter().zip(&self.coordinates);
        values.map(|(q, it)| (2.0 * (q - it.lower) / (it.upper - it.lower) - 1.0) as f32)
    }

    /// A configuration in physical terms.
    pub(super) fn physical(&self, x: &[f32]) -> impl Iterator<Item = f64> {
        let values = x.iter().zip(&self.coordinates);
        values.map(|(x, it)| it.lower + 0.5 * (f64::from(*x) + 1.0) * (it.upper - it.lower))
    }
}
