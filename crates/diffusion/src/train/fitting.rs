//! A training step: what all networks share.

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use super::{Decay, Ema, WarmUpCosine, clip};

/// What a training step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Which one, counted from zero.
    pub step: u64,
    /// The loss of its batch, before it.
    pub loss: f64,
    /// The norm of all gradients, before they were clipped.
    pub norm: f64,
    /// The learning rate.
    pub rate: f64,
}

/// Training left the numbers.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "step {step}: the loss is {loss} and the gradient's norm {norm}: a smaller learning rate may help"
)]
pub struct NonFinite {
    /// The step, counted from zero.
    pub step: u64,
    /// The loss.
    pub loss: f64,
    /// The norm of all gradients.
    pub norm: f64,
}

/// A network that is being trained, with the average of its weights: a policy, a network of pictures, a classifier.
#[derive(Clone, Debug)]
pub struct Fitting<M> {
    network: M,
    average: Ema<M>,
}

impl<M: Module> Fitting<M> {
    /// Begins with a network.
    pub fn new(network: M, decay: Decay) -> Self {
        let network = network.train();
        let average = Ema::new(&network, decay);
        Self { network, average }
    }

    /// Goes on with a network and an average after so many steps.
    pub fn resume(network: M, average: M, decay: Decay, steps: u64) -> Self {
        Self {
            network: network.train(),
            average: Ema::resume(average, decay, steps),
        }
    }

    /// The network, on autodiff.
    pub fn network(&self) -> &M {
        &self.network
    }

    /// The network of averaged weights: what is validated and saved.
    pub fn average(&self) -> &M {
        self.average.network()
    }

    /// How many steps were made.
    pub fn steps(&self) -> u64 {
        self.average.updates()
    }

    /// Makes a step: the loss, its gradients, which are clipped together, what the optimizer makes of them at the step's rate,
    /// and the average.
    ///
    /// # Errors
    ///
    /// If the loss or the gradient is not finite; then nothing has changed.
    pub fn step(
        &mut self,
        rates: WarmUpCosine,
        most: f64,
        loss: impl FnOnce(&M) -> Tensor<1>,
        optimize: impl FnOnce(f64, M, GradientsParams) -> M,
    ) -> Result<Step, NonFinite> {
        let step = self.steps();
        let loss = loss(&self.network);
        let value: f32 = loss.clone().into_scalar();
        let mut gradients = GradientsParams::from_grads(loss.backward(), &self.network);
        let norm = clip(&mut gradients, &self.network, most);
        let loss = f64::from(value);
        if !(loss.is_finite() && norm.is_finite()) {
            return Err(NonFinite { step, loss, norm });
        }
        let rate = rates.rate(step);
        // Who holds weights alone changes them in place; the average stands in meanwhile.
        let network = std::mem::replace(&mut self.network, self.average.network().clone());
        self.network = optimize(rate, network, gradients);
        self.average.update(&self.network);
        Ok(Step {
            step,
            loss,
            norm,
            rate,
        })
    }
}
