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
