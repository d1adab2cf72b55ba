//! Network layers that run on a CPU: what the networks of robots and of images are made of.
//!
//! | module | layer |
//! |---|---|
//! | [`Linear`] | `y = x Wᵀ + b` |
//! | [`Conv1d`], [`ConvTranspose1d`] | convolution over time |
//! | [`Conv2d`] | convolution over pictures |
//! | [`GroupNorm`], [`LayerNorm`] | normalization over groups of channels, over features |
//! | [`BatchNorm`] | normalization by the statistics of training |
//! | [`SpatialSoftmax`] | where feature maps are active |
//! | [`Resize`] | pictures of another size |
//! | [`attention`], [`causal_attention`] | each query reads a mean of values |
//! | [`Tokens`], [`attend`], [`attend_in_codes`], [`attend_causally`] | what packed transformers compute on, and its attention |
//! | [`Signal`] | what packed networks over time compute on |
//! | [`GegluFeedForward`] | the gated feed-forward network of transformers |
//! | [`upsample_nearest_2x`] | larger pictures |
//! | [`concatenate`] | the channels of two pictures |
//! | [`activation`] | Mish, SiLU, ReLU, GELU |
//! | [`SinusoidalEmbedding`] | a diffusion time as a vector |
//! | [`Work`] | how much a layer computes and reads |
//! | [`weights`] | strict loading of safetensors and PyTorch files, and writing |
//!
//! A layer is made by its configuration, `XConfig { .. }.init(&device)`, and computes with `forward`. Its parameters
//! have the names and the memory layout of PyTorch's, so that loading a checkpoint of the field is a
//! [key map](weights::Weights::load) and never a second network. Parameters are lazy: `init` allocates nothing, and a
//! network whose weights are loaded afterwards is never filled with random numbers first.
//!
//! A parameter is [plain or packed](Parameter). [`Linear`], [`GegluFeedForward`], [`Conv1d`], [`Conv2d`],
//! [`ConvTranspose1d`], [`GroupNorm`] and [`LayerNorm`] can be packed, `layer.pack(Precision::Bf16)`: then they compute on the
//! CPU, in kernels that read the weights in order, and do all that [precedes](Prologue) and [follows](Epilogue) a convolution
//! in the same sweep. The kernels choose their [instructions](Level) when the
//! program runs. A packed layer gives a sample the same bits alone and in a batch, on one thread and on many.
//! Weights of eight or four bits are multiplied as whole numbers, with inputs that are rounded to eight bits in every call.
//! A network packs by a [policy](PackPolicy): which layers do not become codes.
//!
//! With feature `train`, what a training step computes has kernels too, under burn's autodiff on the CPU: the layers above,
//! forward and backward, and [`AdamW`] and [`Muon`], which [`ResumableOptimizer`] can save in a [`Checkpoint`].
//!
//! A wrong shape is a mistake of the program and panics; whatever comes from a file is a `Result`.

pub mod activation;
#[cfg(feature = "train")]
mod adamw;
mod attention;
#[cfg(feature = "train")]
mod autodiff;
mod batch_norm;
mod calibration;
#[cfg(feature = "train")]
mod checkpoint;
#[cfg(test)]
mod coded;
mod concatenate;
mod conv1d;
mod conv2d;
mod conv_transpose1d;
mod embedding;
mod epilogue;
mod feed_forward;
#[cfg(test)]
mod golden;
mod group_norm;
// The one place with unsafe code. What a kernel calls must be inlined into it to be compiled for its instruction set.
#[allow(unsafe_code, clippy::inline_always)]
mod kernel;
mod layer_norm;
mod linear;
#[cfg(feature = "train")]
mod muon;
#[cfg(feature = "train")]
mod optimizer;
mod packing;
mod parameter;
mod prologue;
mod quantize;
mod quantized;
mod rehearsal;
mod resize;
pub mod rounding;
mod signal;
mod spatial_softmax;
mod threads;
mod tokens;
mod upsample;
pub mod weights;
mod work;

#[cfg(feature = "train")]
pub use adamw::AdamW;
pub use attention::{attention, causal_attention};
pub use batch_norm::{BatchNorm, BatchNormConfig};
pub use calibration::{Calibration, CalibrationError, RoundedWeight};
#[cfg(feature = "train")]
pub use checkpoint::{Checkpoint, Run, first_difference};
pub use concatenate::concatenate;
pub use conv_transpose1d::{ConvTranspose1d, ConvTranspose1dConfig};
pub use conv1d::{Conv1d, Conv1dConfig};
pub use conv2d::{Conv2d, Conv2dConfig};
pub use embedding::{Order, SinusoidalEmbedding};
pub use epilogue::{Epilogue, Modulation};
pub use feed_forward::{GegluFeedForward, GegluFeedForwardConfig};
pub use group_norm::{GroupNorm, GroupNormConfig};
pub use kernel::{Activation, Level, Memory, Precision, multiply_adds};
pub use layer_norm::{LayerNorm, LayerNormConfig};
pub use linear::{Linear, LinearConfig};
#[cfg(feature = "train")]
pub use muon::Muon;
#[cfg(feature = "train")]
pub use optimizer::{ResumableOptimizer, Rule};
pub use packing::{PackPolicy, Packing};
pub use parameter::{PackReport, Packed, Parameter, can_pack};
pub use prologue::Prologue;
pub use quantize::{PackedWeight, compare_weights, layer_names};
pub use quantized::{Quantized, QuantizedError, count_parameters};
pub use rehearsal::rehearse;
pub use resize::Resize;
pub use signal::{Signal, SignalEpilogue, SignalModulation};
pub use spatial_softmax::{SpatialSoftmax, SpatialSoftmaxConfig};
pub use threads::{in_pool, in_team};
pub use tokens::{Tokens, attend, attend_causally, attend_in_codes};
pub use upsample::upsample_nearest_2x;
pub use weights::{LowRank, Weights, WeightsError, WeightsWriter};
pub use work::Work;

use burn::module::Param;
use burn::nn::Initializer;
use burn::tensor::{Device, Tensor};

/// A lazy parameter drawn from `U(-k, k)` with `k = 1/√fan_in`, as PyTorch draws linear and convolution layers.
fn uniform<const D: usize>(shape: [usize; D], fan_in: usize, device: &Device) -> Param<Tensor<D>> {
    let k = 1.0 / (fan_in as f64).sqrt();
    Initializer::Uniform { min: -k, max: k }.init(shape, device)
}
