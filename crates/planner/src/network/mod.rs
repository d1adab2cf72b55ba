//! The networks that plan.

mod conditional_unet1d;

pub use conditional_unet1d::{ConditionalUnet1d, ConditionalUnet1dConfig, Prepared};
