//! Writing a policy as LeRobot's `save_pretrained` does.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use clearway_layers::WeightsWriter;
use serde_json::{Value, json};

use super::config::DiffusionConfig;
use super::policy::{CONFIG, OURS, UNET};
use super::statistics::{MODEL, POSTPROCESSOR, PREPROCESSOR};
use crate::Sampling;
use crate::network::ConditionalUnet1d;

/// The names that LeRobot gives the states of its normalizers: the step's place in the pipeline is part of them.
const PRE_STATE: &str = "policy_preprocessor_step_3_normalizer_processor.safetensors";
const POST_STATE: &str = "policy_postprocessor_step_0_unnormalizer_processor.safetensors";

/// What LeRobot adds to standard deviations; the default of its processors.
pub(crate) const EPS: f64 = 1e-8;

/// What a folder of LeRobot's is made of.
pub(crate) struct Saved<'a> {
    /// `config.json`.
    pub(crate) json: &'a Value,
    pub(crate) config: &'a DiffusionConfig,
    /// The statistics of each feature that is normalized, by feature and LeRobot's name.
    pub(crate) statistics: &'a BTreeMap<String, BTreeMap<String, Vec<f32>>>,
    pub(crate) network: &'a ConditionalUnet1d,
    /// How it is meant to be sampled, where the configuration does not say it.
    pub(crate) sampling: Option<Sampling>,
}

impl Saved<'_> {
    /// Writes the folder beside its place and then renames it; what stood there is gone.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        let mut name = folder.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let beside = folder.with_file_name(name);
        if beside.exists() {
            std::fs::remove_dir_all(&beside)?;
        }
        std::fs::create_dir_all(&beside)?;
        self.write_files(&beside)?;
        if folder.exists() {
            std::fs::remove_dir_all(folder)?;
        }
        std::fs::rename(&beside, folder)
    }

    fn write_files(&self, folder: &Path) -> io::Result<()> {
        let text = |file: &str, value: &Value| {
            let mut text = serde_json::to_string_pretty(value)?;
            text.push('\n');
            std::fs::write(folder.join(file), text)
        };
        text(CONFIG, self.json)?;
        if let Some(sampling) = self.sampling {
            let Sampling {
                method,
                steps,
                offset,
            } = sampling;
            let mut ours = json!({ "solver": method.name(), "steps": steps });
            if let Some(offset) = offset {
                ours["offset"] = json!(offset);
            }
            text(OURS, &ours)?;
        }
        let map = &self.json["normalization_mapping"];
        let action = self.config.action.name.as_str();
        let outputs = &self.json["output_features"];
        let mut features = self.json["input_features"].clone();
        features[action] = outputs[action].clone();
        let normalizer = |features: &Value| {
            json!({
                "eps": EPS,
                "features": features,
                "norm_map": map,
            })
        };
        let device = json!({
            "registry_name": "device_processor",
            "config": { "device": "cpu", "float_dtype": null },
        });
        let pre = json!({
            "name": "policy_preprocessor",
            "steps": [
                { "registry_name": "rename_observations_processor", "config": { "rename_map": {} } },
                { "registry_name": "to_batch_processor", "config": {} },
                device,
                {
                    "registry_name": "normalizer_processor",
                    "config": normalizer(&features),
                    "state_file": PRE_STATE,
                },
            ],
        });
        let post = json!({
            "name": "policy_postprocessor",
            "steps": [
                {
                    "registry_name": "unnormalizer_processor",
                    "config": normalizer(outputs),
                    "state_file": POST_STATE,
                },
                device,
            ],
        });
        text(PREPROCESSOR, &pre)?;
        text(POSTPROCESSOR, &post)?;
        // LeRobot gives both the statistics of everything.
        let mut state = WeightsWriter::default();
        for (feature, statistics) in self.statistics {
            for (name, values) in statistics {
                state.tensor(&format!("{feature}.{name}"), &[values.len()], values);
            }
        }
        state.clone().write(&folder.join(PRE_STATE))?;
        state.write(&folder.join(POST_STATE))?;
        let mut model = WeightsWriter::default();
        self.network.save(&mut model, UNET);
        model.write(&folder.join(MODEL))
    }
}
