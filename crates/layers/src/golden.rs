//! Recorded inputs and outputs of PyTorch's layers, for unit tests: `tests/golden/torch/vision.safetensors`.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};

use crate::Weights;

/// The recorded file.
pub(crate) fn open() -> Weights {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"));
    Weights::open(&path.join("../../tests/golden/torch/vision.safetensors")).expect("is recorded")
}

fn values(key: &str) -> (Vec<usize>, Vec<f32>) {
    let mut file = open();
    let shape = file.shape(key).expect(key).to_vec();
    let values = file.values(key, &shape).expect(key);
    (shape, values)
}

/// A recorded tensor.
pub(crate) fn tensor<const D: usize>(key: &str) -> Tensor<D> {
    let (shape, values) = values(key);
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// Makes sure that a tensor has the recorded shape and values, up to `tolerance` each.
pub(crate) fn assert_recorded<const D: usize>(key: &str, found: Tensor<D>, tolerance: f32) {
    let (shape, expected) = values(key);
    assert_eq!(found.dims().as_slice(), shape, "{key}");
    let found: Vec<f32> = found.into_data().try_to_vec().expect("f32");
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert!(
            (found - expected).abs() <= tolerance,
            "value {i} of {key} is {found} and not {expected}"
        );
    }
}
