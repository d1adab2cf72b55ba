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

/// What the numbered modules of one way through the U-Net are, by the beginnings of their keys: `input_blocks.4.1.`.
///
/// A block ends where height and width change. Numbers may be left out, as in networks from which blocks were taken.
fn names(weights: &Weights, numbered: &str, way: &str) -> BTreeMap<String, String> {
    let keys: BTreeSet<&str> = weights.keys().collect();
    let modules: BTreeSet<(usize, usize)> = (keys.iter())
        .filter_map(|key| {
            let mut parts = key.strip_prefix(numbered)?.split('.');
            let number = parts.next()?.parse().ok()?;
            Some((number, parts.next()?.parse().ok()?))
        })
        .collect();
    let mut names = BTreeMap::new();
    let (mut block, mut layers) = (0, 0);
    for (number, part) in modules {
        let module = format!("{numbered}{number}.{part}.");
        let has = |leaf: &str| keys.contains(format!("{module}{leaf}").as_str());
        let name = if has("op.weight") {
            (block, layers) = (block + 1, 0);
            format!("{way}.{}.downsamplers.0.", block - 1)
        } else if has("conv.weight") {
            (block, layers) = (block + 1, 0);
            format!("{way}.{}.upsamplers.0.", block - 1)
        } else if has("in_layers.0.weight") {
            layers += 1;
            format!("{way}.{block}.resnets.{}.", layers - 1)
        } else if has("norm.weight") && layers > 0 {
            format!("{way}.{block}.attentions.{}.", layers - 1)
        } else {
            continue;
        };
        names.insert(module, name);
    }
    names
}

fn unet(weights: Weights) -> Result<Weights, WeightsError> {
    let mut names = names(&weights, "input_blocks.", "down_blocks");
    names.append(&mut self::names(&weights, "output_blocks.", "up_blocks"));
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

#[cfg(test)]
mod tests {
    use super::super::tests::weights;
    use super::*;

    /// One number a tensor.
    fn renamed(keys: &[&str]) -> Vec<String> {
        let shapes: Vec<(&str, &[usize])> = keys.iter().map(|key| (*key, &[1][..])).collect();
        let weights = unet(weights(&shapes)).expect("no two are the same");
        weights.keys().map(str::to_owned).collect()
    }

    #[test]
    fn numbers_may_be_left_out() {
        // A network of one layer a block, with the numbers that it would have had with two.
        let gaps = [
            "input_blocks.1.0.in_layers.0.weight",
            "input_blocks.1.1.norm.weight",
            "input_blocks.3.0.op.weight",
            "input_blocks.4.0.in_layers.0.weight",
            "output_blocks.0.0.in_layers.0.weight",
            "output_blocks.1.0.in_layers.0.weight",
            "output_blocks.2.2.conv.weight",
            "output_blocks.3.0.out_layers.3.weight",
            "output_blocks.3.0.in_layers.0.weight",
            "output_blocks.3.1.norm.weight",
        ];
        let none = [
            "input_blocks.1.0.in_layers.0.weight",
            "input_blocks.1.1.norm.weight",
            "input_blocks.2.0.op.weight",
            "input_blocks.3.0.in_layers.0.weight",
            "output_blocks.0.0.in_layers.0.weight",
            "output_blocks.1.0.in_layers.0.weight",
            "output_blocks.1.1.conv.weight",
            "output_blocks.2.0.out_layers.3.weight",
            "output_blocks.2.0.in_layers.0.weight",
            "output_blocks.2.1.norm.weight",
        ];
        let expected = [
            "down_blocks.0.attentions.0.norm.weight",
            "down_blocks.0.downsamplers.0.conv.weight",
            "down_blocks.0.resnets.0.norm1.weight",
            "down_blocks.1.resnets.0.norm1.weight",
            "up_blocks.0.resnets.0.norm1.weight",
            "up_blocks.0.resnets.1.norm1.weight",
            "up_blocks.0.upsamplers.0.conv.weight",
            "up_blocks.1.attentions.0.norm.weight",
            "up_blocks.1.resnets.0.conv2.weight",
            "up_blocks.1.resnets.0.norm1.weight",
        ];
        assert_eq!(renamed(&gaps), expected);
        assert_eq!(renamed(&none), expected);
    }
}
