//! A policy: its configuration, its network and its normalization.

use std::path::Path;
use std::time::Duration;

use burn::tensor::Device;
use clearway_layers::{
    Calibration, CalibrationError, PackPolicy, PackReport, Precision, RoundedWeight, Weights,
    WeightsWriter,
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::config::{DiffusionConfig, Feature, FeatureKind};
use super::json::{self, Entry, Names};
use super::statistics::{MODEL, Normalization, weights};
use super::vision::Vision;
use crate::network::ConditionalUnet1d;
use crate::normalization::Normalizer;
use crate::{History, LoadError, Method, Observation, ObservationError, Sampling};

pub(super) const CONFIG: &str = "config.json";

/// What LeRobot's configuration has no words for; LeRobot reads no file of this name.
pub(super) const OURS: &str = "clearway.json";

/// Where LeRobot keeps the network's weights.
pub(super) const UNET: &str = "diffusion.unet.";

/// `torch.compile` wraps the network, and a wrapped network is saved with this in every key. From LeRobot 0.5.1 on.
const COMPILED: &str = "_orig_mod.";

/// What is read of `config.json` a second time, for its order.
#[derive(Deserialize)]
struct Inputs {
    input_features: Names,
}

/// A diffusion policy that LeRobot trained.
///
/// It holds no state: what it computes depends on its arguments alone.
#[derive(Clone, Debug)]
pub struct Policy {
    config: DiffusionConfig,
    network: ConditionalUnet1d,
    inputs: Vec<Normalizer>,
    names: Vec<String>,
    vision: Option<Vision>,
    action: Normalizer,
    sampling: Sampling,
    hash: String,
    stored: Option<PackPolicy>,
}

impl Policy {
    /// Loads a policy from the folder that LeRobot's `save_pretrained` wrote.
    ///
    /// # Errors
    ///
    /// If anything that the policy needs is missing, malformed or contradictory, or the model holds anything that has
    /// no meaning here.
    pub fn load(path: &Path, device: &Device) -> Result<Self, LoadError> {
        let text = json::text(path, CONFIG)?;
        let json = json::parse(CONFIG, &text)?;
        let json = Entry::root(CONFIG, &json);
        // Where it is missing or no map, this is the error that says so.
        let _ = json.get("input_features")?.entries()?;
        let Inputs {
            input_features: Names(names),
        } = json::parse(CONFIG, &text)?;
        let config = DiffusionConfig::read(&json, &names)?;
        let in_model = |error| weights(MODEL, error);
        let mut model = Weights::open(&path.join(MODEL)).map_err(in_model)?;
        let mut hash = Sha256::new();
        model
            .for_each_block(|block| hash.update(block))
            .map_err(in_model)?;
        let mut model = model
            .rename(|key| key.replace(COMPILED, ""))
            .map_err(in_model)?;
        let normalization = Normalization::read(path, &config, &mut model)?;
        let network = config
            .network()
            .init(device)
            .load(&mut model, UNET)
            .map_err(in_model)?;
        let vision = match &config.vision {
            Some(vision) => Some(
                Vision::load(
                    vision,
                    normalization.images,
                    normalization.cameras,
                    &mut model,
                    device,
                )
                .map_err(in_model)?,
            ),
            None => None,
        };
        model.finish().map_err(in_model)?;
        let sampling = match sampling(path, &config)? {
            Some(sampling) => sampling,
            None => Sampling::of(&config),
        };
        Ok(Self {
            sampling,
            config,
            network,
            inputs: normalization.inputs,
            names: normalization.names,
            vision,
            action: normalization.action,
            hash: format!("{:x}", hash.finalize()),
            stored: model.packing().cloned(),
        })
    }

    /// A policy of a configuration with random weights, which are drawn when they are first used: to measure how fast it
    /// is. It normalizes nothing, has no camera whatever the configuration says, and its hash is empty.
    pub fn random(config: DiffusionConfig, device: &Device) -> Self {
        let identity = |feature: &Feature| Normalizer::identity(feature.len);
        let config = DiffusionConfig {
            vision: None,
            ..config
        };
        Self {
            network: config.network().init(device),
            inputs: config.inputs.iter().map(identity).collect(),
            names: config.inputs.iter().map(|it| it.name.clone()).collect(),
            vision: None,
            action: identity(&config.action),
            sampling: Sampling::of(&config),
            hash: String::new(),
            stored: None,
            config,
        }
    }

    /// Lays the networks' weights out for the CPU's kernels, see [`ConditionalUnet1d::pack`] and
    /// [`RgbEncoder::pack`](crate::network::RgbEncoder::pack). What cannot be packed stays as it is.
    ///
    /// Where the file's weights are [stored](Self::stored) in that precision, and the policy names no layers, the file says
    /// which are.
    pub fn pack(&mut self, policy: impl Into<PackPolicy>) -> PackReport {
        let mut policy = policy.into();
        if let Some(stored) = &self.stored
            && policy.keep.is_none()
            && stored.precision == policy.precision
        {
            policy = stored.clone();
        }
        let vision = self.vision.as_mut().map(|vision| vision.pack(&policy));
        self.network.pack(policy) + vision.unwrap_or_default()
    }

    /// Makes codes of the network's weights for what its layers read in a calibration, see [`ConditionalUnet1d::round`].
    ///
    /// # Errors
    ///
    /// As [`Calibration::round`].
    pub fn round(
        self,
        calibration: &Calibration,
        policy: &PackPolicy,
    ) -> Result<(Self, Vec<RoundedWeight>), CalibrationError> {
        let (network, rounded) = self.network.round(calibration, policy)?;
        Ok((Self { network, ..self }, rounded))
    }

    /// How the weights are packed in the file, where they are: in codes, or bf16.
    pub fn stored(&self) -> Option<&PackPolicy> {
        self.stored.as_ref()
    }

    /// Writes the policy's weights as they are, packed ones in as many bits, to a file that takes the place of `model`'s:
    /// whatever else that one holds is copied.
    ///
    /// The other files of the folder know nothing of packing and can be copied.
    ///
    /// # Errors
    ///
    /// If the folder of the policy that this one was loaded from cannot be read any more, or the file not be written.
    pub fn save_weights(
        &self,
        from: &Path,
        to: &Path,
        policy: &PackPolicy,
    ) -> Result<(), LoadError> {
        let mut writer = WeightsWriter::default();
        self.network.save(&mut writer, UNET);
        if let Some(vision) = &self.vision {
            vision.save(&mut writer);
        }
        writer.packing(policy);
        let in_model = |error| weights(MODEL, error);
        let model = Weights::open(&from.join(MODEL)).map_err(in_model)?;
        let mut model = model
            .rename(|key| key.replace(COMPILED, ""))
            .map_err(in_model)?;
        writer.copy_others(&mut model).map_err(in_model)?;
        let written = writer.write(&to.join(MODEL));
        written.map_err(|error| in_model(error.into()))
    }

    /// What the network's weights are packed in; nothing where they are plain.
    pub fn precision(&self) -> Option<Precision> {
        self.network.precision()
    }

    /// The configuration.
    pub fn config(&self) -> &DiffusionConfig {
        &self.config
    }

    /// How it is meant to be sampled: as `clearway.json` says where the folder has one, else as the configuration does.
    ///
    /// A student of few steps has that file, since LeRobot's configuration knows neither its solver nor its grid:
    /// `{ "solver": "consistency", "steps": 2 }`, with the names of [`Method`], and `"offset": 40` where the last step is at another
    /// timestep than the solver's own.
    pub fn sampling(&self) -> Sampling {
        self.sampling
    }

    /// The network.
    pub fn network(&self) -> &ConditionalUnet1d {
        &self.network
    }

    /// What looks at images, where the policy has a camera.
    pub fn vision(&self) -> Option<&Vision> {
        self.vision.as_ref()
    }

    /// The number of the networks' parameters.
    pub fn parameters(&self) -> usize {
        let vision = self.vision.as_ref().map_or(0, Vision::parameters);
        self.network.parameters() + vision
    }

    /// The SHA-256 of the weights file, in hexadecimal: what the Hugging Face Hub shows for the file.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// What observations call each of the configuration's [inputs](DiffusionConfig::inputs): the feature's own name,
    /// unless the policy renames observations.
    pub fn observed_names(&self) -> &[String] {
        &self.names
    }

    /// How each of the configuration's [inputs](DiffusionConfig::inputs) is normalized.
    pub fn input_normalizers(&self) -> &[Normalizer] {
        &self.inputs
    }

    /// How actions are normalized.
    pub fn action_normalizer(&self) -> &Normalizer {
        &self.action
    }

    /// What the newest observations condition the network on.
    ///
    /// For each of the `n_obs_steps` newest observations, the oldest first, the normalized values of the state, the
    /// features of what each camera saw, and the normalized values of the environment state. Where there are fewer
    /// observations, the oldest is repeated, as LeRobot does at the start of an episode.
    ///
    /// # Shapes
    ///
    /// - returns: `[condition_dim]`
    ///
    /// # Errors
    ///
    /// If there is no observation, or one lacks a feature or an image, has a wrong number of values or an image of
    /// another size, or a value that does not normalize to a finite number.
    pub fn condition(&self, history: &History) -> Result<Vec<f32>, ObservationError> {
        self.condition_of(history.newest_or_repeated(self.config.n_obs_steps))
    }

    /// What observations condition the network on that may come faster or slower than the policy's own period: those
    /// nearest to its steps back from the newest, see [`History::every`].
    ///
    /// # Shapes
    ///
    /// - returns: `[condition_dim]`
    ///
    /// # Errors
    ///
    /// As [`condition`](Self::condition).
    pub fn condition_every(
        &self,
        period: Duration,
        history: &History,
    ) -> Result<Vec<f32>, ObservationError> {
        self.condition_of(history.every(period, self.config.n_obs_steps))
    }

    fn condition_of<'a>(
        &self,
        observations: impl Iterator<Item = &'a Observation>,
    ) -> Result<Vec<f32>, ObservationError> {
        let observations: Vec<&Observation> = observations.collect();
        if observations.is_empty() {
            return Err(ObservationError::Empty);
        }
        // Wrong values are found before the network runs.
        let mut vectors = Vec::with_capacity(observations.len());
        for observation in &observations {
            let [mut before, mut after] = [Vec::new(), Vec::new()];
            let inputs = self.inputs.iter().zip(&self.names);
            for (feature, (normalizer, name)) in self.config.inputs.iter().zip(inputs) {
                let normalized = normalized(observation, name, normalizer)?;
                let place = if feature.kind < FeatureKind::Visual {
                    &mut before
                } else {
                    &mut after
                };
                place.extend(normalized);
            }
            vectors.push([before, after]);
        }
        let features = match &self.vision {
            Some(vision) => vision.features(&observations)?,
            None => vec![Vec::new(); observations.len()],
        };
        let mut condition = Vec::with_capacity(self.config.condition_dim());
        for ([before, after], features) in vectors.into_iter().zip(features) {
            condition.extend(before);
            condition.extend(features);
            condition.extend(after);
        }
        Ok(condition)
    }

    /// Actions in physical units from what the network generated.
    ///
    /// # Shapes
    ///
    /// - normalized: `[rows, action]`, row-major; any number of rows
    /// - returns: the same
    ///
    /// # Panics
    ///
    /// If `normalized` is not made of whole rows.
    pub fn actions(&self, normalized: &[f32]) -> Vec<f64> {
        self.action.unnormalize(normalized).collect()
    }

    /// What the network would call actions in physical units; undoes [`actions`](Self::actions).
    ///
    /// # Shapes
    ///
    /// - actions: `[rows, action]`, row-major; any number of rows
    /// - returns: the same
    ///
    /// # Panics
    ///
    /// If `actions` is not made of whole rows.
    pub fn normalized_actions(&self, actions: &[f64]) -> Vec<f32> {
        self.action.normalize(actions).map(|y| y as f32).collect()
    }
}

/// What `clearway.json` says, where there is one.
fn sampling(folder: &Path, config: &DiffusionConfig) -> Result<Option<Sampling>, LoadError> {
    if !folder.join(OURS).exists() {
        return Ok(None);
    }
    let json = json::read(folder, OURS)?;
    let json = Entry::root(OURS, &json);
    let solver = json.get("solver")?;
    let timesteps = config.num_train_timesteps;
    let steps = json.get("steps")?.integer(1..=timesteps)?;
    let most = timesteps - 1 - (steps - 1) * (timesteps / steps);
    let offset = json.find("offset")?;
    let offset = offset.map(|it| it.integer(0..=most)).transpose()?;
    let method = solver.one_of(&Method::ALL.map(|method| (method.name(), method)))?;
    Ok(Some(Sampling::new(method, steps).with_offset(offset)))
}

/// The values of a feature, normalized.
fn normalized(
    observation: &Observation,
    name: &str,
    normalizer: &Normalizer,
) -> Result<Vec<f32>, ObservationError> {
    let feature = || name.to_owned();
    let values = observation
        .get(name)
        .ok_or_else(|| ObservationError::Missing { feature: feature() })?;
    if values.len() != normalizer.len() {
        return Err(ObservationError::Length {
            feature: feature(),
            expected: normalizer.len(),
            found: values.len(),
        });
    }
    let normalized = normalizer.normalize(values).map(|value| value as f32);
    let normalized: Vec<f32> = normalized.collect();
    match normalized.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(ObservationError::NonFinite {
            feature: feature(),
            index,
            found: values[index],
        }),
        None => Ok(normalized),
    }
}
