//! What the shapes of a network's tensors say about it, in the words of diffusers' configurations.
//!
//! They do not say how many heads attention has, nor how many groups normalization: those are of Stable Diffusion 1,
//! or 2 where the text's features are not 768.

use clearway_layers::Weights;
use serde_json::{Value, json};

/// The features of the text that Stable Diffusion 1 reads.
const FEATURES: usize = 768;
/// The heads of Stable Diffusion 1's U-Net.
const HEADS: usize = 8;
/// The features of a head in Stable Diffusion 2's U-Net, and in all text encoders.
const HEAD: usize = 64;

/// An axis of a tensor; 0 where there is no such tensor, which no configuration may be.
fn axis(weights: &Weights, key: &str, axis: usize) -> usize {
    let shape = weights.shape(key);
    shape
        .and_then(|shape| shape.get(axis))
        .copied()
        .unwrap_or(0)
}

/// How many numbered modules there are: `prefix` ends with a dot.
fn count(weights: &Weights, prefix: &str) -> usize {
    let numbers = weights
        .keys()
        .filter_map(|key| key.strip_prefix(prefix)?.split('.').next()?.parse().ok());
    numbers.fold(0, |most: usize, n: usize| most.max(n.saturating_add(1)))
}

fn has(weights: &Weights, prefix: &str) -> bool {
    weights.keys().any(|key| key.starts_with(prefix))
}

pub(super) fn unet(weights: &Weights) -> Value {
    let stages = count(weights, "down_blocks.");
    let each = |of: &dyn Fn(usize) -> Value| -> Vec<Value> { (0..stages).map(of).collect() };
    let channels = |i: usize| {
        axis(
            weights,
            &format!("down_blocks.{i}.resnets.0.conv1.weight"),
            0,
        )
    };
    let transformers = weights
        .keys()
        .filter(|key| key.ends_with(".attn2.to_k.weight"));
    let text = transformers
        .map(|key| axis(weights, key, 1))
        .next()
        .unwrap_or(0);
    let layers = |i: usize| {
        let prefix = format!("down_blocks.{i}.attentions.0.transformer_blocks.");
        count(weights, &prefix).max(1)
    };
    let block = |way: &str, i: usize, attends: &str, plain: &str| {
        let attends_here = has(weights, &format!("{way}_blocks.{i}.attentions."));
        json!(if attends_here { attends } else { plain })
    };
    let mid = if has(weights, "mid_block.attentions.") {
        json!("UNetMidBlock2DCrossAttn")
    } else if has(weights, "mid_block.") {
        json!("UNetMidBlock2D")
    } else {
        Value::Null
    };
    let heads = |i: usize| {
        json!(if text == FEATURES {
            HEADS
        } else {
            (channels(i) / HEAD).max(1)
        })
    };
    let guidance = axis(weights, "time_embedding.cond_proj.weight", 1);
    json!({
        "in_channels": axis(weights, "conv_in.weight", 1),
        "out_channels": axis(weights, "conv_out.weight", 0),
        "block_out_channels": each(&|i| json!(channels(i))),
        "layers_per_block": each(&|i| json!(count(weights, &format!("down_blocks.{i}.resnets.")))),
        "down_block_types": each(&|i| block("down", i, "CrossAttnDownBlock2D", "DownBlock2D")),
        "up_block_types": each(&|i| block("up", i, "CrossAttnUpBlock2D", "UpBlock2D")),
        "mid_block_type": mid,
        "cross_attention_dim": text,
        "transformer_layers_per_block": each(&|i| json!(layers(i))),
        "attention_head_dim": each(&heads),
        "time_cond_proj_dim": if guidance == 0 { Value::Null } else { json!(guidance) },
    })
}

pub(super) fn controlnet(weights: &Weights) -> Value {
    let mut said = unet(weights);
    let embedding = "controlnet_cond_embedding";
    // Every other convolution of the picture has more channels than the one before.
    let mut channels = vec![axis(weights, &format!("{embedding}.conv_in.weight"), 0)];
    let layers = count(weights, &format!("{embedding}.blocks."));
    channels.extend((0..layers / 2).map(|i| {
        let key = format!("{embedding}.blocks.{}.weight", 2 * i + 1);
        axis(weights, &key, 0)
    }));
    said["conditioning_embedding_out_channels"] = json!(channels);
    let picture = axis(weights, &format!("{embedding}.conv_in.weight"), 1);
    said["conditioning_channels"] = json!(picture);
    said
}

pub(super) fn autoencoder(weights: &Weights) -> Value {
    let stages = count(weights, "encoder.down_blocks.");
    let channels = |i: usize| {
        let key = format!("encoder.down_blocks.{i}.resnets.0.conv1.weight");
        json!(axis(weights, &key, 0))
    };
    json!({
        "in_channels": axis(weights, "encoder.conv_in.weight", 1),
        "out_channels": axis(weights, "decoder.conv_out.weight", 0),
        "latent_channels": axis(weights, "decoder.conv_in.weight", 1),
        "block_out_channels": (0..stages).map(channels).collect::<Vec<_>>(),
        "layers_per_block": count(weights, "encoder.down_blocks.0.resnets."),
        "mid_block_add_attention": has(weights, "decoder.mid_block.attentions."),
        "use_quant_conv": has(weights, "quant_conv."),
        "use_post_quant_conv": has(weights, "post_quant_conv."),
    })
}

pub(super) fn text_encoder(weights: &Weights) -> Value {
    let tokens = axis(weights, "embeddings.token_embedding.weight", 0);
    let features = axis(weights, "embeddings.token_embedding.weight", 1);
    let layers = count(weights, "encoder.layers.");
    let is_first = features == FEATURES;
    json!({
        "vocab_size": tokens,
        // The last token ends a text.
        "eos_token_id": tokens.saturating_sub(1),
        "hidden_size": features,
        "intermediate_size": axis(weights, "encoder.layers.0.mlp.fc1.weight", 0),
        // Stable Diffusion 2 reads what the last layer but one says.
        "num_hidden_layers": if is_first { layers } else { layers.saturating_sub(1) },
        "num_attention_heads": (features / HEAD).max(1),
        "max_position_embeddings": axis(weights, "embeddings.position_embedding.weight", 0),
        "hidden_act": if is_first { "quick_gelu" } else { "gelu" },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::{ClipTextConfig, UnetConfig};

    /// Weights of these shapes, all zero.
    fn weights(shapes: &[(&str, &[usize])]) -> Weights {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.safetensors");
        let mut header = serde_json::Map::new();
        let mut at = 0;
        for (key, shape) in shapes {
            let end = at + 2 * shape.iter().product::<usize>();
            let entry = json!({"dtype": "F16", "shape": shape, "data_offsets": [at, end]});
            header.insert((*key).into(), entry);
            at = end;
        }
        let header = Value::Object(header).to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + at, 0);
        std::fs::write(&path, bytes).expect("can be written");
        Weights::open(&path).expect("is valid")
    }

    fn unet_that_reads(features: usize) -> UnetConfig {
        let weights = weights(&[
            ("conv_in.weight", &[320, 9, 3, 3]),
            ("conv_out.weight", &[4, 320, 3, 3]),
            ("time_embedding.cond_proj.weight", &[320, 256]),
            ("down_blocks.0.resnets.0.conv1.weight", &[320, 1]),
            (
                "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight",
                &[320, features],
            ),
            ("down_blocks.1.resnets.0.conv1.weight", &[640, 1]),
            ("down_blocks.1.resnets.1.conv1.weight", &[640, 1]),
            ("up_blocks.0.resnets.0.conv1.weight", &[640, 1]),
            ("up_blocks.1.attentions.0.norm.weight", &[320]),
        ]);
        let config = Config::new("shapes", unet(&weights)).expect("an object");
        UnetConfig::read(&config).expect("it is supported")
    }

    #[test]
    fn the_text_says_which_stable_diffusion_it_is() {
        let first = unet_that_reads(768);
        assert_eq!(first.encoder.in_channels, 9);
        assert_eq!(first.encoder.block_out_channels, [320, 640]);
        assert_eq!(first.encoder.layers_per_block, [1, 2]);
        assert_eq!(first.encoder.down_attention, [true, false]);
        assert_eq!(first.up_attention, [true, false]);
        assert_eq!(first.encoder.mid, crate::Mid::None);
        assert_eq!(first.encoder.time_cond_proj_dim, Some(256));
        assert_eq!(first.encoder.heads, [8, 8]);
        assert_eq!(unet_that_reads(1024).encoder.heads, [5, 10]);
    }

    #[test]
    fn all_layers_of_the_first_text_encoder_are_used() {
        for (features, layers, heads) in [(768, 2, 12), (1024, 1, 16)] {
            let weights = weights(&[
                ("embeddings.token_embedding.weight", &[40, features]),
                ("embeddings.position_embedding.weight", &[7, features]),
                ("encoder.layers.0.mlp.fc1.weight", &[8, features]),
                ("encoder.layers.1.mlp.fc1.weight", &[8, features]),
            ]);
            let config = Config::new("shapes", text_encoder(&weights)).expect("an object");
            let config = ClipTextConfig::read(&config).expect("it is supported");
            assert_eq!(config.num_hidden_layers, layers);
            assert_eq!(config.num_attention_heads, heads);
            assert_eq!(config.eos_token_id, Some(39));
        }
    }
}
