//! Stable Diffusion: from a prompt to a picture, on the engine that plans trajectories.
//!
//! | where | what |
//! |---|---|
//! | [`Files`] | a model on disk: a folder of diffusers, or a single file |
//! | [`ClipText`] | the text encoder |
//! | [`Unet`] | the network that predicts noise, a [`Network`](clearway_diffusion::Network) of the engine |
//! | [`ControlNet`], [`Controlled`] | what makes it follow a picture |
//! | [`Autoencoder`] | between pictures and latents, large or tiny |
//!
//! Networks are built from their configurations, and read weights under diffusers' names; single files in the layout of
//! the original code are renamed first. Pictures are tensors in -1 to 1, channels before rows.

mod attention;
mod clip;
mod config;
mod error;
mod resnet;
pub mod unet;
pub mod vae;
pub mod weights;

pub use clip::{Activation, ClipText, ClipTextConfig, EncodeError};
pub use config::Config;
pub use error::LoadError;
pub use unet::{
    Condition, ControlNet, ControlNetConfig, Controlled, ControlledCondition, EncoderConfig, Mid,
    Prepared, Residuals, Unet, UnetConfig,
};
pub use vae::{
    Autoencoder, AutoencoderKl, AutoencoderKlConfig, AutoencoderTiny, AutoencoderTinyConfig,
    Moments, Posterior,
};
pub use weights::{Component, Files};
