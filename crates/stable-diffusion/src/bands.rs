//! Layers over bands of rows: what a large picture lays out at a time is bounded, and its result is that of the whole.
//!
//! A convolution of three by three taps needs one row more on each side of a band; the statistics of a normalization are
//! taken over all bands before the first is normalized. So nothing is approximated, and there are no seams, where tiles
//! that are decoded apart and blended differ in their statistics.

use burn::tensor::Tensor;
use clearway_layers::activation::silu;
use clearway_layers::{Conv2d, Epilogue, GroupNorm, Prologue, upsample_nearest_2x};

use crate::resnet::normalized;

/// `after(conv(before(x)))`, a band of `rows` rows at a time; `after` is told where its band begins.
///
/// # Shapes
///
/// - x: `[batch, channels_in, height, width]`
/// - returns: `[batch, channels_out, height, width]`
pub(crate) fn convolve(
    x: &Tensor<4>,
    rows: usize,
    conv: &Conv2d,
    before: impl Fn(Tensor<4>) -> Tensor<4>,
    after: impl Fn(Tensor<4>, usize) -> Tensor<4>,
) -> Tensor<4> {
    let [batch, _, height, width] = x.dims();
    let mut out: Option<Tensor<4>> = None;
    for start in (0..height).step_by(rows.max(1)) {
        let end = (start + rows.max(1)).min(height);
        // The convolution's own zeros are right at the picture's border alone.
        let (low, high) = (start.saturating_sub(1), (end + 1).min(height));
        let band = conv.forward(before(x.clone().narrow(2, low, high - low)));
        let band = after(band.narrow(2, start - low, end - start), start);
        if (start, end) == (0, height) {
            return band;
        }
        let channels = band.dims()[1];
        let whole = out
            .take()
            .unwrap_or_else(|| Tensor::zeros([batch, channels, height, width], &band.device()));
        out = Some(whole.slice_assign([0..batch, 0..channels, start..end, 0..width], band));
    }
    out.expect("a picture has rows")
}

/// `conv(silu(norm(x)))`.
pub(crate) fn normalize_and_convolve(
    x: Tensor<4>,
    rows: usize,
    norm: &GroupNorm,
    conv: &Conv2d,
    after: impl Fn(Tensor<4>, usize) -> Tensor<4>,
) -> Tensor<4> {
    if conv.is_packed() {
        // It lays out little by itself.
        let y = conv.forward_between(normalized(norm), x, Epilogue::default());
        return after(y, 0);
    }
    let [scale, offset] = norm.affine(&x, rows);
    let before = |band: Tensor<4>| silu(band * scale.clone() + offset.clone());
    convolve(&x, rows, conv, before, after)
}

/// `conv(double(x))`, where doubling repeats each pixel in both directions.
///
/// # Shapes
///
/// - x: `[batch, channels, height, width]`
/// - returns: `[batch, channels_out, 2 · height, 2 · width]`
pub(crate) fn double_and_convolve(x: Tensor<4>, rows: usize, conv: &Conv2d) -> Tensor<4> {
    if conv.is_packed() {
        let doubled = Prologue {
            doubled: true,
            ..Prologue::default()
        };
        return conv.forward_between(doubled, x, Epilogue::default());
    }
    let [batch, _, height, width] = x.dims();
    // In rows of x.
    let rows = (rows / 2).max(1);
    let mut out: Option<Tensor<4>> = None;
    for start in (0..height).step_by(rows) {
        let end = (start + rows).min(height);
        let (low, high) = (start.saturating_sub(1), (end + 1).min(height));
        let band = conv.forward(upsample_nearest_2x(x.clone().narrow(2, low, high - low)));
        let band = band.narrow(2, 2 * (start - low), 2 * (end - start));
        if (start, end) == (0, height) {
            return band;
        }
        let channels = band.dims()[1];
        let whole = out.take().unwrap_or_else(|| {
            Tensor::zeros([batch, channels, 2 * height, 2 * width], &band.device())
        });
        let place = [0..batch, 0..channels, 2 * start..2 * end, 0..2 * width];
        out = Some(whole.slice_assign(place, band));
    }
    out.expect("a picture has rows")
}
