//! Larger pictures.

use burn::tensor::Tensor;

/// Doubles height and width; each value becomes a square of four.
///
/// # Shapes
///
/// - x: `[batch, channels, height, width]`
/// - returns: `[batch, channels, 2 · height, 2 · width]`
pub fn upsample_nearest_2x(x: Tensor<4>) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    x.reshape([batch * channels, height, 1, width, 1])
        .expand([batch * channels, height, 2, width, 2])
        .reshape([batch, channels, 2 * height, 2 * width])
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn each_value_becomes_a_square() {
        let x = Tensor::<4>::from_data(
            [
                [[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]],
                [[[7.0, 8.0, 9.0], [10.0, 11.0, 12.0]]],
            ],
            &Device::flex(),
        );
        let y = upsample_nearest_2x(x);
        assert_eq!(y.dims(), [2, 1, 4, 6]);
        let y: Vec<f32> = y.into_data().try_to_vec().expect("f32");
        assert_eq!(
            y[..12],
            [1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
        );
        assert_eq!(y[42..], [10.0, 10.0, 11.0, 11.0, 12.0, 12.0]);
    }
}
