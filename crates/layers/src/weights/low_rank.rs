//! Low-rank updates of weights.

use burn::tensor::{Tensor, TensorData};

/// An update of few numbers: `W ← W + scale · B A`, what LoRA trains.
///
/// The axes of `W` behind the first are laid together, so that a convolution's update is a convolution with `A` and then
/// one of a single tap with `B`.
///
/// "LoRA: Low-Rank Adaptation of Large Language Models", Hu et al., 2021, arXiv:2106.09685.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    up: Vec<f32>,
    down: Vec<f32>,
    shape: [usize; 2],
    rank: usize,
    scale: f32,
}

impl LowRank {
    /// An update of a tensor of `rows` rows.
    ///
    /// # Shapes
    ///
    /// - up: `B`, `[rows, rank]`, row-major
    /// - down: `A`, `[rank, columns]`, row-major
    ///
    /// # Panics
    ///
    /// If the rank is zero, or the numbers are not of these shapes.
    pub fn new(up: Vec<f32>, down: Vec<f32>, rank: usize, scale: f32) -> Self {
        assert!(
            rank > 0 && up.len().is_multiple_of(rank) && down.len().is_multiple_of(rank),
            "{} and {} numbers are not of rank {rank}",
            up.len(),
            down.len()
        );
        Self {
            shape: [up.len() / rank, down.len() / rank],
            up,
            down,
            rank,
            scale,
        }
    }

    /// The rows and columns of the tensor that it updates.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    pub(super) fn add_to<const D: usize>(&self, tensor: Tensor<D>) -> Tensor<D> {
        let device = tensor.device();
        let [rows, columns] = self.shape;
        let matrix = |values: &[f32], shape: [usize; 2]| {
            Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), &device)
        };
        let up = matrix(&self.up, [rows, self.rank]);
        let down = matrix(&self.down, [self.rank, columns]);
        let update = up.matmul(down).mul_scalar(self.scale);
        let shape = tensor.dims();
        tensor + update.reshape(shape)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use crate::{Conv2d, Conv2dConfig, Weights, WeightsError};

    use super::*;

    #[test]
    fn updates_are_added_while_loading() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.safetensors");
        let header = r#"{"c.weight":{"dtype":"F32","shape":[2,1,1,3],"data_offsets":[0,24]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([1.0_f32; 6].map(f32::to_le_bytes).concat());
        std::fs::write(&path, bytes).expect("can be written");

        let mut weights = Weights::open(&path).expect("is valid");
        let update = |rows: usize, scale| {
            LowRank::new(
                (1..=rows).map(|i| i as f32).collect(),
                vec![1.0, 10.0, 100.0],
                1,
                scale,
            )
        };
        weights.merge("c.weight", update(2, 0.5)).expect("it fits");
        weights.merge("c.weight", update(2, 2.0)).expect("it fits");
        let error = weights.merge("c.weight", update(3, 1.0));
        assert_eq!(
            error.expect_err("three rows").to_string(),
            "the update of tensor `c.weight` is of shape [3, 3]; the tensor's is [2, 3]"
        );
        assert!(matches!(
            weights.merge("d.weight", update(2, 1.0)),
            Err(WeightsError::Missing { .. })
        ));
        let config = Conv2dConfig {
            channels_in: 1,
            channels_out: 2,
            kernel_size: [1, 3],
            stride: [1; 2],
            padding: [0; 2],
            bias: false,
        };
        let mut weights = weights
            .rename(|key| key.replace("c.", ""))
            .expect("one key");
        let layer: Conv2d = weights
            .load(config.init(&Device::flex()), str::to_owned)
            .expect("it fits");
        let found: Vec<f32> = layer.weight.val().into_data().try_to_vec().expect("f32");
        assert_eq!(found, [3.5, 26.0, 251.0, 6.0, 51.0, 501.0]);
    }
}
