//! Where a policy's normalization comes from: processors, or the model itself in older policies.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use clearway_layers::{Weights, WeightsError};
use serde_json::Value;

use super::config::{DiffusionConfig, Feature, FeatureKind, NormMap, VisionConfig, mode, norm_map};
use super::json::{self, Entry};
use crate::LoadError;
use crate::normalization::{Edition, Mode, Normalizer, StatisticsError};

pub(super) const MODEL: &str = "model.safetensors";
pub(super) const PREPROCESSOR: &str = "policy_preprocessor.json";
pub(super) const POSTPROCESSOR: &str = "policy_postprocessor.json";

/// How a policy's inputs and its action are normalized, and what observations call the inputs.
#[derive(Debug)]
pub(super) struct Normalization {
    /// One for each of [`DiffusionConfig::inputs`].
    pub(super) inputs: Vec<Normalizer>,
    /// For each of them, what it is called in an observation.
    pub(super) names: Vec<String>,
    /// One for each camera, of its three channels.
    pub(super) images: Vec<Normalizer>,
    /// For each of them, what it is called in an observation.
    pub(super) cameras: Vec<String>,
    pub(super) action: Normalizer,
}

/// What is to be normalized.
#[derive(Clone, Debug)]
struct Normalized<'a> {
    name: &'a str,
    kind: FeatureKind,
    /// As the processor lists it.
    shape: Vec<usize>,
    /// The shape of its statistics.
    statistics: Vec<usize>,
    mode: Mode,
}

impl<'a> From<&'a Feature> for Normalized<'a> {
    fn from(feature: &'a Feature) -> Self {
        Self {
            name: &feature.name,
            kind: feature.kind,
            shape: vec![feature.len],
            statistics: vec![feature.len],
            mode: feature.mode,
        }
    }
}

/// The cameras as features; their statistics are those of the channels.
fn cameras(vision: &VisionConfig) -> impl Iterator<Item = Normalized<'_>> {
    let [height, width] = vision.size;
    vision.cameras.iter().map(move |name| Normalized {
        name,
        kind: FeatureKind::Visual,
        shape: vec![3, height, width],
        statistics: vec![3, 1, 1],
        mode: vision.mode,
    })
}

/// The vectors of the inputs, then the cameras.
fn inputs(config: &DiffusionConfig) -> Vec<Normalized<'_>> {
    let vectors = config.inputs.iter().map(Normalized::from);
    vectors
        .chain(config.vision.iter().flat_map(cameras))
        .collect()
}

impl Normalization {
    /// Reads the statistics from where the policy keeps them.
    ///
    /// A folder without any processor is an older one, whose statistics are tensors of the model, or one whose features
    /// are not normalized at all.
    pub(super) fn read(
        folder: &Path,
        config: &DiffusionConfig,
        model: &mut Weights,
    ) -> Result<Self, LoadError> {
        let has_processors = [PREPROCESSOR, POSTPROCESSOR]
            .iter()
            .any(|file| folder.join(file).exists());
        let has_buffers = model.keys().any(|key| {
            key.starts_with("normalize_inputs.") || key.starts_with("unnormalize_outputs.")
        });
        let needs_none = inputs(config)
            .iter()
            .chain([&(&config.action).into()])
            .all(|feature| feature.mode == Mode::Identity);
        if !has_processors && (has_buffers || needs_none) {
            Self::legacy(config, model)
        } else if has_processors {
            Self::processors(folder, config)
        } else {
            Err(LoadError::NoStatistics)
        }
    }

    /// Up to LeRobot 0.3.3, statistics are buffers of the policy, in whose names dots have become underscores.
    fn legacy(config: &DiffusionConfig, model: &mut Weights) -> Result<Self, LoadError> {
        let mut read = |feature: &Normalized, layer: &str| {
            if let Mode::Quantiles | Mode::Quantile10 = feature.mode {
                return Err(LoadError::Value {
                    file: "config.json".into(),
                    key: format!("normalization_mapping.{}", feature.kind),
                    found: feature.mode.to_string(),
                    expected: "a mode that LeRobot knew when statistics were part of the model"
                        .into(),
                });
            }
            let buffer = feature.name.replace('.', "_");
            normalizer(
                feature,
                feature.mode,
                Edition::Legacy,
                (MODEL, model),
                |statistic| format!("{layer}.buffer_{buffer}.{statistic}"),
            )
        };
        let features = inputs(config);
        let normalizers: Result<Vec<_>, _> = features
            .iter()
            .map(|input| read(input, "normalize_inputs"))
            .collect();
        let normalizers = normalizers?;
        let action = read(&(&config.action).into(), "unnormalize_outputs")?;
        // The same statistics of the action once more, which only training reads.
        let for_training: Vec<String> = model
            .keys()
            .filter(|key| key.starts_with("normalize_targets.buffer_action."))
            .map(Into::into)
            .collect();
        for key in for_training {
            model.ignore(&key);
        }
        let names = features.iter().map(|input| input.name.into()).collect();
        Ok(Self::new(config, normalizers, names, action))
    }

    /// Parts the vectors from the cameras, which follow them.
    fn new(
        config: &DiffusionConfig,
        mut inputs: Vec<Normalizer>,
        mut names: Vec<String>,
        action: Normalizer,
    ) -> Self {
        let vectors = config.inputs.len();
        Self {
            images: inputs.split_off(vectors),
            inputs,
            cameras: names.split_off(vectors),
            names,
            action,
        }
    }

    /// From LeRobot 0.4 on, statistics are the state of steps in two pipelines.
    fn processors(folder: &Path, config: &DiffusionConfig) -> Result<Self, LoadError> {
        let pre = json::read(folder, PREPROCESSOR)?;
        let post = json::read(folder, POSTPROCESSOR)?;
        let mut pre = Pipeline::read(PREPROCESSOR, &pre, folder, "normalizer_processor")?;
        let mut post = Pipeline::read(POSTPROCESSOR, &post, folder, "unnormalizer_processor")?;
        let features = inputs(config);
        let normalizers: Result<Vec<_>, _> = features.iter().map(|i| pre.normalizer(i)).collect();
        let names: Result<Vec<_>, _> = features.iter().map(|i| pre.name(i)).collect();
        let action = post.normalizer(&(&config.action).into())?;
        Ok(Self::new(config, normalizers?, names?, action))
    }
}

/// What matters of a pre- or postprocessor.
struct Pipeline<'a> {
    file: &'a str,
    /// From names in observations to the policy's.
    renames: BTreeMap<String, String>,
    eps: f64,
    map: NormMap,
    features: Entry<'a>,
    /// The observations that are normalized, where not all are.
    only: Option<Vec<&'a str>>,
    state_file: String,
    state: Weights,
}

impl<'a> Pipeline<'a> {
    /// Reads a pipeline, all steps of which must be known, and which holds `normalizer` exactly once.
    fn read(
        file: &'a str,
        json: &'a Value,
        folder: &Path,
        normalizer: &str,
    ) -> Result<Self, LoadError> {
        let steps = Entry::root(file, json).get("steps")?;
        let mut renames = BTreeMap::new();
        let mut this: Option<Self> = None;
        for step in steps.list()? {
            // A step of the user's own has a `class` in place of a name.
            let name = match step.find("registry_name")? {
                Some(name) => name.string()?,
                None => step.get("class")?.string()?,
            };
            let unsupported = || LoadError::ProcessorStep {
                file: file.into(),
                step: name.into(),
            };
            match name {
                // A batch of one, which the condition is anyway.
                "to_batch_processor" => {}
                "device_processor" => no_half_precision(&step)?,
                // Names change before the statistics are looked up.
                "rename_observations_processor" if this.is_none() => {
                    for (from, to) in step.get("config")?.get("rename_map")?.entries()? {
                        renames.insert(from.into(), to.string()?.into());
                    }
                }
                _ if name == normalizer && this.is_none() => {
                    this = Some(Self::normalizing(&step, folder)?);
                }
                _ => return Err(unsupported()),
            }
        }
        let this = this.ok_or_else(|| LoadError::Missing {
            file: file.into(),
            key: format!("steps.{normalizer}"),
        })?;
        Ok(Self { renames, ..this })
    }

    fn normalizing(step: &Entry<'a>, folder: &Path) -> Result<Self, LoadError> {
        let file = step.file();
        let config = step.get("config")?;
        let only = match config.find("normalize_observation_keys")? {
            Some(keys) if !keys.is_null() => {
                let keys: Result<Vec<_>, _> = keys.list()?.map(|key| key.string()).collect();
                Some(keys?)
            }
            _ => None,
        };
        let state_file = step.get("state_file")?.string()?.to_owned();
        let mut components = Path::new(&state_file).components();
        let inside =
            matches!(components.next(), Some(Component::Normal(name)) if *name == *state_file);
        if !inside || components.next().is_some() {
            return Err(LoadError::StateFile {
                file: file.into(),
                name: state_file,
            });
        }
        let state = Weights::open(&folder.join(&state_file))
            .map_err(|error| weights(&state_file, error))?;
        Ok(Self {
            file,
            renames: BTreeMap::new(),
            eps: config
                .get("eps")?
                .number(|eps| 0.0 < eps && eps < 1.0, "a number between 0 and 1")?,
            map: norm_map(&config.get("norm_map")?)?,
            features: config.get("features")?,
            only,
            state_file,
            state,
        })
    }

    /// The normalizer of a feature, after the comparison with what the configuration says of it.
    fn normalizer(&mut self, feature: &Normalized) -> Result<Normalizer, LoadError> {
        // LeRobot passes on silently what the processor does not list.
        let listed = self.features.get(feature.name)?;
        listed.get("type")?.one_of(&[(feature.kind.word(), ())])?;
        let shape = listed.get("shape")?;
        let found = shape.list()?.map(|n| n.integer(0..=usize::MAX));
        if found.collect::<Result<Vec<_>, _>>()? != feature.shape {
            return Err(shape.wrong(format!("{:?}, as in config.json,", feature.shape)));
        }
        // The processor decides, and the two are written from one configuration: where they differ, one of the files
        // is not of this policy.
        let found = mode(&self.map, feature.kind);
        if found != feature.mode {
            return Err(LoadError::Normalization {
                file: self.file.into(),
                kind: feature.kind.to_string(),
                found,
                expected: feature.mode,
            });
        }
        let skipped = feature.kind != FeatureKind::Action
            && self
                .only
                .as_ref()
                .is_some_and(|only| !only.contains(&feature.name));
        normalizer(
            feature,
            if skipped { Mode::Identity } else { found },
            Edition::Processor { eps: self.eps },
            (&self.state_file, &mut self.state),
            |statistic| format!("{}.{statistic}", feature.name),
        )
    }

    /// What an observation calls a feature.
    fn name(&self, feature: &Normalized) -> Result<String, LoadError> {
        let wrong = |found: String, expected: &str| LoadError::Value {
            file: self.file.into(),
            key: "rename_map".into(),
            found,
            expected: expected.into(),
        };
        let mut names = self
            .renames
            .iter()
            .filter(|(_, to)| **to == feature.name)
            .map(|(from, _)| from);
        match (names.next(), names.next()) {
            (Some(one), Some(two)) => Err(wrong(
                format!("`{one}` and `{two}` to `{}`", feature.name),
                "one name",
            )),
            (Some(name), None) => Ok(name.clone()),
            // Renamed to something that the policy does not read, and nothing takes its place.
            (None, _) if self.renames.contains_key(feature.name) => Err(wrong(
                format!("`{}` to `{}`", feature.name, self.renames[feature.name]),
                "a map that leaves the policy its features",
            )),
            (None, _) => Ok(feature.name.into()),
        }
    }
}

/// Values in half precision would be other values.
fn no_half_precision(step: &Entry) -> Result<(), LoadError> {
    match step.get("config")?.find("float_dtype")? {
        Some(dtype) if !dtype.is_null() => dtype.one_of(&[
            ("float32", ()),
            ("float", ()),
            ("float64", ()),
            ("double", ()),
        ]),
        _ => Ok(()),
    }
}

/// Reads the two statistics of a mode and makes a normalizer of them.
fn normalizer(
    feature: &Normalized,
    mode: Mode,
    edition: Edition,
    (file, state): (&str, &mut Weights),
    key: impl Fn(&str) -> String,
) -> Result<Normalizer, LoadError> {
    let Some(statistics) = mode.statistics() else {
        return Ok(Normalizer::identity(feature.statistics.iter().product()));
    };
    let mut read = |statistic| match state.values(&key(statistic), &feature.statistics) {
        Ok(values) => Ok(values.into_iter().map(f64::from).collect::<Vec<_>>()),
        Err(error) => Err(weights(file, error)),
    };
    let (first, second) = (read(statistics[0])?, read(statistics[1])?);
    let wrong = |error| LoadError::Statistics {
        file: file.into(),
        feature: feature.name.into(),
        error,
    };
    let normalizer = Normalizer::new(mode, edition, &first, &second).map_err(wrong)?;
    if feature.kind == FeatureKind::Visual {
        // What lies between normalizes to what lies between.
        for (index, value) in (0..normalizer.len()).flat_map(|i| [(i, 0.0), (i, 1.0)]) {
            let found = normalizer.in_f32(index)(value);
            if !found.is_finite() {
                return Err(wrong(StatisticsError::Unbounded { index, found }));
            }
        }
    }
    Ok(normalizer)
}

pub(super) fn weights(file: &str, error: WeightsError) -> LoadError {
    LoadError::Weights {
        file: file.into(),
        error,
    }
}
