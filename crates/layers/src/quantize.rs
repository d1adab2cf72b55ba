//! What packing makes of the weights of a network.

use std::collections::HashMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

use crate::Precision;
use crate::quantized::{Shown, Stored, showing, take_shown};

/// A weight of a network, and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedWeight {
    /// The names of the fields on the way to it, with dots between.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// What it is stored in.
    pub precision: Precision,
    /// How many bytes a file has of it: codes and scales.
    pub bytes: usize,
    /// `‖Ŵ − W‖ / ‖W‖`, zero where it is as it was.
    pub error: f64,
}

impl PackedWeight {
    /// How many numbers it holds.
    pub fn numbers(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Holds the weights of a packed network, vectors left out, to those that it had.
pub fn compare_weights<M: Module>(plain: &M, packed: &M) -> Vec<PackedWeight> {
    let mut after = Collector::default();
    showing(Shown::Contents, || packed.visit(&mut after));
    let mut before = Comparison {
        path: Vec::new(),
        after: after.found,
        found: Vec::new(),
    };
    plain.visit(&mut before);
    before.found
}

/// The names of a network's layers with weights, as a [`PackPolicy`](crate::PackPolicy) calls them.
pub fn layer_names<M: Module>(network: &M) -> Vec<String> {
    let weights = compare_weights(network, network).into_iter();
    let layer = |weight: PackedWeight| Some(weight.name.strip_suffix(".weight")?.to_owned());
    weights.filter_map(layer).collect()
}

/// Takes packed parameters in as it walks over a module.
#[derive(Default)]
struct Collector {
    path: Vec<String>,
    found: HashMap<String, Stored>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, _: &Param<Tensor<D>>) {
        if let Some(stored) = take_shown() {
            self.found.insert(self.path.join("."), stored);
        }
    }
}

struct Comparison {
    path: Vec<String>,
    after: HashMap<String, Stored>,
    found: Vec<PackedWeight>,
}

impl ModuleVisitor for Comparison {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        if D < 2 {
            return;
        }
        let name = self.path.join(".");
        let shape = parameter.lazy_shape().to_vec();
        let numbers: usize = shape.iter().product();
        let stored = self.after.remove(&name);
        let (precision, bytes) = match &stored {
            Some(Stored::Bf16(..)) => (Precision::Bf16, 2 * numbers),
            Some(Stored::Codes(weight)) => {
                let codes = match weight.precision() {
                    Precision::Int8 => numbers,
                    _ => numbers.div_ceil(2),
                };
                (weight.precision(), codes + size_of_val(weight.scales()))
            }
            _ => (Precision::F32, 4 * numbers),
        };
        let error = match stored {
            Some(stored @ (Stored::Bf16(..) | Stored::Codes(_))) => {
                let before: Vec<f32> =
                    (parameter.val().into_data().try_into_vec()).expect("weights are f32");
                relative(&stored.values(), &before)
            }
            _ => 0.0,
        };
        self.found.push(PackedWeight {
            name,
            shape,
            precision,
            bytes,
            error,
        });
    }
}

/// `‖found − expected‖ / ‖expected‖`; zero where both are nothing.
fn relative(found: &[f32], expected: &[f32]) -> f64 {
    let (mut difference, mut size) = (0.0, 0.0);
    for (&found, &expected) in found.iter().zip(expected) {
        difference += (f64::from(found) - f64::from(expected)).powi(2);
        size += f64::from(expected).powi(2);
    }
    if difference == 0.0 {
        0.0
    } else {
        (difference / size).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::{
        Conv1d, Conv1dConfig, ConvTranspose1d, ConvTranspose1dConfig, GegluFeedForward,
        GegluFeedForwardConfig, Linear, LinearConfig, PackPolicy, Packing, Weights, WeightsWriter,
        count_parameters,
    };

    #[derive(Module, Debug)]
    struct Network {
        linear: Linear,
        gated: Vec<GegluFeedForward>,
        conv: Conv1d,
        up: ConvTranspose1d,
        kept: Linear,
    }

    impl Network {
        fn new(device: &Device) -> Self {
            let linear = LinearConfig {
                d_input: 71,
                d_output: 19,
                bias: true,
            };
            let gated = GegluFeedForwardConfig {
                features: 24,
                hidden: 21,
            };
            Self {
                linear: linear.init(device),
                gated: vec![gated.init(device); 2],
                conv: Conv1dConfig {
                    channels_in: 69,
                    channels_out: 33,
                    kernel_size: 5,
                    stride: 1,
                    padding: 2,
                }
                .init(device),
                up: ConvTranspose1dConfig {
                    channels_in: 67,
                    channels_out: 18,
                    kernel_size: 4,
                    stride: 2,
                    padding: 1,
                }
                .init(device),
                kept: linear.init(device),
            }
        }

        fn pack(&mut self, policy: &PackPolicy) {
            let to = Packing::new(policy, &["kept"]);
            let report = self.linear.pack(to.of("linear"))
                + to.each("gated", &mut self.gated, GegluFeedForward::pack)
                + self.conv.pack(to.of("conv"))
                + self.up.pack(to.of("up"))
                + self.kept.pack(to.of("kept"));
            assert_eq!(report.layers, 8);
        }

        /// What the layers make of fixed inputs.
        fn outputs(&self) -> Vec<f32> {
            let device = self.linear.weight.device();
            let ramp = |shape: [usize; 3]| {
                let numbers = 0..i64::try_from(shape.iter().product::<usize>()).expect("few");
                let x = Tensor::<1, burn::tensor::Int>::arange(numbers, &device).float();
                (x * 0.37).sin().reshape(shape)
            };
            let mut outputs = Vec::new();
            let mut add = |y: Tensor<3>| outputs.extend(y.into_data().iter::<f32>());
            add(self.linear.forward(ramp([1, 5, 71])));
            add(self.kept.forward(ramp([1, 5, 71])));
            for gated in &self.gated {
                add(gated.forward(ramp([1, 5, 24])));
            }
            add(self.conv.forward(ramp([2, 69, 8])));
            add(self.up.forward(ramp([2, 67, 8])));
            outputs
        }
    }

    #[test]
    fn what_is_packed_is_written_and_read_to_the_bit() {
        let device = Device::flex();
        let plain = Network::new(&device);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.safetensors");
        let int4 = |group| Precision::Int4 { group };
        for precision in [
            Precision::F32,
            Precision::Bf16,
            Precision::Int8,
            Precision::INT4,
            int4(8),
        ] {
            let policy = PackPolicy::from(precision);
            let mut packed = plain.clone();
            packed.pack(&policy);
            let mut writer = WeightsWriter::default();
            writer.module(&packed, str::to_owned);
            writer.packing(&policy);
            writer.write(&path).expect("written");
            let size = std::fs::metadata(&path).expect("written").len();
            let mut weights = Weights::open(&path).expect("is valid");
            assert_eq!(weights.packing(), Some(&policy));
            let read = weights.load(Network::new(&device), str::to_owned);
            let mut read: Network = read.expect("fits");
            weights.finish().expect("all is used");
            assert_eq!(count_parameters(&read), plain.num_params(), "{precision}");
            // Before it is packed it computes with the numbers that the codes stand for.
            let difference = |a: Vec<f32>, b: Vec<f32>| {
                let pairs = a.into_iter().zip(b);
                pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
            };
            let unpacked = difference(read.outputs(), packed.outputs());
            assert!(unpacked < 3e-2, "{precision}: {unpacked}");
            read.pack(&policy);
            let (found, expected) = (read.outputs(), packed.outputs());
            let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&found), bits(&expected), "{precision}");
            assert_eq!(count_parameters(&packed), plain.num_params());
            // In any other precision, it is what was rounded.
            let mut other = read.clone();
            other.pack(&Precision::F32.into());
            let rounded = difference(other.outputs(), packed.outputs());
            assert!(rounded < 3e-2, "{precision}: {rounded}");

            let weights = compare_weights(&plain, &packed);
            assert_eq!(weights.len(), 8);
            for weight in &weights {
                let is_kept = weight.name.starts_with("kept") && precision.is_codes();
                let kept = is_kept || precision == Precision::F32;
                let expected = if kept { Precision::F32 } else { precision };
                assert_eq!(weight.precision, expected, "{}", weight.name);
                assert_eq!(weight.error == 0.0, kept, "{}", weight.name);
            }
            let sum: usize = weights.iter().map(|weight| weight.bytes).sum();
            // The header, and vectors.
            assert!(
                size as usize >= sum && size as usize - sum < 4000,
                "{precision}"
            );
        }
    }

    #[test]
    fn codes_that_kernels_have_not_are_numbers() {
        // A scale for each of all numbers, where kernels have one for a row.
        let device = Device::flex();
        let codes: Vec<i8> = (0..12).map(|i| i * 7 - 40).collect();
        let scales: Vec<f32> = (0..12).map(|i| 0.01 * (1.0 + i as f32)).collect();
        let weight = crate::Quantized::new(
            Precision::Int8,
            (&[3, 4], codes.clone()),
            (&[3, 4], scales.clone()),
        )
        .expect("go together");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.safetensors");
        let mut writer = WeightsWriter::default();
        writer.quantized("weight", &weight);
        writer.write(&path).expect("written");
        let config = LinearConfig {
            d_input: 4,
            d_output: 3,
            bias: false,
        };
        let mut weights = Weights::open(&path).expect("is valid");
        let read = weights.load(config.init(&device), str::to_owned);
        let mut read: Linear = read.expect("fits");
        let expected = weight.values();
        let values = |layer: &Linear| -> Vec<f32> {
            layer.weight.val().into_data().try_into_vec().expect("f32")
        };
        assert_eq!(values(&read), expected);
        let _ = read.pack(Precision::Int8);
        let found = values(&read);
        assert!(relative(&found, &expected) < 5e-3);
    }
}
