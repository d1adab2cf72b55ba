//! What a policy saw and did in a dataset, as its network knows it.

use std::path::Path;
use std::time::Duration;

use burn::tensor::{Device, Tensor, TensorData};

use super::{Dataset, DatasetError, Order, Window};
use crate::{History, HistoryError, Observation, ObservationError, Policy};

/// Windows of a dataset, normalized as a policy does it.
#[derive(Clone, Debug)]
pub struct Demonstrations {
    /// `[count, condition]`.
    pub condition: Tensor<2>,
    /// `[count, horizon, action]`.
    pub actions: Tensor<3>,
}

/// Why a policy cannot read a dataset.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemonstrationsError {
    /// The dataset cannot be read.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// Frames do not follow one another.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The policy cannot use what was seen.
    #[error("frame {frame}: {error}")]
    Observation {
        /// The frame, of all of the dataset.
        frame: usize,
        /// Why not.
        error: ObservationError,
    },
    /// Actions of another task.
    #[error("the dataset's `{name}` has {found} numbers where the policy has {expected}")]
    Action {
        /// The feature.
        name: String,
        /// The policy's.
        expected: usize,
        /// The dataset's.
        found: usize,
    },
}

impl Demonstrations {
    /// Draws windows, each from all of them.
    ///
    /// # Errors
    ///
    /// If the dataset cannot be read, or lacks what the policy sees or does.
    ///
    /// # Panics
    ///
    /// If `count` is zero.
    pub fn draw(
        policy: &Policy,
        folder: &Path,
        count: usize,
        seed: u64,
        device: &Device,
    ) -> Result<Self, DemonstrationsError> {
        let config = policy.config();
        let action = &config.action;
        let inputs = config.inputs.iter().map(|it| it.name.as_str());
        let names: Vec<&str> = inputs.chain([action.name.as_str()]).collect();
        let dataset = Dataset::open(folder, &names)?;
        let seen = Window::observations(config.n_obs_steps);
        let done = Window::actions(config.n_obs_steps, config.horizon);
        let (mut conditions, mut actions) = (Vec::new(), Vec::new());
        let row = |name: &str, frame| dataset.get(name, frame).unwrap_or_default();
        for frame in Order::Replacement.of(seed, dataset.len()).draw(0, count) {
            let mut history = History::default();
            for (at, (frame, _)) in seen.around(&dataset, frame).enumerate() {
                let mut observation = Observation::new(Duration::from_secs(at as u64));
                for (input, name) in config.inputs.iter().zip(policy.observed_names()) {
                    observation = observation.with(name, row(&input.name, frame));
                }
                history.push(observation)?;
            }
            let condition = policy.condition(&history);
            conditions.extend(
                condition.map_err(|error| DemonstrationsError::Observation { frame, error })?,
            );
            for (frame, _) in done.around(&dataset, frame) {
                let values = row(&action.name, frame);
                if values.len() != action.len {
                    return Err(DemonstrationsError::Action {
                        name: action.name.clone(),
                        expected: action.len,
                        found: values.len(),
                    });
                }
                actions.extend(policy.normalized_actions(values));
            }
        }
        let width = conditions.len() / count;
        let shape = [count, config.horizon, action.len];
        Ok(Self {
            condition: Tensor::from_data(TensorData::new(conditions, [count, width]), device),
            actions: Tensor::from_data(TensorData::new(actions, shape), device),
        })
    }
}
