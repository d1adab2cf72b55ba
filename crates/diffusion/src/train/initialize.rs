//! First weights, from a seed.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Draws the weights of linear layers and convolutions as PyTorch does, `U(-k, k)` with `k = 1/√fan_in`, those of embeddings
/// as far, and leaves normalizations as they are.
///
/// A device's own generator is global to its process; this one is ChaCha with 8 rounds, key = seed, stream = the number of
/// the parameter.
pub fn initialize<M: Module>(network: M, seed: u64) -> M {
    network.map(&mut Draw {
        seed,
        parameters: 0,
        path: Vec::new(),
        fan_in: None,
    })
}

struct Draw {
    seed: u64,
    parameters: u64,
    path: Vec<String>,
    /// The layer of the weight that came last, and its fan-in: the layer's bias is drawn from as far.
    fan_in: Option<(Vec<String>, usize)>,
}

impl ModuleMapper for Draw {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape = parameter.lazy_shape().to_vec();
        let layer = self.path.split_last().map_or(&[][..], |(_, layer)| layer);
        let fan_in = if D > 1 {
            // PyTorch's fan-in is all but the first axis, of transposed convolutions too.
            let fan_in = shape[1..].iter().product();
            self.fan_in = Some((layer.to_vec(), fan_in));
            Some(fan_in)
        } else {
            // What follows no matrix of its layer is a normalization's.
            let last = self.fan_in.take();
            last.filter(|(of, _)| of == layer).map(|(_, fan_in)| fan_in)
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
