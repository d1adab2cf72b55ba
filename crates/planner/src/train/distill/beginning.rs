//! Who may learn from whom, and on what.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clearway_diffusion::distill::Kind;
use serde_json::{Value, json};

use super::recipe::Distillation;
use crate::Policy;
use crate::dataset::Dataset;
use crate::lerobot::json::Entry;
use crate::lerobot::{DiffusionConfig, NoiseScheduler, Prediction};
use crate::normalization::Normalizer;
use crate::train::TrainError;
use crate::train::examples::normalizer;

/// Makes sure that a student can begin as a policy.
pub(super) fn same_task(
    teacher: &DiffusionConfig,
    start: &DiffusionConfig,
    recipe: &Distillation,
) -> Result<(), TrainError> {
    let rows = [
        ("input_features", teacher.inputs == start.inputs),
        ("output_features", teacher.action == start.action),
        ("n_obs_steps", teacher.n_obs_steps == start.n_obs_steps),
        ("horizon", teacher.horizon == start.horizon),
        (
            "num_train_timesteps",
            teacher.num_train_timesteps == start.num_train_timesteps,
        ),
        (
            "beta_schedule",
            teacher.beta_schedule == start.beta_schedule
                && (teacher.beta_start, teacher.beta_end) == (start.beta_start, start.beta_end),
        ),
        (
            "clip_sample_range",
            teacher.clip_sample_range == start.clip_sample_range,
        ),
    ];
    match rows.into_iter().find(|(_, holds)| !holds) {
        Some((key, _)) => Err(TrainError::OtherTask {
            folder: recipe
                .student
                .start
                .as_ref()
                .map_or_else(String::new, |it: &PathBuf| it.display().to_string()),
            key,
        }),
        None => Ok(()),
    }
}

/// The student's `config.json`, which is that of its beginning but for what the recipe changes, and what it means.
pub(super) fn student_config(
    recipe: &Distillation,
    start: &Policy,
    mut json: Value,
) -> Result<(Value, DiffusionConfig), TrainError> {
    let student = &recipe.student;
    // Whoever samples in few steps begins in pure noise, where a network that predicts noise says nothing.
    let few = (recipe.distill.kind != Kind::Structure
        && start.config().prediction == Prediction::Epsilon)
        .then(|| "sample".to_owned());
    if let Some(prediction) = student.prediction_type.clone().or(few) {
        json["prediction_type"] = json!(prediction);
    }
    if let Some(dims) = &student.down_dims {
        json["down_dims"] = json!(dims);
    }
    // LeRobot has no other deterministic scheduler.
    if start.config().noise_scheduler != NoiseScheduler::Ddim
        && matches!(recipe.distill.kind, Kind::Progressive | Kind::Rollout)
    {
        json["noise_scheduler_type"] = json!("DDIM");
    }
    let names: Vec<String> = start
        .config()
        .inputs
        .iter()
        .map(|it| it.name.clone())
        .collect();
    let config = DiffusionConfig::read(&Entry::root("the student's config.json", &json), &names)?;
    Ok((json, config))
}

/// Makes sure that a dataset's statistics are those that a policy was trained with.
pub(super) fn same_statistics(policy: &Policy, dataset: &Dataset) -> Result<(), TrainError> {
    /// Relative; statistics are saved in f32, and LeRobot's editions divide by other epsilons.
    const SAME: f64 = 1e-5;
    let config = policy.config();
    let theirs = (config.inputs.iter().zip(policy.input_normalizers()))
        .chain([(&config.action, policy.action_normalizer())]);
    for (feature, theirs) in theirs {
        let found = dataset.info().features[&feature.name].shape.clone();
        if found != [feature.len] {
            return Err(TrainError::OtherShape {
                feature: feature.name.clone(),
                expected: feature.len,
                found,
            });
        }
        let ours = normalizer(dataset, feature, &mut BTreeMap::new())?;
        let values = |it: &Normalizer| -> Vec<f64> {
            let ends = [-1.0, 1.0].map(|end| vec![end; it.len()]);
            ends.iter()
                .flat_map(|end| it.unnormalize(end).collect::<Vec<_>>())
                .collect()
        };
        let is_same = (values(&ours).iter().zip(values(theirs)))
            .all(|(a, b)| (a - b).abs() <= SAME * (1.0 + a.abs()));
        if !is_same {
            return Err(TrainError::OtherStatistics {
                feature: feature.name.clone(),
            });
        }
    }
    Ok(())
}
