//! The networks that plan, and those that see.

mod conditional_unet1d;
mod resnet;
mod rgb_encoder;
mod trajectory_transformer;
mod work;

pub use conditional_unet1d::{ConditionalUnet1d, ConditionalUnet1dConfig, Prepared};
pub use resnet::{Depth, Normalization, ResNet, ResNetConfig};
pub use rgb_encoder::{RgbEncoder, RgbEncoderConfig};
pub use trajectory_transformer::{
    PreparedTransformer, TrajectoryTransformer, TrajectoryTransformerConfig,
};
