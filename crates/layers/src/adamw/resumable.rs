//! AdamW whose averages can be saved.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::{AdamWState, AdaptiveMomentumState, GradientsParams, Optimizer};
use burn::tensor::{Tensor, TensorData};

use super::AdamW;
use crate::{Weights, WeightsError, WeightsWriter};

/// [`AdamW`] with its two averages, which are saved beside a network's weights and under their keys.
///
/// A run that is saved, loaded and goes on makes the steps that it would have made, to the bit. It counts its steps once for
/// all parameters, so each must have a gradient in every step.
#[derive(Debug)]
pub struct ResumableAdamW {
    adamw: AdamW,
    steps: usize,
    // Tensors of every rank by the names of their parameters; burn's map of gradients is that, whatever they are.
    first: GradientsParams,
    second: GradientsParams,
}

impl ResumableAdamW {
    /// An optimizer that made no step.
    pub fn new(adamw: AdamW) -> Self {
        Self {
            adamw,
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
        adamw: AdamW,
        steps: usize,
        network: &M,
        weights: &mut Weights,
        prefix: &str,
    ) -> Result<Self, WeightsError> {
        let mut optimizer = Self::new(adamw);
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
    optimizer: &'a mut ResumableAdamW,
    rate: f64,
    gradients: GradientsParams,
}

impl ModuleMapper for Update<'_> {
    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, tensor, mapper) = parameter.consume();
        let Some(gradient) = self.gradients.remove::<D>(id) else {
            return Param::from_mapped_value(id, tensor, mapper);
        };
        let ResumableAdamW {
            adamw,
            steps,
            first,
            second,
        } = &mut *self.optimizer;
        let state = match (first.remove::<D>(id), second.remove::<D>(id)) {
            (Some(first), Some(second)) => {
                let momentum = AdaptiveMomentumState::new(*steps, first, second);
                Some(AdamWState { momentum })
            }
            _ => None,
        };
        let trained = tensor.is_require_grad();
        let (tensor, state) = adamw.step(self.rate, tensor.inner(), gradient, state);
        if let Some(AdamWState { momentum }) = state {
            first.register::<D>(id, momentum.moment_1);
            second.register::<D>(id, momentum.moment_2);
        }
        let mut tensor = Tensor::from_inner(tensor);
        if trained {
            tensor = tensor.require_grad();
        }
        Param::from_mapped_value(id, tensor, mapper)
    }
}

struct Save<'a> {
    optimizer: &'a ResumableAdamW,
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
    optimizer: &'a mut ResumableAdamW,
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
        match read("first").and_then(|first| Ok((first, read("second")?))) {
            Ok((first, second)) => {
                self.optimizer.first.register::<D>(parameter.id, first);
                self.optimizer.second.register::<D>(parameter.id, second);
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
        let mut optimizer = ResumableAdamW::new(adamw);
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
        let resumed = ResumableAdamW::load(adamw, 2, &plain, &mut weights, "averages.");
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
}
