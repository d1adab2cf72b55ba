//! The autoencoders between pictures and latents.

mod kl;
mod tiny;

pub use kl::{AutoencoderKl, AutoencoderKlConfig, Moments};
pub use tiny::{AutoencoderTiny, AutoencoderTinyConfig};

use burn::tensor::Tensor;
use clearway_layers::{PackPolicy, PackReport, WeightsWriter};

/// An autoencoder: pictures in -1 to 1 to latents of about unit variance, and back.
#[derive(Clone, Debug)]
pub enum Autoencoder {
    /// The one that the U-Net was trained on.
    Kl(Box<AutoencoderKl>),
    /// A small one that imitates it.
    Tiny(Box<AutoencoderTiny>),
}

/// A normal distribution over latents, or a single point.
#[derive(Clone, Debug)]
pub struct Posterior {
    /// The mean: `[batch, latent_channels, height, width]`.
    pub mean: Tensor<4>,
    /// The standard deviation of each number, where there is one.
    pub deviation: Option<Tensor<4>>,
}

impl Posterior {
    /// `mean + deviation · noise`, with `noise` of unit variance and the mean's shape.
    pub fn sample(&self, noise: Tensor<4>) -> Tensor<4> {
        match &self.deviation {
            Some(deviation) => self.mean.clone() + deviation.clone() * noise,
            None => self.mean.clone(),
        }
    }
}

impl Autoencoder {
    /// What latents a picture may have, scaled as the U-Net knows them.
    ///
    /// # Shapes
    ///
    /// - picture: `[batch, channels, height, width]`, in -1 to 1; height and width multiples of [`factor`](Self::factor)
    /// - returns: `[batch, latent_channels, height / factor, width / factor]`
    ///
    /// # Panics
    ///
    /// If the picture has another number of channels.
    pub fn encode(&self, picture: Tensor<4>) -> Posterior {
        match self {
            Self::Kl(network) => {
                let moments = network.encode(picture);
                Posterior {
                    mean: network.scaled(moments.mean.clone()),
                    deviation: Some(moments.deviation().mul_scalar(network.scaling_factor())),
                }
            }
            Self::Tiny(network) => Posterior {
                mean: network.scaled(network.encode(picture)),
                deviation: None,
            },
        }
    }

    /// The picture of latents that are scaled as the U-Net knows them.
    ///
    /// # Shapes
    ///
    /// - latents: `[batch, latent_channels, height, width]`
    /// - returns: `[batch, channels, factor · height, factor · width]`, in about -1 to 1
    ///
    /// # Panics
    ///
    /// If the latents have another number of channels.
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Kl(network) => network.decode(network.unscaled(latents)),
            Self::Tiny(network) => network.decode(network.unscaled(latents)),
        }
    }

    /// [`decode`](Self::decode), in bands of rows where a layer would lay out more than `memory` bytes; the result is the
    /// same up to rounding. A tiny autoencoder decodes as a whole.
    ///
    /// # Panics
    ///
    /// If the latents have another number of channels.
    pub fn decode_within(&self, latents: Tensor<4>, memory: usize) -> Tensor<4> {
        match self {
            Self::Kl(network) => network.decode_within(network.unscaled(latents), memory),
            Self::Tiny(_) => self.decode(latents),
        }
    }

    /// Adds the weights to a file, under diffusers' names. Packed ones are written as they are.
    pub fn save(&self, writer: &mut WeightsWriter) {
        match self {
            Self::Kl(network) => network.save(writer),
            Self::Tiny(network) => network.save(writer),
        }
    }

    /// Lays the weights out for the CPU's kernels, as [`AutoencoderKl::pack`].
    pub fn pack(&mut self, policy: impl Into<PackPolicy>) -> PackReport {
        match self {
            Self::Kl(network) => network.pack(policy),
            Self::Tiny(network) => network.pack(policy),
        }
    }

    /// How many times smaller than the picture the latents are, in height and in width.
    pub fn factor(&self) -> usize {
        match self {
            Self::Kl(network) => network.factor(),
            Self::Tiny(network) => network.factor(),
        }
    }

    /// The channels of a picture that is encoded, and of one that is decoded.
    pub fn picture_channels(&self) -> [usize; 2] {
        match self {
            Self::Kl(network) => network.picture_channels(),
            Self::Tiny(network) => network.picture_channels(),
        }
    }

    /// The channels of the latents.
    pub fn latent_channels(&self) -> usize {
        match self {
            Self::Kl(network) => network.latent_channels(),
            Self::Tiny(network) => network.latent_channels(),
        }
    }

    /// The number of the network's parameters.
    pub fn parameters(&self) -> usize {
        match self {
            Self::Kl(network) => network.parameters(),
            Self::Tiny(network) => network.parameters(),
        }
    }
}

/// What stands between an autoencoder's latents and the U-Net's: `latents = (z - shift) · factor`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scaling {
    factor: f64,
    shift: f64,
}

impl Scaling {
    fn apply(self, z: Tensor<4>) -> Tensor<4> {
        z.sub_scalar(self.shift).mul_scalar(self.factor)
    }

    fn undo(self, latents: Tensor<4>) -> Tensor<4> {
        latents.div_scalar(self.factor).add_scalar(self.shift)
    }
}
