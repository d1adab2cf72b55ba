//! Stable Diffusion: from a prompt to a picture, on the engine that plans trajectories.
//!
//! | where | what |
//! |---|---|
//! | [`StableDiffusion`] | the whole: from a [`Request`] to pictures, step by step |
//! | [`LowRankUpdate`] | a LoRA |
//! | [`Files`] | a model on disk: a folder of diffusers, or a single file |
//! | [`ClipText`] | the text encoder |
//! | [`Unet`] | the network that predicts noise, a [`Network`](clearway_diffusion::Network) of the engine |
//! | [`ControlNet`], [`Controlled`] | what makes it follow a picture |
//! | [`Autoencoder`] | between pictures and latents, large or tiny |
//! | [`Prompt`] | a prompt and the weights in it |
//! | [`Tokenizer`] | from prompts to [`Chunk`]s of what CLIP reads |
//! | [`Picture`] | pixels, and their files |
//! | [`PictureModel`] | small pictures of a class, by a U-Net that is told one |
//! | [`Classifier`], [`FeatureStatistics`] | which class a picture is of, and how far two sets of pictures are from each other |
//! | `dataset`, `train` | pictures to learn from, and networks from them, with the feature `train` |
//! | [`Parameters`] | how a picture was made, inside of it |
//!
//! Networks are built from their configurations, and read weights under diffusers' names; single files in the layout of
//! the original code are renamed first. Pictures are tensors in -1 to 1, channels before rows.

mod attention;
mod bands;
mod classifier;
mod clip;
mod config;
mod cost;
#[cfg(feature = "train")]
pub mod dataset;
mod error;
mod frechet;
mod lora;
mod parameters;
mod picture;
mod picture_model;
mod pipeline;
mod prompt;
mod resnet;
mod tokenizer;
#[cfg(feature = "train")]
pub mod train;
pub mod unet;
pub mod vae;
pub mod weights;

pub use classifier::{Classifier, ClassifierConfig};
pub use clip::{Activation, ClipText, ClipTextConfig, EncodeError};
pub use config::Config;
pub use error::LoadError;
pub use frechet::{FeatureError, FeatureStatistics};
pub use lora::{LoraError, LowRankUpdate};
pub use parameters::{ControlUse, Lora, Parameters, ParametersError};
pub use picture::{MAX_PIXELS, MULTIPLE, Picture, PictureError};
pub use picture_model::{Emphasis, Form, PictureModel};
pub use pipeline::{
    Control, DECODING_MEMORY, GenerateError, Generation, Made, Method, PictureStep, Plan, Request,
    Sampling, SchedulerConfig, Source, Spacing, StableDiffusion, Steps, Text, UnknownName,
};
pub use prompt::{Chunk, Cut, Part, Prompt, PromptError, emphasize};
pub use tokenizer::{Tokenizer, TokenizerError, VocabularyError};
pub use unet::{
    Condition, ControlNet, ControlNetConfig, Controlled, ControlledCondition, EncoderConfig, Mid,
    Prepared, Residuals, Unet, UnetConfig,
};
pub use vae::{
    Autoencoder, AutoencoderKl, AutoencoderKlConfig, AutoencoderTiny, AutoencoderTinyConfig,
    Moments, Posterior,
};
pub use weights::{Component, Files};
