//! Layers whose weights are codes, held to the numbers that these codes stand for.

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::Distribution;

use crate::kernel::rounded;
use crate::{
    Conv1d, Conv1dConfig, Conv2d, Conv2dConfig, ConvTranspose1d, ConvTranspose1dConfig, Linear,
    LinearConfig, Parameter, Precision,
};

/// Of the largest output: sums of up to 720 products in f32, in another order than burn's, of numbers that are rounded alike.
const ROUNDING: f32 = 1e-5;

/// ‖Ŵ − W‖/‖W‖ of weights that are distributed evenly: half a step of 127 or of 7.5 in a hundred would be 1/(127 · 2) and
/// 1/(7.5 · 2) at most, and √3 less of one that is anywhere in its step.
fn weight_error(precision: Precision) -> f64 {
    match precision {
        Precision::Int8 => 5e-3,
        _ => 8e-2,
    }
}

/// ‖Δ‖/‖y‖ of a layer against its plain self, of such weights and inputs of a normal distribution: besides what weights are
/// wrong by, an input is by half a step of some 6.5/255 at most, and √3 less on average.
fn output_error(precision: Precision) -> f64 {
    match precision {
        Precision::Int8 => 1.5e-2,
        _ => 9e-2,
    }
}

const PRECISIONS: [Precision; 3] = [
    Precision::Int8,
    Precision::INT4,
    Precision::Int4 { group: 32 },
];

/// What the layers have in common.
trait Layer<const D: usize>: Clone + Sync {
    fn pack(&mut self, precision: Precision);
    fn forward(&self, x: Tensor<D>) -> Tensor<D>;
    fn weights(&self) -> Vec<f32>;
    /// Plain again, with the weights that it has now.
    fn unpacked(&self) -> Self;
    /// Whether each position of a sample is rounded by itself.
    fn is_pointwise(&self) -> bool {
        false
    }
}

fn unpacked<const D: usize>(parameter: &Parameter<D>) -> Parameter<D> {
    Param::from_tensor(parameter.val()).into()
}

fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_into_vec().expect("f32")
}

impl Layer<2> for Linear {
    fn pack(&mut self, precision: Precision) {
        assert_eq!(Self::pack(self, precision).layers, 1);
    }
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        Self::forward(self, x)
    }
    fn weights(&self) -> Vec<f32> {
        numbers(self.weight.val())
    }
    fn unpacked(&self) -> Self {
        Self {
            weight: unpacked(&self.weight),
            bias: self.bias.as_ref().map(unpacked),
        }
    }
}

impl Layer<3> for Conv1d {
    fn pack(&mut self, precision: Precision) {
        assert_eq!(Self::pack(self, precision).layers, 1);
    }
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        Self::forward(self, x)
    }
    fn weights(&self) -> Vec<f32> {
        numbers(self.weight.val())
    }
    fn unpacked(&self) -> Self {
        let mut plain = self.clone();
        plain.weight = unpacked(&self.weight);
        plain.bias = unpacked(&self.bias);
        plain
    }
    fn is_pointwise(&self) -> bool {
        self.weight.dims()[2] == 1
    }
}

impl Layer<3> for ConvTranspose1d {
    fn pack(&mut self, precision: Precision) {
        assert_eq!(Self::pack(self, precision).layers, 1);
    }
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        Self::forward(self, x)
    }
    fn weights(&self) -> Vec<f32> {
        numbers(self.weight.val())
    }
    fn unpacked(&self) -> Self {
        let mut plain = self.clone();
        plain.weight = unpacked(&self.weight);
        plain.bias = unpacked(&self.bias);
        plain
    }
}

impl Layer<4> for Conv2d {
    fn pack(&mut self, precision: Precision) {
        assert_eq!(Self::pack(self, precision).layers, 1);
    }
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        Self::forward(self, x)
    }
    fn weights(&self) -> Vec<f32> {
        numbers(self.weight.val())
    }
    fn unpacked(&self) -> Self {
        let mut plain = self.clone();
        plain.weight = unpacked(&self.weight);
        plain.bias = self.bias.as_ref().map(unpacked);
        plain
    }
}

fn relative(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let pairs = found.iter().zip(expected);
    norm(&mut pairs.map(|(a, b)| f64::from(*a) - f64::from(*b)))
        / norm(&mut expected.iter().map(|x| f64::from(*x)))
}

/// The numbers that the codes of inputs stand for: those of each sample, or of each position where channels come second.
fn codes_of<const D: usize>(x: &Tensor<D>, pointwise: bool) -> Tensor<D> {
    let (shape, device) = (x.dims(), x.device());
    let values = numbers(x.clone());
    let each = values.len() / shape[0];
    let positions: usize = if pointwise {
        shape[2..].iter().product()
    } else {
        1
    };
    let mut out = vec![0.0; values.len()];
    for sample in 0..shape[0] {
        for position in 0..positions {
            let at = |i: usize| sample * each + i * positions + position;
            let seen: Vec<f32> = (0..each / positions).map(|i| values[at(i)]).collect();
            for (i, x) in rounded(&seen).into_iter().enumerate() {
                out[at(i)] = x;
            }
        }
    }
    Tensor::from_data(TensorData::new(out, shape), &device)
}

fn holds<const D: usize, L: Layer<D>>(what: &str, plain: &L, shape: [usize; D]) {
    let device = Device::flex();
    let x = Tensor::<D>::random(shape, Distribution::Normal(0.3, 1.0), &device);
    let pool = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("threads start")
    };
    let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
    for precision in PRECISIONS {
        let mut packed = plain.clone();
        packed.pack(precision);
        let rounded = packed.unpacked();
        let error = relative(&rounded.weights(), &plain.weights());
        assert!(
            error < weight_error(precision),
            "{what} in {precision}: weights are wrong by {error:.1e}"
        );
        // What was rounded stays rounded.
        let mut again = packed.clone();
        again.pack(Precision::F32);
        assert_eq!(bits(&again.weights()), bits(&rounded.weights()), "{what}");

        let found = numbers(packed.forward(x.clone()));
        let expected = numbers(rounded.forward(codes_of(&x, packed.is_pointwise())));
        let largest = expected.iter().fold(0.0_f32, |most, y| most.max(y.abs()));
        for (i, (y, expected)) in found.iter().zip(&expected).enumerate() {
            assert!(
                (y - expected).abs() <= ROUNDING * largest,
                "{what} in {precision}: output {i} is {y}, and its codes make {expected}"
            );
        }
        let error = relative(&found, &numbers(plain.forward(x.clone())));
        assert!(
            error < output_error(precision),
            "{what} in {precision}: outputs are wrong by {error:.1e}"
        );

        for threads in [1, 2] {
            let y = pool(threads).install(|| numbers(packed.forward(x.clone())));
            assert_eq!(
                bits(&y),
                bits(&found),
                "{what} in {precision}: {threads} threads"
            );
        }
        let each = found.len() / shape[0];
        for (i, together) in found.chunks(each).enumerate() {
            let alone = numbers(packed.forward(x.clone().narrow(0, i, 1)));
            assert_eq!(
                bits(&alone),
                bits(together),
                "{what} in {precision}: sample {i}"
            );
        }

        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = numbers(x.clone());
            let middle = values.len() / shape[0] / 2;
            values[middle] = value;
            let spoilt = Tensor::<D>::from_data(TensorData::new(values, shape), &device);
            let seen = numbers(plain.forward(spoilt.clone()));
            let y = numbers(packed.forward(spoilt));
            assert!(seen.iter().any(|y| !y.is_finite()), "{what}");
            for (i, (y, seen)) in y.iter().zip(&seen).enumerate() {
                assert!(
                    seen.is_finite() || y.is_nan(),
                    "{what} in {precision}: {value} hides in output {i}"
                );
            }
            assert_eq!(
                bits(&y[each..]),
                bits(&found[each..]),
                "{what} in {precision}"
            );
        }
    }
}

#[test]
fn linear_layers_are_those_of_their_codes() {
    for (d_input, d_output, rows) in [(77, 50, 3), (128, 33, 40)] {
        let layer = LinearConfig {
            d_input,
            d_output,
            bias: true,
        }
        .init(&Device::flex());
        holds("a linear layer", &layer, [rows, d_input]);
    }
}

/// The parts of a product are rounded each by itself, since each is called by itself.
#[test]
fn a_part_of_a_linear_layer_reads_its_codes() {
    let device = Device::flex();
    let plain = LinearConfig {
        d_input: 77,
        d_output: 50,
        bias: false,
    }
    .init(&device);
    let x = Tensor::<2>::random([4, 31], Distribution::Normal(0.0, 1.0), &device);
    for precision in PRECISIONS {
        let mut packed = plain.clone();
        Layer::pack(&mut packed, precision);
        for start in [0, 5, 46] {
            let found = numbers(packed.forward_part(x.clone(), start));
            let rounded = packed.unpacked();
            let expected = numbers(rounded.forward_part(codes_of(&x, false), start));
            let largest = expected.iter().fold(0.0_f32, |most, y| most.max(y.abs()));
            for (y, expected) in found.iter().zip(&expected) {
                assert!(
                    (y - expected).abs() <= ROUNDING * largest,
                    "{precision}: {y} {expected}"
                );
            }
        }
    }
}

#[test]
fn convolutions_over_time_are_those_of_their_codes() {
    for (kernel_size, stride, padding, time) in [(5, 1, 2, 16), (3, 2, 1, 7), (1, 1, 0, 4)] {
        let layer = Conv1dConfig {
            channels_in: 80,
            channels_out: 24,
            kernel_size,
            stride,
            padding,
        }
        .init(&Device::flex());
        holds("a convolution", &layer, [3, 80, time]);
    }
}

#[test]
fn transposed_convolutions_are_those_of_their_codes() {
    for (kernel_size, stride, padding) in [(4, 2, 1), (3, 3, 0), (2, 5, 1), (5, 1, 2)] {
        let layer = ConvTranspose1dConfig {
            channels_in: 70,
            channels_out: 20,
            kernel_size,
            stride,
            padding,
        }
        .init(&Device::flex());
        holds("a transposed convolution", &layer, [3, 70, 9]);
    }
}

#[test]
fn convolutions_over_pictures_are_those_of_their_codes() {
    for (kernel_size, stride, padding) in [(3, 1, 1), (3, 2, 1), (1, 1, 0)] {
        let layer = Conv2dConfig {
            channels_in: 70,
            channels_out: 20,
            kernel_size: [kernel_size; 2],
            stride: [stride; 2],
            padding: [padding; 2],
            bias: true,
        }
        .init(&Device::flex());
        holds("a picture's convolution", &layer, [2, 70, 11, 9]);
    }
}
