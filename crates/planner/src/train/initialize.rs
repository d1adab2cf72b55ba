//! What first weights are, of a policy's network.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use clearway_diffusion::train::initialize;

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
