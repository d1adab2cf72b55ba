//! What layers read while a network runs, and rounding with that in mind.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::{Tensor, TensorData};

use crate::quantized::{Arrival, send};
use crate::rounding::{
    Gram, Order, RoundingError, Scheme, balance, damping, gptq, nearest, refine, shift,
};
use crate::{Packing, Parameter, Precision, Quantized};

/// The most inputs of a layer whose products with each other are kept: 600 MB. Layers with more are rounded to the nearest.
const MOST_COLUMNS: usize = 12_288;
/// Every so many runs, inputs are kept aside to judge by.
const EVERY: usize = 4;
/// How often codes are looked through once more.
const SWEEPS: usize = 3;

thread_local! {
    static OBSERVER: RefCell<Option<Calibration>> = const { RefCell::new(None) };
}

/// What the layers of a network read while it ran.
///
/// Of each layer the products of its inputs with each other, and their means: what rounding its weights does to its outputs
/// depends on nothing else.
#[derive(Debug, Default)]
pub struct Calibration {
    layers: HashMap<ParamId, Inputs>,
    /// What the layers may take, in bytes; nothing where there is no bound.
    most: Option<usize>,
    /// Layers that were looked at before.
    before: HashSet<ParamId>,
    /// Layers that did not fit.
    missed: HashSet<ParamId>,
}

#[derive(Debug)]
struct Inputs {
    gram: Gram,
    /// Of every fourth run: how far the others are to be believed.
    unseen: Gram,
    runs: usize,
    sums: Vec<f64>,
    /// The least and the largest number of each channel in each sample.
    extents: Vec<[f32; 2]>,
}

/// A weight that was rounded for what its layer reads.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundedWeight {
    /// The names of the fields on the way to it, with dots between.
    pub name: String,
    /// What the layer makes of the inputs of the calibration: `‖(Ŵ − W) x‖ / ‖W x‖`.
    pub error: f64,
    /// The same if each weight, of the balanced layer where it is balanced, had been rounded to the nearest.
    pub error_of_nearest: f64,
    /// Whether the layer's inputs are multiplied by factors before they are rounded.
    pub is_balanced: bool,
}

/// Why a network cannot be rounded.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("layer `{layer}`: {error}")]
pub struct CalibrationError {
    /// The layer, as [`PackPolicy`](crate::PackPolicy) calls it.
    pub layer: String,
    /// What is wrong.
    pub error: RoundingError,
}

impl Calibration {
    /// One that keeps as much of the layers' inputs as fits into so many bytes, of one layer at least. A layer of `n` inputs, a
    /// tap of a channel being one, takes `8 · n²`. The [rest](Self::rest) are looked at in further runs of the same network.
    pub fn within(bytes: usize) -> Self {
        Self {
            most: Some(bytes),
            ..Self::default()
        }
    }

    /// For another look at the same network, at the layers that did not fit into this one's memory; nothing where all did.
    pub fn rest(self) -> Option<Self> {
        let mut before = self.before;
        before.extend(self.layers.into_keys());
        (!self.missed.is_empty()).then(|| Self {
            most: self.most,
            before,
            ..Self::default()
        })
    }

    /// Whether there is room for a layer of so many inputs, or it is there already.
    fn takes(&mut self, id: ParamId, inputs: usize) -> bool {
        if self.layers.contains_key(&id) {
            return true;
        }
        if self.before.contains(&id) || self.missed.contains(&id) {
            return false;
        }
        let bytes = |inputs: usize| 2 * Gram::bytes(inputs);
        let taken: usize = (self.layers.values())
            .map(|it| bytes(it.gram.columns()))
            .sum();
        let fits = self.most.is_none_or(|most| taken + bytes(inputs) <= most);
        if fits || self.layers.is_empty() {
            return true;
        }
        self.missed.insert(id);
        false
    }

    /// Runs something, and looks at what the plain layers read that it runs on this thread.
    ///
    /// Convolutions and linear layers are looked at whose weights become codes for all inputs at once; transposed convolutions
    /// are not. Within another observation this one sees what is run, and the other goes on behind it. If the run panics, what
    /// this one has seen so far is lost.
    pub fn observe<T>(&mut self, run: impl FnOnce() -> T) -> T {
        /// What looked before.
        struct Outer(Option<Calibration>);
        impl Drop for Outer {
            fn drop(&mut self) {
                OBSERVER.set(self.0.take());
            }
        }
        let outer = Outer(OBSERVER.replace(Some(std::mem::take(self))));
        let result = run();
        *self = OBSERVER.take().unwrap_or_default();
        drop(outer);
        result
    }

    /// How many layers were seen.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Makes codes of the weights of those layers that were seen and are not kept, so that what the layers make of their inputs
    /// changes least: GPTQ, as far as inputs that it was not given bear it out, then single codes that are changed as long as
    /// the error falls; and moves offsets by what is left of the mean error. Where it pays, channels of a convolution over time are balanced first: what is hard to round of the inputs
    /// moves to the weights. Packing the network then lays these codes out.
    ///
    /// "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", Xiao et al., 2023,
    /// arXiv:2211.10438;
    /// "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", Frantar et al., 2023,
    /// arXiv:2210.17323; offsets: "Data-Free Quantization Through Weight Equalization and Bias Correction", Nagel et al., 2019,
    /// arXiv:1906.04721.
    ///
    /// # Errors
    ///
    /// If a weight or an input was not finite.
    pub fn round<M: Module>(
        &self,
        network: M,
        to: &Packing<'_>,
    ) -> Result<(M, Vec<RoundedWeight>), CalibrationError> {
        let mut rounder = Rounder {
            calibration: self,
            to,
            path: Vec::new(),
            shifts: HashMap::new(),
            found: Vec::new(),
            error: None,
        };
        let network = network.map(&mut rounder);
        match rounder.error {
            Some(error) => Err(error),
            None => Ok((network, rounder.found)),
        }
    }
}

/// Shows what a layer reads, if someone looks: the inputs in the order of the weight's, one row each.
///
/// Shapes: columns `[inputs, samples · positions]`.
pub(crate) fn observe<const D: usize>(
    weight: &Parameter<D>,
    samples: usize,
    columns: impl FnOnce() -> Tensor<2>,
) {
    let Parameter::Plain(param) = weight else {
        return;
    };
    // What is computed for the observer is not observed.
    let Some(mut calibration) = OBSERVER.take() else {
        return;
    };
    let inputs: usize = weight.dims()[1..].iter().product();
    if inputs <= MOST_COLUMNS && calibration.takes(param.id, inputs) {
        let columns = columns();
        let [found, positions] = columns.dims();
        assert_eq!(
            found, inputs,
            "what a layer reads is not what it multiplies"
        );
        let values: Vec<f32> = columns
            .transpose()
            .into_data()
            .try_into_vec()
            .expect("layers compute in f32");
        let seen = calibration
            .layers
            .entry(param.id)
            .or_insert_with(|| Inputs {
                gram: Gram::new(inputs),
                unseen: Gram::new(inputs),
                runs: 0,
                sums: vec![0.0; inputs],
                extents: Vec::new(),
            });
        debug_assert_eq!(values.len(), positions * inputs);
        for position in values.chunks_exact(inputs) {
            for (sum, x) in seen.sums.iter_mut().zip(position) {
                *sum += f64::from(*x);
            }
        }
        let channels = weight.dims()[1];
        let (taps, each) = (inputs / channels, positions / samples * inputs);
        for sample in values.chunks_exact(each.max(1)) {
            let mut extents = vec![[f32::INFINITY, f32::NEG_INFINITY]; channels];
            for position in sample.chunks_exact(inputs) {
                for (extent, x) in extents.iter_mut().zip(position.chunks_exact(taps)) {
                    for x in x {
                        *extent = [extent[0].min(*x), extent[1].max(*x)];
                    }
                }
            }
            seen.extents.extend(extents);
        }
        seen.runs += 1;
        let gram = if seen.runs.is_multiple_of(EVERY) {
            &mut seen.unseen
        } else {
            &mut seen.gram
        };
        gram.add(&values);
    }
    OBSERVER.set(Some(calibration));
}

/// Rounds weights as it walks over a module.
struct Rounder<'a> {
    calibration: &'a Calibration,
    to: &'a Packing<'a>,
    path: Vec<String>,
    /// What is to be added to the offsets of a layer.
    shifts: HashMap<String, Vec<f32>>,
    found: Vec<RoundedWeight>,
    error: Option<CalibrationError>,
}

impl Rounder<'_> {
    /// The codes of a weight, or nothing if it stays as it is.
    fn round<const D: usize>(
        &mut self,
        layer: &str,
        param: &Param<Tensor<D>>,
    ) -> Result<Option<Quantized>, RoundingError> {
        let precision = self.to.of(layer);
        let Some(inputs) = self.calibration.layers.get(&param.id) else {
            return Ok(None);
        };
        let shape: [usize; D] = param.lazy_shape().dims();
        let (channels, taps) = (shape[1], shape[2..].iter().product());
        let (scheme, group) = match precision {
            Precision::Int8 => (Scheme::eight_bits(channels * taps), None),
            Precision::Int4 { group } => (Scheme::neighbours([channels, taps], group), Some(group)),
            _ => return Ok(None),
        };
        let mut weights: Vec<f32> =
            (param.val().into_data().try_into_vec()).expect("weights are f32");
        let columns = channels * taps;
        let positions = inputs.gram.positions() + inputs.unseen.positions();
        let mut factors = vec![1.0; channels];
        if D == 3 {
            factors = balance(&weights, &scheme, taps, &inputs.gram, &inputs.extents)?.factors;
        }
        // One to the bit where nothing is gained.
        let is_balanced = factors.iter().any(|factor| (factor - 1.0).abs() > 0.0);
        let mut means: Vec<f64> = (inputs.sums.iter())
            .map(|sum| sum / positions as f64)
            .collect();
        let mut grams = None;
        if is_balanced {
            // What is read is divided, and so are its products with each other; weights are multiplied.
            let factor = |column: usize| f64::from(factors[column / taps]);
            for (at, weight) in weights.iter_mut().enumerate() {
                *weight = (f64::from(*weight) * factor(at % columns)) as f32;
            }
            for (column, mean) in means.iter_mut().enumerate() {
                *mean /= factor(column);
            }
            grams = Some([&inputs.gram, &inputs.unseen].map(|gram| {
                Gram::from_fn(columns, gram.positions(), |i, j| {
                    gram.at(i, j) / (factor(i) * factor(j))
                })
            }));
        }
        let [gram, unseen] = match &grams {
            Some([gram, unseen]) => [gram, unseen],
            None => [&inputs.gram, &inputs.unseen],
        };
        let order = Order::LargestFirst;
        let rounded = match damping(&weights, &scheme, gram, unseen, order)? {
            Some(damping) => {
                let rounded = gptq(&weights, &scheme, gram, order, damping)?;
                refine(&weights, &scheme, gram, &rounded, damping, SWEEPS)?
            }
            None => nearest(&weights, &scheme, gram)?,
        };
        let shifts = shift(&weights, &scheme, &rounded, &means)?;
        self.shifts.insert(layer.to_owned(), shifts);
        let size: f64 = gram.quadratic(&weights).iter().sum();
        let relative = |error: f64| {
            if error == 0.0 {
                0.0
            } else {
                (error / size).sqrt()
            }
        };
        self.found.push(RoundedWeight {
            name: format!("{layer}.weight"),
            error: relative(rounded.error()),
            error_of_nearest: relative(rounded.error_of_nearest()),
            is_balanced,
        });
        // A scale a row, or one for each group of a row at each tap.
        let mut scale_shape = [1; D];
        scale_shape[0] = shape[0];
        if let Some(group) = group {
            scale_shape = shape;
            scale_shape[1] = channels.div_ceil(group);
        }
        let weight = Quantized::new(
            precision,
            (&shape, rounded.codes),
            (&scale_shape, rounded.scales),
        );
        let mut weight = weight.expect("a scheme is that of a precision");
        if is_balanced {
            let inverses: Vec<f32> = factors.iter().map(|factor| 1.0 / factor).collect();
            let balanced = weight.balanced(&inverses);
            weight = balanced.expect("factors are those of finite numbers");
        }
        Ok(Some(weight))
    }
}

impl ModuleMapper for Rounder<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some((name, layer)) = self.path.split_last() else {
            return param;
        };
        let (name, layer) = (name.clone(), layer.join("."));
        // A mapper cannot stop; after the first error it leaves the rest as it is.
        if self.error.is_some() {
            return param;
        }
        if name == "weight" && D >= 2 {
            match self.round(&layer, &param) {
                Ok(Some(weight)) => {
                    // Plain layers alone were looked at.
                    let _ = send(param.id, Arrival::Codes(weight));
                }
                Ok(None) => {}
                Err(error) => self.error = Some(CalibrationError { layer, error }),
            }
            return param;
        }
        match self.shifts.remove(&layer) {
            Some(shift) if name == "bias" => {
                let shape: [usize; D] = param.lazy_shape().dims();
                param.map(|bias| {
                    let data = TensorData::new(shift, shape);
                    bias.clone() + Tensor::from_data(data, &bias.device())
                })
            }
            _ => param,
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;
    use crate::{Conv1d, Conv1dConfig, Linear, LinearConfig, PackPolicy, Weights, WeightsWriter};

    #[derive(Module, Debug)]
    struct Network {
        conv: Conv1d,
        linear: Linear,
        kept: Linear,
    }

    impl Network {
        fn new(device: &Device) -> Self {
            let linear = LinearConfig {
                d_input: 40,
                d_output: 40,
                bias: true,
            };
            Self {
                conv: Conv1dConfig {
                    channels_in: 24,
                    channels_out: 40,
                    kernel_size: 3,
                    stride: 1,
                    padding: 1,
                }
                .init(device),
                linear: linear.init(device),
                kept: linear.init(device),
            }
        }

        fn forward(&self, x: Tensor<3>) -> Tensor<3> {
            let x = self.conv.forward(x).swap_dims(1, 2);
            self.kept.forward(self.linear.forward(x))
        }

        fn pack(&mut self, to: &Packing<'_>) {
            let report = self.conv.pack(to.of("conv"))
                + self.linear.pack(to.of("linear"))
                + self.kept.pack(to.of("kept"));
            assert_eq!(report.layers, 3);
        }
    }

    /// Channels that go with each other, and are not zero on average.
    fn inputs(device: &Device, seed: u64) -> Tensor<3> {
        device.seed(seed);
        let normal = Distribution::Normal(0.0, 1.0);
        let few = Tensor::<3>::random([64, 6, 8], normal, device);
        device.seed(7);
        let mix = Tensor::<2>::random([24, 6], normal, device).unsqueeze::<3>();
        let own = Tensor::<3>::random([64, 24, 8], normal, device);
        mix.repeat_dim(0, 64).matmul(few) + own * 0.1 + 0.5
    }

    #[test]
    fn what_layers_read_makes_codes_better() {
        let device = Device::flex();
        let plain = Network::new(&device);
        let mut calibration = Calibration::default();
        let expected = plain.forward(inputs(&device, 1));
        let observed = calibration.observe(|| plain.forward(inputs(&device, 1)));
        observed.into_data().assert_eq(&expected.into_data(), true);
        for seed in 3..6 {
            let _ = calibration.observe(|| plain.forward(inputs(&device, seed)));
        }
        assert_eq!(calibration.layers(), 3);
        let fresh = inputs(&device, 2);
        let error = |packed: &Network| -> f64 {
            let expected = plain.forward(fresh.clone());
            let difference = packed.forward(fresh.clone()) - expected.clone();
            let norm = |x: Tensor<3>| f64::from(x.powi_scalar(2).sum().into_scalar::<f32>()).sqrt();
            norm(difference) / norm(expected)
        };
        // By how much less the error has to be. Of eight bits, what is left is mostly the inputs' rounding.
        for (precision, factor) in [(Precision::Int8, 1.0), (Precision::Int4 { group: 8 }, 0.7)] {
            let policy = PackPolicy::from(precision);
            let to = Packing::new(&policy, &["kept"]);
            let mut nearest = plain.clone();
            nearest.pack(&to);
            let (mut rounded, report) = calibration.round(plain.clone(), &to).expect("is finite");
            let names: Vec<&str> = report.iter().map(|it| it.name.as_str()).collect();
            assert_eq!(names, ["conv.weight", "linear.weight"]);
            assert!(report.iter().all(|it| it.error <= it.error_of_nearest));
            rounded.pack(&to);
            let (found, before) = (error(&rounded), error(&nearest));
            assert!(found < factor * before, "{precision}: {found} of {before}");
            let bias = |layer: &Linear| {
                let bias = layer.bias.as_ref().expect("it has one").val();
                bias.into_data()
            };
            assert_eq!(bias(&rounded.kept), bias(&plain.kept));
            assert_ne!(bias(&rounded.linear), bias(&plain.linear));
        }
    }

    #[test]
    fn what_does_not_fit_is_looked_at_once_more() {
        let device = Device::flex();
        let plain = Network::new(&device);
        let policy = PackPolicy::from(Precision::INT4);
        let to = Packing::new(&policy, &[]);
        let look = |calibration: &mut Calibration| {
            for seed in 3..7 {
                let _ = calibration.observe(|| plain.forward(inputs(&device, seed)));
            }
        };
        let mut all = Calibration::default();
        look(&mut all);
        let (expected, reports) = all.round(plain.clone(), &to).expect("is finite");
        assert!(all.rest().is_none());
        // The convolution has 72 inputs, the linear layers 40 each.
        for (bytes, looks) in [
            (1 << 20, 1),
            (8 * (72 * 72 + 40 * 40), 2),
            (8 * 2 * 40 * 40, 2),
            (0, 3),
        ] {
            let mut rounded = plain.clone();
            let (mut found, mut count) = (Vec::new(), 0);
            let mut next = Some(Calibration::within(bytes));
            while let Some(mut calibration) = next {
                look(&mut calibration);
                let (network, more) = calibration.round(rounded, &to).expect("is finite");
                rounded = network;
                found.extend(more);
                count += 1;
                next = calibration.rest();
            }
            assert_eq!(count, looks, "{bytes} bytes");
            assert_eq!(found, reports);
            let outputs = |network: &Network| {
                let mut packed = network.clone();
                packed.pack(&to);
                packed.forward(inputs(&device, 2)).into_data()
            };
            outputs(&rounded).assert_eq(&outputs(&expected), true);
        }
    }

    #[test]
    fn observations_within_observations_see_what_is_theirs() {
        let device = Device::flex();
        let plain = Network::new(&device);
        let (mut outer, mut inner) = (Calibration::default(), Calibration::default());
        let x = Tensor::<2>::ones([4, 40], &device);
        outer.observe(|| {
            let _ = plain.linear.forward(x.clone());
            let _ = inner.observe(|| plain.kept.forward(x.clone()));
            let _ = plain.linear.forward(x.clone());
        });
        assert_eq!((outer.layers(), inner.layers()), (1, 1));
        let seen = |calibration: &Calibration| {
            calibration.layers.values().map(|it| it.runs).sum::<usize>()
        };
        assert_eq!((seen(&outer), seen(&inner)), (2, 1));
    }

    #[test]
    fn a_channel_that_is_far_larger_is_balanced() {
        let device = Device::flex();
        let plain = Network::new(&device);
        // Small weights go with large inputs, as they do in networks that were trained.
        let mut sizes = [1.0; 24];
        (sizes[5], sizes[17]) = (60.0, 0.02);
        let sizes = Tensor::<1>::from_floats(sizes, &device).reshape([1, 24, 1]);
        let mut network = plain.clone();
        network.conv.weight = Param::from_tensor(plain.conv.weight.val() / sizes.clone()).into();
        let read = |seed| inputs(&device, seed) * sizes.clone();
        let mut calibration = Calibration::default();
        for seed in 3..7 {
            let _ = calibration.observe(|| network.forward(read(seed)));
        }
        let expected = network.forward(read(2));
        let error = |packed: &Network| -> f64 {
            let norm = |x: Tensor<3>| f64::from(x.powi_scalar(2).sum().into_scalar::<f32>()).sqrt();
            norm(packed.forward(read(2)) - expected.clone()) / norm(expected.clone())
        };
        let policy = PackPolicy::from(Precision::Int8);
        let to = Packing::new(&policy, &[]);
        let (mut rounded, report) = calibration.round(network.clone(), &to).expect("is finite");
        let balanced: Vec<bool> = report.iter().map(|it| it.is_balanced).collect();
        assert_eq!(balanced, [true, false, false]);
        rounded.pack(&to);
        network.pack(&to);
        let (found, nearest) = (error(&rounded), error(&network));
        assert!(found < 0.25 * nearest, "{found} of {nearest}");

        // In a file it is the same network.
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.safetensors");
        let mut writer = WeightsWriter::default();
        writer.module(&rounded, str::to_owned);
        writer.write(&path).expect("written");
        let mut weights = Weights::open(&path).expect("is valid");
        let read_back = weights.load(Network::new(&device), str::to_owned);
        let mut read_back = read_back.expect("fits");
        weights.finish().expect("all is used");
        // Codes that are not laid out stand for the same numbers.
        let unpacked = error(&read_back);
        assert!(unpacked < 0.25 * nearest, "{unpacked} of {nearest}");
        read_back.pack(&to);
        let outputs = |network: &Network| network.forward(read(2)).into_data();
        outputs(&read_back).assert_eq(&outputs(&rounded), true);
        let weights = |network: &Network| network.conv.weight.val().into_data();
        weights(&read_back).assert_eq(&weights(&rounded), true);
    }

    #[test]
    fn what_is_not_finite_is_named() {
        let device = Device::flex();
        let plain = Network::new(&device);
        let mut calibration = Calibration::default();
        let x = inputs(&device, 1) * f32::INFINITY;
        let _ = calibration.observe(|| plain.forward(x));
        let policy = PackPolicy::from(Precision::Int8);
        let error = calibration
            .round(plain, &Packing::new(&policy, &[]))
            .expect_err("is not finite");
        assert_eq!(error.layer, "conv");
    }
}
