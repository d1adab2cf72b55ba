//! Training for codes: networks that compute as if they were packed.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;

use crate::quantized::{Arrival, send};
use crate::{Packing, Precision};

/// The layers whose weights can be rehearsed, as burn calls them.
const LAYERS: [&str; 4] = [
    "Struct:Linear",
    "Struct:Conv1d",
    "Struct:Conv2d",
    "Struct:ConvTranspose1d",
];

/// A network that rounds the weights of its layers, and what they read, as if it was packed, and is trained so: gradients pass
/// through the rounding as if it was not there. Weights stay as they are, and are what is saved and packed.
///
/// "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", Jacob et al., 2018,
/// arXiv:1712.05877, section 3; scales are chosen anew in every pass, as packing chooses them.
#[must_use]
pub fn rehearse<M: Module>(network: M, to: &Packing<'_>) -> M {
    network.map(&mut Rehearser {
        to,
        path: Vec::new(),
    })
}

struct Rehearser<'a> {
    to: &'a Packing<'a>,
    path: Vec<(String, bool)>,
}

impl ModuleMapper for Rehearser<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.push((name.into(), LAYERS.contains(&container)));
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if let Some(((name, true), layer)) = self.path.split_last()
            && name == "weight"
        {
            let names: Vec<&str> = layer.iter().map(|(name, _)| name.as_str()).collect();
            let precision = self.to.of(&names.join("."));
            if precision != Precision::F32 {
                // What is rehearsed already stays so.
                let _ = send(param.id, Arrival::Rehearsal(precision));
            }
        }
        param
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;
    use crate::{
        Conv1d, Conv1dConfig, Conv2d, Conv2dConfig, ConvTranspose1d, ConvTranspose1dConfig, Linear,
        LinearConfig, PackPolicy,
    };

    #[derive(Module, Debug)]
    struct Network {
        linear: Linear,
        conv: Conv1d,
        point: Conv1d,
        up: ConvTranspose1d,
        picture: Conv2d,
        kept: Linear,
    }

    impl Network {
        fn new(device: &Device) -> Self {
            let linear = LinearConfig {
                d_input: 33,
                d_output: 18,
                bias: true,
            };
            let conv = |kernel_size, padding| Conv1dConfig {
                channels_in: 35,
                channels_out: 20,
                kernel_size,
                stride: 1,
                padding,
            };
            Self {
                linear: linear.init(device),
                conv: conv(5, 2).init(device),
                point: conv(1, 0).init(device),
                up: ConvTranspose1dConfig {
                    channels_in: 35,
                    channels_out: 17,
                    kernel_size: 4,
                    stride: 2,
                    padding: 1,
                }
                .init(device),
                picture: Conv2dConfig {
                    channels_in: 9,
                    channels_out: 20,
                    kernel_size: [3; 2],
                    stride: [1; 2],
                    padding: [1; 2],
                    bias: true,
                }
                .init(device),
                kept: linear.init(device),
            }
        }

        fn outputs(&self, device: &Device) -> Vec<Tensor<1>> {
            device.seed(5);
            let normal = Distribution::Normal(0.3, 1.0);
            let x = Tensor::<3>::random([2, 35, 8], normal, device);
            let features = Tensor::<3>::random([2, 3, 33], normal, device);
            let picture = Tensor::<4>::random([2, 9, 6, 7], normal, device);
            vec![
                self.linear.forward(features.clone()).flatten(0, 2),
                self.conv.forward(x.clone()).flatten(0, 2),
                self.point.forward(x.clone()).flatten(0, 2),
                self.up.forward(x).flatten(0, 2),
                self.picture.forward(picture).flatten(0, 3),
                self.kept.forward(features).flatten(0, 2),
            ]
        }

        fn pack(&mut self, to: &Packing<'_>) {
            let report = self.linear.pack(to.of("linear"))
                + self.conv.pack(to.of("conv"))
                + self.point.pack(to.of("point"))
                + self.up.pack(to.of("up"))
                + self.picture.pack(to.of("picture"))
                + self.kept.pack(to.of("kept"));
            assert_eq!(report.layers, 6);
        }
    }

    #[test]
    fn what_is_rehearsed_is_what_is_packed() {
        let device = Device::flex();
        let plain = Network::new(&device);
        for precision in [
            Precision::Int8,
            Precision::INT4,
            Precision::Int4 { group: 8 },
        ] {
            let policy = PackPolicy::from(precision);
            let to = Packing::new(&policy, &["kept"]);
            let mut packed = plain.clone();
            packed.pack(&to);
            let expected = packed.outputs(&device);
            let rehearsed = rehearse(plain.clone(), &to);
            let differentiable = rehearsed.clone().to_device(&device.clone().autodiff());
            for network in [&rehearsed, &differentiable] {
                let found = network.outputs(&device);
                let all = found.iter().zip(&expected).zip(plain.outputs(&device));
                for (layer, ((found, expected), before)) in all.enumerate() {
                    let distance = |x: &Tensor<1>| -> f32 {
                        let difference = x.clone().to_device(&device) - expected.clone();
                        difference.abs().max().into_scalar()
                    };
                    // Sums of up to 175 numbers in f32, in another order.
                    let found = distance(found);
                    assert!(found < 1e-5, "{precision}, layer {layer}: {found}");
                    // But for the layer that is kept, it is another network.
                    assert_eq!(distance(&before) > 1e-3, layer < 5, "{precision}, {layer}");
                }
            }
            // What is packed is what it was, not what it was rounded to.
            let mut repacked = rehearsed;
            repacked.pack(&to);
            for (found, expected) in repacked.outputs(&device).iter().zip(&expected) {
                found.to_data().assert_eq(&expected.to_data(), true);
            }
        }
    }

    #[test]
    fn gradients_pass_through() {
        let device = Device::flex();
        let autodiff = device.clone().autodiff();
        let plain = Network::new(&device).to_device(&autodiff).train();
        let policy = PackPolicy::from(Precision::INT4);
        let network = rehearse(plain, &Packing::new(&policy, &["kept"]));
        let x = Tensor::<3>::random([2, 35, 8], Distribution::Normal(0.0, 1.0), &autodiff);
        let gradients = network.conv.forward(x.clone()).sum().backward();
        // Of a sum of outputs, the gradient of a weight is the sum of what it reads: of the rounded inputs.
        let crate::Parameter::Rehearsed(param, _) = &network.conv.weight else {
            panic!("it is not rehearsed");
        };
        let found = param.val().grad(&gradients).expect("has a gradient");
        let read = network.conv.weight.input(x, false).detach();
        let middle: Tensor<1> = read.sum_dim(2).sum_dim(0).flatten(0, 2);
        let [_, channels, _] = found.dims();
        let expected: Vec<f32> = middle
            .to_device(&device)
            .into_data()
            .try_into_vec()
            .expect("f32");
        let at_middle: Tensor<3> = found.narrow(0, 0, 1).narrow(2, 2, 1);
        let at_middle: Vec<f32> = at_middle.into_data().try_into_vec().expect("f32");
        assert_eq!(at_middle.len(), channels);
        for (found, expected) in at_middle.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-4, "{found} {expected}");
        }
    }
}
