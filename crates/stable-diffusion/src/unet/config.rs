//! The configuration of a U-Net and of a ControlNet, as diffusers writes it.

use serde_json::json;

use crate::LoadError;
use crate::config::{Config, Entry, MAX_DEPTH, MAX_SIZE};

/// What stands between the way down and the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mid {
    /// A residual block, a transformer, a residual block.
    CrossAttention,
    /// A residual block.
    Plain,
    /// Nothing.
    None,
}

/// What a U-Net and its ControlNet share: the way down, the middle and the embedded time.
///
/// Stages are counted from the finest, on the way down and on the way up.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// The channels of the sample, with what is laid beside it: 4, or 9 in a network that inpaints.
    pub in_channels: usize,
    /// The channels of each stage.
    pub block_out_channels: Vec<usize>,
    /// The residual blocks of each stage on the way down; on the way up there is one more.
    pub layers_per_block: Vec<usize>,
    /// Whether each stage on the way down has transformers.
    pub down_attention: Vec<bool>,
    /// What stands in the middle.
    pub mid: Mid,
    /// The features of a text's tokens, for each stage.
    pub cross_attention_dim: Vec<usize>,
    /// The blocks of each stage's transformers.
    pub transformer_layers: Vec<usize>,
    /// The heads of each stage's attention.
    pub heads: Vec<usize>,
    /// The groups of the normalization.
    pub norm_num_groups: usize,
    /// What the normalization adds to the variance.
    pub norm_eps: f64,
    /// Whether the embedded time begins with cosines.
    pub flip_sin_to_cos: bool,
    /// What is subtracted from the number of frequencies of the embedded time.
    pub freq_shift: usize,
    /// The features of the embedded guidance scale, in a network that was distilled to know it.
    pub time_cond_proj_dim: Option<usize>,
    /// How many classes a network knows that is told one.
    pub num_class_embeds: Option<usize>,
}

/// What a U-Net is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct UnetConfig {
    /// The way down.
    pub encoder: EncoderConfig,
    /// The channels of what it predicts.
    pub out_channels: usize,
    /// Whether each stage on the way up has transformers, counted from the finest as those on the way down.
    pub up_attention: Vec<bool>,
    /// The height and width of the latents that it was trained on.
    pub sample_size: Option<usize>,
}

/// What a ControlNet is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlNetConfig {
    /// The way down, of the U-Net that it controls.
    pub encoder: EncoderConfig,
    /// The channels of the picture that says what to do.
    pub conditioning_channels: usize,
    /// The channels of the network that brings it to the size of the latents.
    pub conditioning_embedding_out_channels: Vec<usize>,
    /// Whether that picture is read blue first.
    pub reversed_channels: bool,
}

impl EncoderConfig {
    pub(super) fn stages(&self) -> usize {
        self.block_out_channels.len()
    }

    /// The features of the embedded time.
    pub(super) fn time_features(&self) -> usize {
        4 * self.block_out_channels[0]
    }

    fn read(root: &Entry<'_>) -> Result<Self, LoadError> {
        let size = 1..=MAX_SIZE;
        root.unsupported(&[
            ("act_fn", &[json!("silu"), json!("swish")]),
            ("addition_embed_type", &[]),
            ("attention_type", &[json!("default")]),
            ("center_input_sample", &[json!(false)]),
            ("class_embed_type", &[]),
            ("class_embeddings_concat", &[json!(false)]),
            ("conv_in_kernel", &[json!(3)]),
            ("cross_attention_norm", &[]),
            ("downsample_padding", &[json!(1)]),
            ("dual_cross_attention", &[json!(false)]),
            ("encoder_hid_dim", &[]),
            ("encoder_hid_dim_type", &[]),
            ("mid_block_only_cross_attention", &[json!(false)]),
            ("mid_block_scale_factor", &[json!(1)]),
            ("only_cross_attention", &[json!(false)]),
            ("resnet_out_scale_factor", &[json!(1)]),
            ("resnet_skip_time_act", &[json!(false)]),
            ("resnet_time_scale_shift", &[json!("default")]),
            ("reverse_transformer_layers_per_block", &[]),
            ("time_embedding_act_fn", &[]),
            ("time_embedding_dim", &[]),
            ("time_embedding_type", &[json!("positional")]),
            ("timestep_post_act", &[]),
        ])?;
        let channels = root.integers_or("block_out_channels", &[320, 640, 1280, 1280], &size)?;
        let stages = channels.len();
        let norm_num_groups = root.integer_or("norm_num_groups", 32, size.clone())?;
        if channels.iter().any(|c| !c.is_multiple_of(norm_num_groups)) {
            return Err(root.get("block_out_channels")?.wrong(format!(
                "a list of multiples of the {norm_num_groups} groups"
            )));
        }
        // What diffusers calls the dimension of a head is the number of heads (its issue 2011).
        let name = match root.find("num_attention_heads")? {
            Some(_) => "num_attention_heads",
            None => "attention_head_dim",
        };
        let heads = root.for_each_stage(name, 8, stages, &size)?;
        if channels
            .iter()
            .zip(&heads)
            .any(|(c, heads)| !c.is_multiple_of(*heads))
        {
            return Err(root
                .get(name)?
                .wrong(format!("numbers of heads that divide {channels:?}")));
        }
        let half = channels[0] / 2;
        let freq_shift = root.integer_or("freq_shift", 0, 0..=half.saturating_sub(1))?;
        if !channels[0].is_multiple_of(2) {
            return Err(root
                .get("block_out_channels")?
                .wrong("an even number of channels in the first stage"));
        }
        Ok(Self {
            in_channels: root.integer_or("in_channels", 4, size.clone())?,
            layers_per_block: root.for_each_stage(
                "layers_per_block",
                2,
                stages,
                &(1..=MAX_DEPTH),
            )?,
            down_attention: attention(
                root,
                "down_block_types",
                stages,
                &[("CrossAttnDownBlock2D", true), ("DownBlock2D", false)],
            )?
            .unwrap_or_else(|| (1..=stages).map(|stage| stage < stages).collect()),
            mid: mid(root)?,
            cross_attention_dim: root.for_each_stage("cross_attention_dim", 1280, stages, &size)?,
            transformer_layers: root.for_each_stage(
                "transformer_layers_per_block",
                1,
                stages,
                &(1..=MAX_DEPTH),
            )?,
            heads,
            norm_num_groups,
            norm_eps: root.epsilon_or("norm_eps", 1e-5)?,
            flip_sin_to_cos: root.boolean_or("flip_sin_to_cos", true)?,
            freq_shift,
            time_cond_proj_dim: match root.find("time_cond_proj_dim")? {
                Some(entry) => {
                    let dim = entry.integer(4..=MAX_SIZE)?;
                    if !dim.is_multiple_of(2) {
                        return Err(entry.wrong("an even number"));
                    }
                    Some(dim)
                }
                None => None,
            },
            num_class_embeds: match root.find("num_class_embeds")? {
                Some(entry) => Some(entry.integer(1..=MAX_SIZE)?),
                None => None,
            },
            block_out_channels: channels,
        })
    }
}

/// `null` asks for no middle, where a missing entry asks for the usual one.
fn mid(root: &Entry<'_>) -> Result<Mid, LoadError> {
    if root
        .map()?
        .get("mid_block_type")
        .is_some_and(serde_json::Value::is_null)
    {
        return Ok(Mid::None);
    }
    root.one_of(
        "mid_block_type",
        &[
            ("UNetMidBlock2DCrossAttn", Mid::CrossAttention),
            ("UNetMidBlock2D", Mid::Plain),
        ],
    )
}

/// Which stages have transformers.
fn attention(
    root: &Entry<'_>,
    name: &str,
    stages: usize,
    words: &[(&str, bool)],
) -> Result<Option<Vec<bool>>, LoadError> {
    let Some(entry) = root.find(name)? else {
        return Ok(None);
    };
    let list = entry.list()?;
    if list.len() != stages {
        return Err(entry.wrong(format!("a list of {stages}, as `block_out_channels`")));
    }
    let attends: Result<_, _> = list.iter().map(|entry| entry.word(words)).collect();
    attends.map(Some)
}

impl UnetConfig {
    /// Reads what diffusers calls a `UNet2DConditionModel`. Entries that are not known are passed over.
    ///
    /// # Errors
    ///
    /// If an entry has a value that cannot be, or one that is not supported.
    pub fn read(config: &Config) -> Result<Self, LoadError> {
        let root = config.root();
        root.unsupported(&[("conv_out_kernel", &[json!(3)])])?;
        let encoder = EncoderConfig::read(&root)?;
        let stages = encoder.stages();
        // The list begins with the coarsest stage.
        let up_attention = attention(
            &root,
            "up_block_types",
            stages,
            &[("CrossAttnUpBlock2D", true), ("UpBlock2D", false)],
        )?
        .map_or_else(
            || (1..=stages).map(|stage| stage < stages).collect(),
            |list| list.into_iter().rev().collect(),
        );
        Ok(Self {
            encoder,
            out_channels: root.integer_or("out_channels", 4, 1..=MAX_SIZE)?,
            up_attention,
            sample_size: match root.find("sample_size")? {
                Some(entry) if !entry.is_list() => Some(entry.integer(1..=MAX_SIZE)?),
                _ => None,
            },
        })
    }
}

impl ControlNetConfig {
    /// Reads what diffusers calls a `ControlNetModel`. Entries that are not known are passed over.
    ///
    /// # Errors
    ///
    /// If an entry has a value that cannot be, or one that is not supported.
    pub fn read(config: &Config) -> Result<Self, LoadError> {
        let root = config.root();
        let mut encoder = EncoderConfig::read(&root)?;
        if encoder.mid == Mid::None {
            return Err(LoadError::Missing {
                file: root.file().into(),
                key: "mid_block_type".into(),
            });
        }
        // diffusers has no such entry here: a ControlNet does not know the guidance scale.
        encoder.time_cond_proj_dim = None;
        Ok(Self {
            encoder,
            conditioning_channels: root.integer_or("conditioning_channels", 3, 1..=MAX_SIZE)?,
            conditioning_embedding_out_channels: root.integers_or(
                "conditioning_embedding_out_channels",
                &[16, 32, 96, 256],
                &(1..=MAX_SIZE),
            )?,
            reversed_channels: root.one_of(
                "controlnet_conditioning_channel_order",
                &[("rgb", false), ("bgr", true)],
            )?,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn read(value: Value) -> Result<UnetConfig, LoadError> {
        UnetConfig::read(&Config::new("config.json", value)?)
    }

    #[test]
    fn nothing_said_is_the_default_of_diffusers() {
        let config =
            read(json!({"cross_attention_dim": 768, "unknown": {"a": 1}})).expect("the defaults");
        assert_eq!(config.encoder.block_out_channels, [320, 640, 1280, 1280]);
        assert_eq!(config.encoder.layers_per_block, [2; 4]);
        assert_eq!(config.encoder.down_attention, [true, true, true, false]);
        assert_eq!(config.up_attention, [true, true, true, false]);
        assert_eq!(config.encoder.heads, [8; 4]);
        assert_eq!(config.encoder.mid, Mid::CrossAttention);
    }

    #[test]
    fn small_networks_say_so() {
        let config = read(json!({
            "block_out_channels": [32, 64],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            "layers_per_block": [1, 2],
            "mid_block_type": null,
            "attention_head_dim": [2, 4],
        }))
        .expect("it is supported");
        assert_eq!(config.encoder.mid, Mid::None);
        assert_eq!(config.encoder.down_attention, [false, true]);
        assert_eq!(config.up_attention, [false, true]);
        assert_eq!(config.encoder.heads, [2, 4]);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (value, message) in [
            (
                json!({"addition_embed_type": "text_time"}),
                "config.json: `addition_embed_type` is \"text_time\"; no such entry is needed",
            ),
            (
                json!({"norm_num_groups": 7, "block_out_channels": [32, 64]}),
                "config.json: `block_out_channels` is [32,64]; a list of multiples of the 7 groups is needed",
            ),
            (
                json!({"attention_head_dim": 3}),
                "config.json: `attention_head_dim` is 3; numbers of heads that divide [320, 640, 1280, 1280] is \
                 needed",
            ),
            (
                json!({"up_block_types": ["UpBlock2D"]}),
                "config.json: `up_block_types` is [\"UpBlock2D\"]; a list of 4, as `block_out_channels` is needed",
            ),
            (
                json!({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}),
                "config.json: `mid_block_type` is \"UNetMidBlock2DSimpleCrossAttn\"; `UNetMidBlock2DCrossAttn` or \
                 `UNetMidBlock2D` is needed",
            ),
            (
                json!({"only_cross_attention": [false, true, false, false]}),
                "config.json: `only_cross_attention` is [false,true,false,false]; no such entry or false is needed",
            ),
        ] {
            let error = read(value).expect_err("is not supported");
            assert_eq!(error.to_string(), message);
        }
    }
}
