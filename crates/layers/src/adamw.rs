//! AdamW, in one sweep.

use burn::optim::{AdamWState, AdaptiveMomentumState, LearningRate, ModuleOptimizer, Optimizer};
use burn::tensor::{DType, Device, Tensor};

use crate::kernel::Level;
use crate::kernel::training::{Moments, Step, adamw};
use crate::parameter::{tensor, values};

/// Adam with decoupled weight decay, as PyTorch computes it.
///
/// ```text
/// p ← p - lr · decay · p
/// m ← β₁ m + (1 - β₁) g
/// v ← β₂ v + (1 - β₂) g²
/// p ← p - lr / (1 - β₁ⁿ) · m / (√v / √(1 - β₂ⁿ) + ε)
/// ```
///
/// It is an optimizer of burn's, with the state of burn's own: a record of the one can be read by the other. It computes on
/// the CPU, in one sweep over a parameter, and takes `1 - βⁿ` in f64. Parameters are f32.
///
/// "Decoupled Weight Decay Regularization", Loshchilov and Hutter, 2019, arXiv:1711.05101, algorithm 2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// How fast the averages of gradients and of their squares forget; PyTorch's default is 0.9, 0.999.
    pub betas: [f64; 2],
    /// Is added to the root of the average of squares; PyTorch's default is 1e-8.
    pub epsilon: f64,
    /// By which share of the learning rate parameters shrink in a step; PyTorch's default is 0.01.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self {
            betas: [0.9, 0.999],
            epsilon: 1e-8,
            weight_decay: 0.01,
        }
    }
}

impl AdamW {
    /// An optimizer of all of a network's parameters.
    pub fn init(self) -> ModuleOptimizer {
        ModuleOptimizer::from(self)
    }
}

impl Optimizer for AdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        learning_rate: LearningRate,
        parameters: Tensor<D>,
        gradients: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        let (shape, device) = (parameters.dims(), parameters.device());
        assert_eq!(parameters.dtype(), DType::F32, "AdamW updates f32");
        let mut parameters = values(parameters);
        let n = parameters.len();
        let (time, mut first, mut second) = match state {
            Some(AdamWState { momentum }) => (
                momentum.time,
                values(momentum.moment_1),
                values(momentum.moment_2),
            ),
            None => (0, vec![0.0; n], vec![0.0; n]),
        };
        let step = Step {
            betas: self.betas,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
            learning_rate,
            count: time + 1,
        };
        let moments = Moments {
            first: &mut first,
            second: &mut second,
        };
        adamw(
            Level::detected(),
            &step,
            &mut parameters,
            &values(gradients),
            moments,
        );
        let back = |values| tensor(values, shape, &device);
        let momentum = AdaptiveMomentumState::new(step.count, back(first), back(second));
        (back(parameters), Some(AdamWState { momentum }))
    }

    fn to_device<const D: usize>(mut state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        state.momentum.moment_1 = state.momentum.moment_1.to_device(device);
        state.momentum.moment_2 = state.momentum.moment_2.to_device(device);
        state
    }
}
