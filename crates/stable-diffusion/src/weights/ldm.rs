//! Single files in the layout of the original code, under diffusers' names.
//!
//! Which block is which is read off the keys that are there, so that networks from which blocks were taken load as they
//! are.

use std::collections::{BTreeMap, BTreeSet};

use clearway_layers::{Weights, WeightsError};

use super::Component;

/// Where the networks begin in a file of everything, and what each has whatever else was taken from it.
const UNET: &str = "model.diffusion_model.";
const AUTOENCODER: &str = "first_stage_model.";
const CLIP: &str = "cond_stage_model.transformer.";
const CONTROL: &str = "control_model.";
const OPEN_CLIP: &str = "cond_stage_model.model.";

/// The last layer of OpenCLIP's encoder, which Stable Diffusion 2 does not use.
const LAYERS: &str = "encoder.layers.";

/// The tensors of one network under diffusers' names, or the key by which it was looked for.
pub(super) fn part(
    weights: Weights,
    component: Component,
) -> Result<Result<Weights, String>, WeightsError> {
    let has = |key: String| weights.shape(&key).is_some();
    // A file may hold one network alone, without a prefix, under the original names or diffusers'.
    let (prefixes, keys): (&[&str], &[&str]) = match component {
        Component::Unet => (
            &[UNET, ""],
            &["input_blocks.0.0.weight", "time_embedding.linear_1.weight"],
        ),
        Component::Autoencoder => (&[AUTOENCODER, ""], &["decoder.conv_in.weight"]),
        Component::TextEncoder => (
            &[CLIP, OPEN_CLIP, ""],
            &[
                "text_model.embeddings.token_embedding.weight",
                "embeddings.token_embedding.weight",
                "token_embedding.weight",
            ],
        ),
    };
    let found = prefixes
        .iter()
        .find(|prefix| keys.iter().any(|key| has(format!("{prefix}{key}"))));
    let Some(prefix) = found else {
        return Ok(Err(format!("{}{}", prefixes[0], keys[0])));
    };
    let weights = weights.within(prefix);
    Ok(Ok(match component {
        Component::Unet => unet(weights)?,
        Component::Autoencoder => autoencoder(weights)?,
        Component::TextEncoder => text_encoder(weights)?,
    }))
}

/// The tensors of a ControlNet under diffusers' names, or the key by which it was looked for.
pub(super) fn controlnet(weights: Weights) -> Result<Result<Weights, String>, WeightsError> {
    /// Behind the convolutions of the picture stand activations, which are counted.
    const LAST_HINT: usize = 14;
    let key = "zero_convs.0.0.weight";
    let found = [CONTROL, ""]
        .into_iter()
        .find(|prefix| weights.shape(&format!("{prefix}{key}")).is_some());
    let Some(prefix) = found else {
        return Ok(Err(format!("{CONTROL}{key}")));
    };
    let weights =
        weights
            .within(prefix)
            .rename(|key| match key.split('.').collect::<Vec<_>>()[..] {
                ["zero_convs", i, "0", leaf] => format!("controlnet_down_blocks.{i}.{leaf}"),
                ["middle_block_out", "0", leaf] => format!("controlnet_mid_block.{leaf}"),
                ["input_hint_block", i, leaf] => {
                    let name = match i.parse::<usize>() {
                        Ok(0) => "conv_in".into(),
                        Ok(LAST_HINT) => "conv_out".into(),
                        Ok(i) if i.is_multiple_of(2) => format!("blocks.{}", i / 2 - 1),
                        _ => return key.into(),
                    };
                    format!("controlnet_cond_embedding.{name}.{leaf}")
                }
                _ => key.into(),
            })?;
    unet(weights).map(Ok)
}

/// Leaves out the layers from `used` on, as the original code does.
pub(super) fn leave_out_layers(weights: &mut Weights, used: usize) {
    let unused: Vec<String> = weights
        .keys()
        .filter(|key| {
            let number = key
                .split_once(LAYERS)
                .map(|(_, rest)| rest.split('.').next());
            let number = number
                .flatten()
                .and_then(|number| number.parse::<usize>().ok());
            number.is_some_and(|number| number >= used)
        })
        .map(str::to_owned)
        .collect();
    for key in unused {
        weights.ignore(&key);
    }
}

/// The beginnings of keys, cut at their third dot: `input_blocks.4.1.`.
fn modules(weights: &Weights) -> BTreeSet<String> {
    let module = |key: &str| {
        let end = key.match_indices('.').nth(2)?.0;
        Some(key[..=end].to_owned())
    };
    weights.keys().filter_map(module).collect()
}

fn unet(weights: Weights) -> Result<Weights, WeightsError> {
    let modules = modules(&weights);
    let keys: BTreeSet<String> = weights.keys().map(str::to_owned).collect();
    let has = |module: &str| modules.contains(module);
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let (mut block, mut layer) = (0, 0);
    for n in 1.. {
        let module = |part: usize| format!("input_blocks.{n}.{part}.");
        if !has(&module(0)) {
            break;
        }
        if keys.contains(&format!("{}op.weight", module(0))) {
            names.insert(module(0), format!("down_blocks.{block}.downsamplers.0."));
            (block, layer) = (block + 1, 0);
        } else {
            names.insert(module(0), format!("down_blocks.{block}.resnets.{layer}."));
            names.insert(
                module(1),
                format!("down_blocks.{block}.attentions.{layer}."),
            );
            layer += 1;
        }
    }
    (block, layer) = (0, 0);
    for n in 0.. {
        let module = |part: usize| format!("output_blocks.{n}.{part}.");
        if !has(&module(0)) {
            break;
        }
        names.insert(module(0), format!("up_blocks.{block}.resnets.{layer}."));
        let mut is_last = false;
        for part in 1..=2 {
            if keys.contains(&format!("{}conv.weight", module(part))) {
                names.insert(module(part), format!("up_blocks.{block}.upsamplers.0."));
                is_last = true;
            } else {
                names.insert(
                    module(part),
                    format!("up_blocks.{block}.attentions.{layer}."),
                );
            }
        }
        (block, layer) = if is_last {
            (block + 1, 0)
        } else {
            (block, layer + 1)
        };
    }
    weights.rename(|key| {
        for (before, now) in [
            ("time_embed.0.", "time_embedding.linear_1."),
            ("time_embed.2.", "time_embedding.linear_2."),
            ("time_embed.cond_proj.", "time_embedding.cond_proj."),
            ("input_blocks.0.0.", "conv_in."),
            ("out.0.", "conv_norm_out."),
            ("out.2.", "conv_out."),
            ("middle_block.1.", "mid_block.attentions.0."),
        ] {
            if let Some(rest) = key.strip_prefix(before) {
                return format!("{now}{rest}");
            }
        }
        for (before, now) in [
            ("middle_block.0.", "mid_block.resnets.0."),
            ("middle_block.2.", "mid_block.resnets.1."),
        ] {
            if let Some(rest) = key.strip_prefix(before) {
                return format!("{now}{}", in_resnet(rest));
            }
        }
        let Some((end, _)) = key.match_indices('.').nth(2) else {
            return key.into();
        };
        let (module, rest) = key.split_at(end + 1);
        match names.get(module) {
            Some(name) if name.contains(".resnets.") => format!("{name}{}", in_resnet(rest)),
            Some(name) if name.contains(".downsamplers.") => {
                format!("{name}{}", rest.replacen("op.", "conv.", 1))
            }
            Some(name) => format!("{name}{rest}"),
            None => key.into(),
        }
    })
}

/// A U-Net's residual block.
fn in_resnet(rest: &str) -> String {
    for (before, now) in [
        ("in_layers.0.", "norm1."),
        ("in_layers.2.", "conv1."),
        ("emb_layers.1.", "time_emb_proj."),
        ("out_layers.0.", "norm2."),
        ("out_layers.3.", "conv2."),
        ("skip_connection.", "conv_shortcut."),
    ] {
        if let Some(rest) = rest.strip_prefix(before) {
            return format!("{now}{rest}");
        }
    }
    rest.into()
}

fn autoencoder(weights: Weights) -> Result<Weights, WeightsError> {
    // The original code counts the decoder's stages from the finest, diffusers from the coarsest.
    let stages = weights
        .keys()
        .filter_map(|key| {
            key.strip_prefix("decoder.up.")?
                .split('.')
                .next()?
                .parse()
                .ok()
        })
        .fold(0, |most: usize, stage: usize| {
            most.max(stage.saturating_add(1))
        });
    let mut weights = weights.rename(|key| {
        let names: Vec<&str> = key.split('.').collect();
        let name = match names[..] {
            ["encoder", "down", i, "block", j, ref rest @ ..] => {
                format!("encoder.down_blocks.{i}.resnets.{j}.{}", rest.join("."))
            }
            ["encoder", "down", i, "downsample", ref rest @ ..] => {
                format!("encoder.down_blocks.{i}.downsamplers.0.{}", rest.join("."))
            }
            ["decoder", "up", i, ref rest @ ..] => {
                let Some(i) = i.parse::<usize>().ok().filter(|i| *i < stages) else {
                    return key.into();
                };
                let i = stages - 1 - i;
                match rest {
                    ["block", j, rest @ ..] => {
                        format!("decoder.up_blocks.{i}.resnets.{j}.{}", rest.join("."))
                    }
                    ["upsample", rest @ ..] => {
                        format!("decoder.up_blocks.{i}.upsamplers.0.{}", rest.join("."))
                    }
                    _ => return key.into(),
                }
            }
            [half, "mid", part, ref rest @ ..] => {
                let rest = rest.join(".");
                match part {
                    "block_1" => format!("{half}.mid_block.resnets.0.{rest}"),
                    "block_2" => format!("{half}.mid_block.resnets.1.{rest}"),
                    "attn_1" => format!("{half}.mid_block.attentions.0.{}", in_attention(&rest)),
                    _ => return key.into(),
                }
            }
            _ => key.into(),
        };
        name.replace(".nin_shortcut.", ".conv_shortcut.")
            .replace(".norm_out.", ".conv_norm_out.")
    })?;
    // What training compared pictures by.
    let losses: Vec<String> = weights
        .keys()
        .filter(|key| key.starts_with("loss.") || key.starts_with("model_ema."))
        .map(str::to_owned)
        .collect();
    for key in losses {
        weights.ignore(&key);
    }
    Ok(weights)
}

/// The autoencoder's attention.
fn in_attention(rest: &str) -> String {
    for (before, now) in [
        ("norm.", "group_norm."),
        ("q.", "to_q."),
        ("k.", "to_k."),
        ("v.", "to_v."),
        ("proj_out.", "to_out.0."),
    ] {
        if let Some(rest) = rest.strip_prefix(before) {
            return format!("{now}{rest}");
        }
    }
    rest.into()
}

fn text_encoder(weights: Weights) -> Result<Weights, WeightsError> {
    if weights.shape("positional_embedding").is_none() {
        return weights.rename(|key| key.replacen("text_model.", "", 1));
    }
    let mut weights = weights.rename(|key| {
        for (before, now) in [
            (
                "positional_embedding",
                "embeddings.position_embedding.weight",
            ),
            ("token_embedding.", "embeddings.token_embedding."),
            ("ln_final.", "final_layer_norm."),
        ] {
            if let Some(rest) = key.strip_prefix(before) {
                return format!("{now}{rest}");
            }
        }
        key.replacen("transformer.resblocks.", LAYERS, 1)
            .replace(".ln_1.", ".layer_norm1.")
            .replace(".ln_2.", ".layer_norm2.")
            .replace(".attn.", ".self_attn.")
            .replace(".mlp.c_fc.", ".mlp.fc1.")
            .replace(".mlp.c_proj.", ".mlp.fc2.")
    })?;
    weights.ignore("attn_mask");
    let keys: Vec<String> = weights.keys().map(str::to_owned).collect();
    for key in keys {
        if let Some((layer, leaf)) = key.split_once("in_proj_") {
            let parts = ["q", "k", "v"].map(|part| format!("{layer}{part}_proj.{leaf}"));
            weights.split(&key, &[&parts[0], &parts[1], &parts[2]])?;
        }
    }
    Ok(weights)
}
