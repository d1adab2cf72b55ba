//! Low-rank updates: files that change a model without replacing it.
//!
//! | whose names | linear layers and convolutions |
//! |---|---|
//! | peft | `unet.down_blocks.0...to_q.lora_A.weight`, `.lora_B.weight`, `.alpha` |
//! | diffusers before peft | `unet...attn1.processor.to_q_lora.down.weight`, `.up.weight`; `...q_proj.lora_linear_layer.down.weight` |
//! | kohya | `lora_unet_down_blocks_0_..._to_q.lora_down.weight`, `.lora_up.weight`, `.alpha`; `lora_te_..` |
//!
//! The update is `scale · alpha / rank · B A`. Alpha is a tensor beside the two, or what peft notes about the file; it is
//! the rank where neither is there.

use std::collections::BTreeMap;
use std::path::Path;

use clearway_layers::weights::LowRank;
use clearway_layers::{Weights, WeightsError};
use serde_json::Value;

use crate::weights::{Component, open};

/// Why a low-rank update cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoraError {
    /// The file cannot be used.
    #[error("{file}: {error}")]
    Weights {
        /// The file.
        file: String,
        /// Why.
        error: WeightsError,
    },
    /// The file holds no update, or a tensor of none.
    #[error("{file} is no LoRA of a U-Net or a text encoder: what is `{key}`?")]
    Key {
        /// The file.
        file: String,
        /// The tensor.
        key: String,
    },
    /// The file holds no tensors.
    #[error("{file} holds no tensors")]
    Empty {
        /// The file.
        file: String,
    },
    /// One half of an update is missing.
    #[error("{file}: the update of `{module}` has no tensor `{half}`")]
    Half {
        /// The file.
        file: String,
        /// The layer.
        module: String,
        /// What is missing.
        half: &'static str,
    },
    /// The two halves do not go together.
    #[error("{file}: the update of `{module}` is a product of shapes {up:?} and {down:?}")]
    Shapes {
        /// The file.
        file: String,
        /// The layer.
        module: String,
        /// The shape of `B`.
        up: Vec<usize>,
        /// The shape of `A`.
        down: Vec<usize>,
    },
    /// The model has no such layer, or one of another shape: the update is of another model.
    #[error("{file} is a LoRA of another model: {error}")]
    OtherModel {
        /// The file.
        file: String,
        /// Where it does not fit.
        error: WeightsError,
    },
    /// The scale is no number.
    #[error("the scale of {file} is {scale}, which is not finite")]
    Scale {
        /// The file.
        file: String,
        /// The scale.
        scale: f64,
    },
}

/// The parts of an update that a file has.
#[derive(Debug, Default)]
struct Parts {
    up: Option<String>,
    down: Option<String>,
    alpha: Option<String>,
}

/// An update of one layer.
#[derive(Clone, Debug)]
struct Update {
    component: Component,
    /// The layer, as the file calls it, without what all layers of the component begin with.
    module: String,
    /// Whether the name has underlines for dots.
    is_flat: bool,
    delta: LowRank,
}

/// A low-rank update of a model's U-Net, its text encoder, or both.
#[derive(Clone, Debug)]
pub struct LowRankUpdate {
    file: String,
    updates: Vec<Update>,
}

impl LowRankUpdate {
    /// Reads a file; `scale` is how much of the update is added.
    ///
    /// # Errors
    ///
    /// If the file is malformed, holds something else or something more, or the scale is not finite.
    pub fn open(path: &Path, scale: f64) -> Result<Self, LoraError> {
        let file = path.display().to_string();
        if !scale.is_finite() {
            return Err(LoraError::Scale { file, scale });
        }
        let in_file = |error| LoraError::Weights {
            file: path.display().to_string(),
            error,
        };
        let mut weights = open(path).map_err(in_file)?;
        let mut parts: BTreeMap<String, Parts> = BTreeMap::new();
        for key in weights.keys() {
            let Some((module, part)) = divide(key) else {
                return Err(LoraError::Key {
                    file,
                    key: key.into(),
                });
            };
            let parts = parts.entry(module).or_default();
            let place = match part {
                Part::Up => &mut parts.up,
                Part::Down => &mut parts.down,
                Part::Alpha => &mut parts.alpha,
            };
            *place = Some(key.to_owned());
        }
        if parts.is_empty() {
            return Err(LoraError::Empty { file });
        }
        let noted = noted(&weights);
        let mut updates = Vec::new();
        for (module, Parts { up, down, alpha }) in parts {
            let half = |key: Option<String>, half| {
                key.ok_or_else(|| LoraError::Half {
                    file: file.clone(),
                    module: module.clone(),
                    half,
                })
            };
            let (up, down) = (half(up, "up")?, half(down, "down")?);
            let Some((component, inner, is_flat)) = place(&module) else {
                return Err(LoraError::Key { file, key: up });
            };
            let shape = |weights: &Weights, key: &str| {
                weights
                    .shape(key)
                    .map(<[usize]>::to_vec)
                    .unwrap_or_default()
            };
            let (up_shape, down_shape) = (shape(&weights, &up), shape(&weights, &down));
            // A convolution's update is a convolution, and then one of a single tap.
            let rank = match (&up_shape[..], &down_shape[..]) {
                ([_, rank], [same, _]) | ([_, rank, 1, 1], [same, _, _, _])
                    if rank == same && *rank > 0 =>
                {
                    *rank
                }
                _ => {
                    return Err(LoraError::Shapes {
                        file,
                        module,
                        up: up_shape,
                        down: down_shape,
                    });
                }
            };
            let alpha = if let Some(key) = alpha {
                let shape = shape(&weights, &key);
                let values = weights.values(&key, &shape).map_err(in_file)?;
                values.first().copied().unwrap_or(rank as f32)
            } else {
                let noted = noted.iter().find(|(name, _)| *name == component);
                noted.map_or(rank as f32, |(_, alpha)| *alpha)
            };
            let delta = LowRank::new(
                weights.values(&up, &up_shape).map_err(in_file)?,
                weights.values(&down, &down_shape).map_err(in_file)?,
                rank,
                (scale * f64::from(alpha) / rank as f64) as f32,
            );
            updates.push(Update {
                component,
                module: inner,
                is_flat,
                delta,
            });
        }
        Ok(Self { file, updates })
    }

    /// The number of layers that are updated.
    pub fn layers(&self) -> usize {
        self.updates.len()
    }

    /// Adds the update to a network's weights, when they are loaded.
    ///
    /// # Errors
    ///
    /// [`LoraError::OtherModel`] if a layer is missing or of another shape.
    pub fn merge(&self, component: Component, weights: &mut Weights) -> Result<(), LoraError> {
        // By the name of the layer, without `text_model.`, which some files have and some have not.
        let plain = |module: &str| match component {
            Component::TextEncoder => module.replacen("text_model.", "", 1),
            _ => module.to_owned(),
        };
        let keys: BTreeMap<String, String> = weights
            .keys()
            .filter_map(|key| Some((plain(key.strip_suffix(".weight")?), key.to_owned())))
            .collect();
        let flat: BTreeMap<String, String> = keys
            .iter()
            .map(|(module, key)| (module.replace('.', "_"), key.clone()))
            .collect();
        for update in self.updates.iter().filter(|it| it.component == component) {
            let key = if update.is_flat {
                let module = update.module.strip_prefix("text_model_");
                flat.get(module.unwrap_or(&update.module))
            } else {
                keys.get(&plain(&update.module))
            };
            let other = |error| LoraError::OtherModel {
                file: self.file.clone(),
                error,
            };
            let key = key.ok_or_else(|| {
                other(WeightsError::Missing {
                    key: update.module.clone(),
                })
            })?;
            weights.merge(key, update.delta.clone()).map_err(other)?;
        }
        Ok(())
    }
}

/// The alphas that diffusers notes about a file, where it does.
fn noted(weights: &Weights) -> Vec<(Component, f32)> {
    let text = weights.metadata().get("lora_adapter_metadata");
    let Some(Ok(Value::Object(entries))) = text.map(|text| serde_json::from_str(text)) else {
        return Vec::new();
    };
    let names = [
        ("unet.lora_alpha", Component::Unet),
        ("text_encoder.lora_alpha", Component::TextEncoder),
    ];
    let alphas = names.into_iter().filter_map(|(name, component)| {
        let alpha = entries.get(name)?.as_f64()?;
        Some((component, alpha as f32))
    });
    alphas.collect()
}

enum Part {
    Up,
    Down,
    Alpha,
}

/// The layer of a tensor, and which part of its update it is.
fn divide(key: &str) -> Option<(String, Part)> {
    for (ending, part) in [
        (".lora_A.weight", Part::Down),
        (".lora_B.weight", Part::Up),
        (".lora_A.default.weight", Part::Down),
        (".lora_B.default.weight", Part::Up),
        (".lora_down.weight", Part::Down),
        (".lora_up.weight", Part::Up),
        (".lora_linear_layer.down.weight", Part::Down),
        (".lora_linear_layer.up.weight", Part::Up),
        (".lora.down.weight", Part::Down),
        (".lora.up.weight", Part::Up),
        ("_lora.down.weight", Part::Down),
        ("_lora.up.weight", Part::Up),
        (".alpha", Part::Alpha),
    ] {
        if let Some(module) = key.strip_suffix(ending) {
            // What attention called its layers before peft.
            let module = module.replace(".processor.", ".");
            let module = match module.strip_suffix(".to_out") {
                Some(attention) => format!("{attention}.to_out.0"),
                None => module,
            };
            return Some((module, part));
        }
    }
    None
}

/// The network of a layer, its name there, and whether that has underlines for dots.
fn place(module: &str) -> Option<(Component, String, bool)> {
    let module = module.strip_prefix("base_model.model.").unwrap_or(module);
    for (beginning, component, is_flat) in [
        ("unet.", Component::Unet, false),
        ("text_encoder.", Component::TextEncoder, false),
        ("lora_unet_", Component::Unet, true),
        ("lora_te_", Component::TextEncoder, true),
        ("lora_te1_", Component::TextEncoder, true),
    ] {
        if let Some(rest) = module.strip_prefix(beginning) {
            return Some((component, rest.to_owned(), is_flat));
        }
    }
    None
}
