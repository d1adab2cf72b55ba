//! Pictures of another size.

use burn::tensor::{Device, Tensor, TensorData};

/// Resizes pictures: bilinear, and where they shrink, with antialiasing.
///
/// ```text
/// y[r, c]      = Σ_i,j  w_height[r, i] · w_width[c, j] · x[i, j]
/// w[o, i]      ∝ max(0, 1 - |i + ½ - centre| / support)          each row of w adds up to 1
/// centre       = (o + ½) · scale,   support = max(scale, 1),   scale = from / to
/// ```
///
/// That is torchvision's `Resize` of tensors, whose default is `antialias=True`, and Pillow's `BILINEAR`. A picture that
/// has the size already comes back as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resize {
    /// The height and the width that pictures get, at least 1.
    pub size: [usize; 2],
}

impl Resize {
    /// Resizes.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, channels, height, width]`
    /// - returns: `[batch, channels, size₀, size₁]`
    ///
    /// # Panics
    ///
    /// If a size is zero.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let [to_height, to_width] = self.size;
        assert!(
            height > 0 && width > 0 && to_height > 0 && to_width > 0,
            "cannot resize {height} x {width} to {to_height} x {to_width}"
        );
        if [height, width] == self.size {
            return x;
        }
        let device = x.device();
        // Both products are of plain matrices: the rows of all channels at once, then each channel's columns.
        let columns = weights(width, to_width, &device).transpose();
        let x = x
            .reshape([batch * channels * height, width])
            .matmul(columns);
        let rows = weights(height, to_height, &device).unsqueeze::<3>();
        let x = rows.matmul(x.reshape([batch * channels, height, to_width]));
        x.reshape([batch, channels, to_height, to_width])
    }
}

/// What each value of the result takes from each of the source: `[to, from]`.
fn weights(from: usize, to: usize, device: &Device) -> Tensor<2> {
    let scale = from as f64 / to as f64;
    let support = scale.max(1.0);
    let mut values = vec![0.0_f32; to * from];
    for (o, row) in values.chunks_mut(from).enumerate() {
        let centre = (o as f64 + 0.5) * scale;
        let weight = |i: usize| (1.0 - (i as f64 + 0.5 - centre).abs() / support).max(0.0);
        let first = (centre - support).floor().max(0.0) as usize;
        let last = ((centre + support).ceil() as usize).min(from);
        let sum: f64 = (first..last).map(weight).sum();
        for (i, value) in row.iter_mut().enumerate().take(last).skip(first) {
            *value = (weight(i) / sum) as f32;
        }
    }
    Tensor::from_data(TensorData::new(values, [to, from]), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    /// Sums of some products of values up to one, in f32, with weights that PyTorch rounds too.
    const ROUNDING: f32 = 2e-6;

    #[test]
    fn it_is_torchvisions() {
        let x = golden::tensor::<4>("resize.x");
        // Smaller, larger, one of each, by whole factors, as it was, and to a single pixel.
        for [height, width] in [[7, 9], [31, 40], [30, 11], [10, 13], [20, 26], [1, 1]] {
            let y = Resize {
                size: [height, width],
            }
            .forward(x.clone());
            golden::assert_recorded(&format!("resize.{height}x{width}"), y, ROUNDING);
        }
    }

    #[test]
    fn a_constant_stays() {
        let x = Tensor::<4>::full([1, 1, 37, 5], 0.25, &Device::flex());
        let y = Resize { size: [11, 64] }.forward(x);
        let y: Vec<f32> = y.into_data().try_to_vec().expect("f32");
        assert!(y.iter().all(|y| (y - 0.25).abs() < ROUNDING));
    }
}
