//! Feature maps as points: where in the picture each of them is active.

use burn::module::{Module, Param, ParamId};
use burn::prelude::*;
use burn::tensor::activation::softmax;

use crate::{Conv2d, Conv2dConfig};

/// Makes a [`SpatialSoftmax`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpatialSoftmaxConfig {
    /// The number of input channels.
    pub channels: usize,
    /// The height and the width of the maps.
    pub size: [usize; 2],
    /// The number of points.
    pub keypoints: usize,
}

/// The mean position of each of `keypoints` maps, which a 1 x 1 convolution makes of the channels.
///
/// ```text
/// y[k] = Σ_p  softmax_p(nets(x)[k, p]) · pos_grid[p]
/// ```
///
/// Positions are from -1 to 1: x to the right, then y down. The points of a picture's features are in the picture, and do
/// not depend on its size.
///
/// "Deep Spatial Autoencoders for Visuomotor Learning", Finn et al., 2016, arXiv:1509.06113, section V.
#[derive(Module, Debug)]
pub struct SpatialSoftmax {
    /// The 1 x 1 convolution.
    pub nets: Conv2d,
    /// The position of each pixel, row by row: `[height · width, 2]`, x before y. It is not trained.
    pub pos_grid: Param<Tensor<2>>,
}

impl SpatialSoftmaxConfig {
    /// A layer whose convolution has random weights.
    ///
    /// # Panics
    ///
    /// If a size is zero.
    pub fn init(&self, device: &Device) -> SpatialSoftmax {
        let Self {
            channels,
            size: [height, width],
            keypoints,
        } = *self;
        assert!(
            height > 0 && width > 0,
            "a map of {height} x {width} has no positions"
        );
        let pos_grid = Param::uninitialized(
            ParamId::new(),
            move |device, _| positions([height, width], device),
            device.clone(),
            false,
            [height.saturating_mul(width), 2].into(),
        );
        SpatialSoftmax {
            nets: Conv2dConfig::same(channels, keypoints, 1).init(device),
            pos_grid,
        }
    }
}

/// The positions of the pixels, from edge to edge.
fn positions([height, width]: [usize; 2], device: &Device) -> Tensor<2> {
    let at = |i: usize, n: usize| {
        if n == 1 {
            -1.0
        } else {
            -1.0 + 2.0 * i as f64 / (n - 1) as f64
        }
    };
    let rows = (0..height).flat_map(|row| {
        (0..width).flat_map(move |column| [at(column, width) as f32, at(row, height) as f32])
    });
    Tensor::from_data(
        TensorData::new(rows.collect::<Vec<f32>>(), [height * width, 2]),
        device,
    )
}

impl SpatialSoftmax {
    /// Applies the layer.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, channels, height, width]`
    /// - returns: `[batch, keypoints, 2]`, x before y
    ///
    /// # Panics
    ///
    /// If `x` has another number of channels or of pixels than the layer.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<3> {
        let maps = self.nets.forward(x);
        let [batch, keypoints, height, width] = maps.dims();
        let grid = self.pos_grid.val();
        assert_eq!(
            grid.dims()[0],
            height * width,
            "the layer has another number of positions than maps of {height} x {width}"
        );
        // One matrix product for the points of all samples.
        let attention = softmax(maps.reshape([batch * keypoints, height * width]), 1);
        attention.matmul(grid).reshape([batch, keypoints, 2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    /// Sums of the maps' channels and of their pixels, in f32, of positions of at most one.
    const ROUNDING: f32 = 2e-6;

    #[test]
    fn it_is_lerobots() {
        let config = SpatialSoftmaxConfig {
            channels: 6,
            size: [3, 5],
            keypoints: 4,
        };
        let layer = config.init(&Device::flex());
        golden::assert_recorded(
            "spatial_softmax.pos_grid",
            layer.pos_grid.val(),
            f32::EPSILON,
        );
        let layer = golden::open()
            .load(layer, |path| format!("spatial_softmax.{path}"))
            .expect("is recorded");
        let y = layer.forward(golden::tensor("spatial_softmax.x"));
        golden::assert_recorded("spatial_softmax.y", y, ROUNDING);
    }
}
