//! Demonstrations as a network sees them.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};

use super::TrainError;
use crate::dataset::{Dataset, Window};
use crate::lerobot::save::EPS;
use crate::lerobot::{DiffusionConfig, Feature};
use crate::normalization::{Edition, Normalizer};

/// The two statistics of each feature that is normalized, by feature and LeRobot's name.
pub(super) type Kept = BTreeMap<String, BTreeMap<String, Vec<f32>>>;

/// A dataset, normalized once.
#[derive(Debug)]
pub(super) struct Examples {
    dataset: Dataset,
    observations: Window,
    actions: Window,
    horizon: usize,
    /// What a frame adds to a condition: `[frames, values]`.
    observed: Rows,
    /// `[frames, values]`.
    done: Rows,
}

#[derive(Debug)]
struct Rows {
    len: usize,
    values: Vec<f32>,
}

impl Rows {
    fn row(&self, frame: usize) -> &[f32] {
        &self.values[frame * self.len..][..self.len]
    }
}

/// Windows, laid out for a network.
#[derive(Debug)]
pub(super) struct Batch {
    /// `[batch, condition]`.
    pub(super) condition: Tensor<2>,
    /// `[batch, horizon, action]`.
    pub(super) actions: Tensor<3>,
    /// One where an action is of the episode, zero where it is repeated: `[batch, horizon, 1]`.
    pub(super) inside: Tensor<3>,
}

impl Examples {
    /// Normalizes what a policy reads and writes, and keeps the statistics that it takes.
    pub(super) fn new(
        dataset: Dataset,
        config: &DiffusionConfig,
    ) -> Result<(Self, Kept), TrainError> {
        let mut kept = Kept::new();
        let mut normalized = |feature: &Feature| -> Result<Rows, TrainError> {
            let normalizer = normalizer(&dataset, feature, &mut kept)?;
            let values = dataset.values(&feature.name).unwrap_or_default();
            Ok(Rows {
                len: feature.len,
                values: normalizer.normalize(values).map(|y| y as f32).collect(),
            })
        };
        let inputs = config.inputs.iter().map(&mut normalized);
        let inputs: Vec<Rows> = inputs.collect::<Result<_, _>>()?;
        let done = normalized(&config.action)?;
        let frames = 0..dataset.len();
        let observed = Rows {
            len: inputs.iter().map(|input| input.len).sum(),
            values: frames
                .flat_map(|frame| inputs.iter().flat_map(move |input| input.row(frame)))
                .copied()
                .collect(),
        };
        let examples = Self {
            dataset,
            observations: Window::observations(config.n_obs_steps),
            actions: Window::actions(config.n_obs_steps, config.horizon),
            horizon: config.horizon,
            observed,
            done,
        };
        Ok((examples, kept))
    }

    pub(super) fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// How many actions a window has, and how many values an action.
    pub(super) fn shape(&self) -> [usize; 2] {
        [self.horizon, self.done.len]
    }

    pub(super) fn batch(&self, frames: &[usize], device: &Device) -> Batch {
        let [mut condition, mut actions, mut inside] = [const { Vec::new() }; 3];
        for &frame in frames {
            for (at, _) in self.observations.around(&self.dataset, frame) {
                condition.extend_from_slice(self.observed.row(at));
            }
            for (at, repeated) in self.actions.around(&self.dataset, frame) {
                actions.extend_from_slice(self.done.row(at));
                inside.push(if repeated { 0.0 } else { 1.0 });
            }
        }
        let batch = frames.len();
        let [horizon, width] = self.shape();
        let observed = condition.len() / batch;
        Batch {
            condition: Tensor::from_data(TensorData::new(condition, [batch, observed]), device),
            actions: Tensor::from_data(TensorData::new(actions, [batch, horizon, width]), device),
            inside: Tensor::from_data(TensorData::new(inside, [batch, horizon, 1]), device),
        }
    }
}

/// How a feature is normalized, from its statistics as they are saved: in f32.
pub(super) fn normalizer(
    dataset: &Dataset,
    feature: &Feature,
    kept: &mut Kept,
) -> Result<Normalizer, TrainError> {
    let Some(names) = feature.mode.statistics() else {
        return Ok(Normalizer::identity(feature.len));
    };
    let statistics = dataset.statistics(&feature.name);
    let mut read = |statistic: &'static str| {
        let values = statistics.and_then(|it| it.get(statistic));
        let values = values.ok_or_else(|| TrainError::NoStatistic {
            feature: feature.name.clone(),
            statistic,
            mode: feature.mode.to_string(),
        })?;
        let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
        let rounded = values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        kept.entry(feature.name.clone())
            .or_default()
            .insert(statistic.into(), values);
        Ok::<_, TrainError>(rounded)
    };
    let (first, second) = (read(names[0])?, read(names[1])?);
    let edition = Edition::Processor { eps: EPS };
    Normalizer::new(feature.mode, edition, &first, &second).map_err(|error| {
        TrainError::Statistics {
            feature: feature.name.clone(),
            error,
        }
    })
}
