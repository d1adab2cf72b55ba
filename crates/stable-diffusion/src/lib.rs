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
//! | [`Parameters`] | how a picture was made, inside of it |
//!
//! Networks are built from their configurations, and read weights under diffusers' names; single files in the layout of
//! the original code are renamed first. Pictures are tensors in -1 to 1, channels before rows.

mod attention;
mod bands;
mod clip;
mod config;
mod cost;
mod error;
mod lora;
mod parameters;
mod picture;
mod pipeline;
mod prompt;
mod resnet;
mod tokenizer;
pub mod unet;
pub mod vae;
pub mod weights;

pub use clip::{Activation, ClipText, ClipTextConfig, EncodeError};
pub use config::Config;
pub use error::LoadError;
pub use lora::{LoraError, LowRankUpdate};
pub use parameters::{ControlUse, Lora, Parameters, ParametersError};
pub use picture::{MAX_PIXELS, MULTIPLE, Picture, PictureError};
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
