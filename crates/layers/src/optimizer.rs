//! Optimizers whose averages can be saved.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::{AdamWState, AdaptiveMomentumState, GradientsParams, Optimizer};
use burn::tensor::{Tensor, TensorData};

use crate::{AdamW, Muon, Weights, WeightsError, WeightsWriter};

/// What makes a step of a gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// One for all parameters.
    AdamW(AdamW),
    /// One for weights of at least 16 channels on either side, and one for what is left: biases, norms, and the embeddings,
    /// first and last layers of few classes and channels. Only shapes are looked at.
    Muon {
        /// For weights between hidden channels.
        matrices: Muon,
        /// For all others.
        others: AdamW,
    },
}

impl Rule {
    /// That of a parameter.
    fn of(&self, shape: &[usize]) -> One {
        match *self {
            Self::AdamW(adamw) => One::AdamW(adamw),
            Self::Muon { matrices, others } => {
                if Muon::is_for(shape) {
                    One::Muon(matrices)
                } else {
                    One::AdamW(others)
                }
            }
        }
    }
}

impl From<AdamW> for Rule {
    fn from(adamw: AdamW) -> Self {
        Self::AdamW(adamw)
    }
}

/// The rule of one parameter.
enum One {
    AdamW(AdamW),
    Muon(Muon),
}

/// A [`Rule`] with its averages, which are saved beside a network's weights and under their keys: of gradients, and for AdamW
/// of their squares.
///
/// A run that is saved, loaded and goes on makes the steps that it would have made, to the bit. It counts its steps once for
/// all parameters, so each must have a gradient in every step.
#[derive(Debug)]
pub struct ResumableOptimizer {
    rule: Rule,
    steps: usize,
    // Tensors of every rank by the names of their parameters; burn's map of gradients is that, whatever they are.
    first: GradientsParams,
    second: GradientsParams,
}

impl ResumableOptimizer {
    /// An optimizer that made no step.
    pub fn new(rule: impl Into<Rule>) -> Self {
        Self {
            rule: rule.into(),
            steps: 0,
            first: GradientsParams::new(),
            second: GradientsParams::new(),
        }
    }

    /// How many steps it made.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Moves a network on autodiff by a step.
    ///
    /// A parameter without a gradient stays where it is, and is missing when the averages are loaded.
    pub fn step<M: Module>(&mut self, rate: f64, network: M, gradients: GradientsParams) -> M {
        let network = network.map(&mut Update {
            optimizer: self,
            rate,
            gradients,
        });
        self.steps += 1;
        network
    }

    /// Adds the averages of a network's parameters to a file, those of gradients under `first.` and those of their
    /// squares under `second.`, behind the prefix; nothing before the first step.
    pub fn save<M: Module>(&self, network: &M, writer: &mut WeightsWriter, prefix: &str) {
        network.visit(&mut Save {
            optimizer: self,
            writer,
            prefix,
            path: Vec::new(),
        });
    }

    /// An optimizer that made `steps` steps, with the averages that [`save`](Self::save) wrote.
    ///
    /// # Errors
    ///
    /// If an average is missing, of another shape or not finite.
    pub fn load<M: Module>(
        rule: impl Into<Rule>,
        steps: usize,
        network: &M,
        weights: &mut Weights,
        prefix: &str,
    ) -> Result<Self, WeightsError> {
        let mut optimizer = Self::new(rule);
        optimizer.steps = steps;
        if steps > 0 {
            let mut load = Load {
                optimizer: &mut optimizer,
                weights,
                prefix,
                path: Vec::new(),
                error: None,
            };
            network.visit(&mut load);
            if let Some(error) = load.error {
                return Err(error);
            }
        }
        Ok(optimizer)
    }
}

struct Update<'a> {
    optimizer: &'a mut ResumableOptimizer,
    rate: f64,
    gradients: GradientsParams,
}

impl ModuleMapper for Update<'_> {
    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, tensor, mapper) = parameter.consume();
        let Some(gradient) = self.gradients.remove::<D>(id) else {
            return Param::from_mapped_value(id, tensor, mapper);
        };
        let ResumableOptimizer {
            rule,
            steps,
            first,
            second,
        } = &mut *self.optimizer;
        let trained = tensor.is_require_grad();
        let tensor = tensor.inner();
        let averages = (first.remove::<D>(id), second.remove::<D>(id));
        let tensor = match rule.of(&tensor.dims()) {
            One::AdamW(adamw) => {
                let state = match averages {
                    (Some(first), Some(second)) => {
                        let momentum = AdaptiveMomentumState::new(*steps, first, second);
                        Some(AdamWState { momentum })
                    }
                    _ => None,
                };
                let (tensor, state) = adamw.step(self.rate, tensor, gradient, state);
                if let Some(AdamWState { momentum }) = state {
                    first.register::<D>(id, momentum.moment_1);
                    second.register::<D>(id, momentum.moment_2);
                }
                tensor
            }
            One::Muon(muon) => {
                let (tensor, velocity) = muon.step(self.rate, tensor, gradient, averages.0);
                first.register::<D>(id, velocity);
                tensor
            }
        };
        let mut tensor = Tensor::from_inner(tensor);
        if trained {
            tensor = tensor.require_grad();
        }
        Param::from_mapped_value(id, tensor, mapper)
    }
}

struct Save<'a> {
    optimizer: &'a ResumableOptimizer,
    writer: &'a mut WeightsWriter,
    prefix: &'a str,
    path: Vec<String>,
}

impl ModuleVisitor for Save<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        let averages = [
            ("first", &self.optimizer.first),
            ("second", &self.optimizer.second),
        ];
        for (name, averages) in averages {
            if let Some(average) = averages.get::<D>(parameter.id) {
                let values: Vec<f32> =
                    (average.into_data().try_to_vec()).expect("averages are f32");
                let key = format!("{}{name}.{path}", self.prefix);
                self.writer.tensor(&key, &parameter.dims(), &values);
            }
        }
    }
}

struct Load<'a> {
    optimizer: &'a mut ResumableOptimizer,
    weights: &'a mut Weights,
    prefix: &'a str,
    path: Vec<String>,
    error: Option<WeightsError>,
}

impl ModuleVisitor for Load<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        if self.error.is_some() {
            return;
        }
        let path = self.path.join(".");
        let shape = parameter.lazy_shape().to_vec();
        let device = parameter.lazy_device().inner();
        let mut read = |name| {
            let key = format!("{}{name}.{path}", self.prefix);
            let values = self.weights.values(&key, &shape)?;
            let data = TensorData::new(values, shape.clone());
            Ok::<_, WeightsError>(Tensor::<D>::from_data(data, &device))
        };
        let has_second = matches!(self.optimizer.rule.of(&shape), One::AdamW(_));
        let read = read("first").and_then(|first| {
            let second = if has_second {
                Some(read("second")?)
            } else {
                None
            };
            Ok((first, second))
        });
        match read {
            Ok((first, second)) => {
                self.optimizer.first.register::<D>(parameter.id, first);
                if let Some(second) = second {
                    self.optimizer.second.register::<D>(parameter.id, second);
                }
            }
            Err(error) => self.error = Some(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::{Linear, LinearConfig};

    fn gradients(network: &Linear, x: f32) -> GradientsParams {
        let x = Tensor::<2>::from_floats([[x, 1.0, -0.5]], &network.weight.device());
        let loss = network.forward(x).square().mean();
        GradientsParams::from_grads(loss.backward(), network)
    }

    fn values(network: &Linear) -> Vec<f32> {
        let data = network.weight.val().inner().into_data();
        data.try_to_vec().expect("f32")
    }

    /// It steps as burn's own loop around the same AdamW; and from a file it goes on as if nothing had happened.
    #[test]
    fn steps_are_the_same_with_a_stop_in_between() {
        let adamw = AdamW {
            weight_decay: 0.1,
            ..AdamW::default()
        };
        let device = Device::flex();
        let config = LinearConfig {
            d_input: 3,
            d_output: 4,
            bias: true,
        };
        let network = config.init(&device).train();
        // Drawn now, so that the clones are clones of something.
        let _ = values(&network);
        let inputs = [0.3, -2.0, 1.0, 0.7];
        let mut burns = adamw.init();
        let expected = inputs.iter().fold(network.clone(), |network, &x| {
            let gradients = gradients(&network, x);
            burns.step(0.01, network, gradients)
        });
        let mut optimizer = ResumableOptimizer::new(adamw);
        let mut half = network.clone();
        for &x in &inputs[..2] {
            let gradients = gradients(&half, x);
            half = optimizer.step(0.01, half, gradients);
        }
        let mut writer = WeightsWriter::default();
        writer.module(&half.valid(), |path| format!("network.{path}"));
        optimizer.save(&half, &mut writer, "averages.");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run.safetensors");
        writer.write(&path).expect("written");

        let mut weights = Weights::open(&path).expect("opened");
        let plain = config.init(&device);
        let plain = weights
            .load(plain, |path| format!("network.{path}"))
            .expect("of that shape");
        let resumed = ResumableOptimizer::load(adamw, 2, &plain, &mut weights, "averages.");
        let mut resumed = resumed.expect("saved above");
        weights.finish().expect("nothing else");
        let mut other = plain.train();
        for &x in &inputs[2..] {
            let these = gradients(&half, x);
            half = optimizer.step(0.01, half, these);
            let those = gradients(&other, x);
            other = resumed.step(0.01, other, those);
        }
        let bits = |network| -> Vec<u32> {
            let values: Vec<f32> = values(network);
            values.into_iter().map(f32::to_bits).collect()
        };
        assert_eq!(bits(&expected), bits(&half));
        assert_eq!(bits(&expected), bits(&other));
        assert_ne!(bits(&expected), bits(&network));
        assert_eq!(resumed.steps(), 4);
    }

    /// Matrices keep one average, what is left keeps two, and a file has them all.
    #[test]
    fn muons_steps_are_the_same_with_a_stop_in_between() {
        let rule = Rule::Muon {
            matrices: Muon {
                momentum: 0.9,
                weight_decay: 0.1,
            },
            others: AdamW::default(),
        };
        let config = LinearConfig {
            d_input: 16,
            d_output: 20,
            bias: true,
        };
        let network = config.init(&Device::flex()).train();
        let first = values(&network);
        let step = |optimizer: &mut ResumableOptimizer, network: Linear| {
            let x = Tensor::<2>::ones([2, 16], &network.weight.device());
            let loss = network.forward(x).sub_scalar(1.0).square().mean();
            let gradients = GradientsParams::from_grads(loss.backward(), &network);
            optimizer.step(0.01, network, gradients)
        };
        let mut optimizer = ResumableOptimizer::new(rule);
        let once = step(&mut optimizer, network);
        let mut writer = WeightsWriter::default();
        writer.module(&once.valid(), |path| format!("network.{path}"));
        optimizer.save(&once, &mut writer, "averages.");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run.safetensors");
        writer.write(&path).expect("written");
        let mut weights = Weights::open(&path).expect("opened");
        let again = config.init(&Device::flex());
        let again = weights
            .load(again, |path| format!("network.{path}"))
            .expect("of that shape");
        let resumed = ResumableOptimizer::load(rule, 1, &again, &mut weights, "averages.");
        let mut resumed = resumed.expect("saved above");
        // The matrix has no average of squares, and the bias has one.
        weights.finish().expect("nothing else");
        let twice = values(&step(&mut optimizer, once));
        assert_eq!(twice, values(&step(&mut resumed, again.train())));
        assert_ne!(twice, first);
        // The same file is none of AdamW's.
        let mut weights = Weights::open(&path).expect("opened");
        let plain = config.init(&Device::flex());
        let error =
            ResumableOptimizer::load(AdamW::default(), 1, &plain, &mut weights, "averages.");
        let error = error.expect_err("an average is missing").to_string();
        assert!(error.contains("averages.second.weight"), "{error}");
    }
}
