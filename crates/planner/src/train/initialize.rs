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
pub(super) fn initialize<M: Module>(network: M, seed: u64) -> M {
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

#[cfg(test)]
mod tests {
    use burn::module::ModuleVisitor;
    use burn::tensor::Device;

    use super::*;
    use crate::network::{ConditionalUnet1d, ConditionalUnet1dConfig};

    /// The path, the shape and the values of each parameter.
    #[derive(Default)]
    struct Parameters {
        path: Vec<String>,
        found: Vec<(String, Vec<usize>, Vec<f32>)>,
    }

    impl ModuleVisitor for Parameters {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.into());
        }

        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }

        fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
            let values = parameter.val().into_data().try_to_vec().expect("f32");
            self.found
                .push((self.path.join("."), parameter.dims().to_vec(), values));
        }
    }

    fn parameters(seed: u64) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let config = ConditionalUnet1dConfig {
            action_dim: 3,
            condition_dim: 5,
            down_dims: vec![32, 64],
            kernel_size: 5,
            n_groups: 8,
            diffusion_step_embed_dim: 16,
            use_film_scale_modulation: true,
        };
        let network: ConditionalUnet1d = initialize(config.init(&Device::flex()), seed);
        let mut parameters = Parameters::default();
        network.visit(&mut parameters);
        parameters.found
    }

    #[test]
    fn weights_are_drawn_as_torch_draws_them() {
        let mut drawn = 0;
        let mut bound = 0.0;
        for (path, shape, values) in parameters(1) {
            if path.contains("norm") {
                let expected = if path.ends_with("weight") { 1.0 } else { 0.0 };
                assert_eq!(values, vec![expected; values.len()], "{path}");
                continue;
            }
            if shape.len() > 1 {
                let fan_in: usize = shape[1..].iter().product();
                bound = 1.0 / (fan_in as f64).sqrt();
            }
            let most = values
                .iter()
                .fold(0.0, |most: f64, x| most.max(f64::from(x.abs())));
            // With five numbers the largest is below half of the bound once in thirty-two; a bias has more.
            assert!(
                most <= bound && most > 0.5 * bound,
                "{path}: {most} {bound}"
            );
            if values.len() > 1000 {
                let square: f64 = values.iter().map(|x| f64::from(*x).powi(2)).sum();
                let variance = square / values.len() as f64;
                // A uniform variance, bound²/3; of a thousand numbers its standard error is 3 %.
                assert!(
                    (3.0 * variance / bound.powi(2) - 1.0).abs() < 0.15,
                    "{path}"
                );
            }
            drawn += 1;
        }
        assert!(drawn > 40, "{drawn} parameters");
    }

    #[test]
    fn weights_depend_on_the_seed_alone() {
        assert_eq!(parameters(1), parameters(1));
        assert_ne!(parameters(1), parameters(2));
    }
}
