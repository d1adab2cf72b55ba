//! The channels of two pictures.

use burn::tensor::Tensor;

/// The channels of `a` and then those of `b`, as a U-Net's way up has them.
///
/// # Shapes
///
/// - a, b: `[batch, channels, height, width]`, of which only the channels differ
///
/// # Panics
///
/// If more than the channels differ.
pub fn concatenate(a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "train")]
    if crate::autodiff::suits(&a) && crate::autodiff::suits(&b) {
        return crate::autodiff::concatenate(a, b);
    }
    Tensor::cat(vec![a, b], 1)
}
