//! First weights, from a seed.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Draws the weights of linear layers and convolutions as PyTorch does, `U(-k, k)` with `k = 1/√fan_in`, and leaves
/// normalizations as they are.
///
/// A device's own generator is global to its process; this one is ChaCha with 8 rounds, key = seed, stream = the number of
/// the parameter.
pub fn initialize<M: Module>(network: M, seed: u64) -> M {
    network.map(&mut Draw {
        seed,
        parameters: 0,
        fan_in: None,
    })
}

struct Draw {
    seed: u64,
    parameters: u64,
    /// Of the weight that came last: a bias is drawn from as far.
    fan_in: Option<usize>,
}

impl ModuleMapper for Draw {
    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape = parameter.lazy_shape().to_vec();
        let fan_in = if D > 1 {
            // PyTorch's fan-in is all but the first axis, of transposed convolutions too.
            self.fan_in = Some(shape[1..].iter().product());
            self.fan_in
        } else {
            // What follows no matrix is a normalization's.
            self.fan_in.take()
        };
        let mut generator = ChaCha8Rng::seed_from_u64(self.seed);
        generator.set_stream(self.parameters);
        self.parameters += 1;
        let Some(fan_in) = fan_in else {
            return parameter;
        };
        let bound = 1.0 / (fan_in as f64).sqrt();
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| generator.random_range(-bound..bound) as f32)
            .collect();
        let device = parameter.lazy_device();
        let id = parameter.id;
        let tensor = Tensor::from_data(TensorData::new(values, shape), &device);
        parameter.transform_for_load(tensor, id)
    }
}
