//! Networks that are asked and do not learn.

use burn::module::Module;
use burn::prelude::*;
use clearway_diffusion::{Network, Point};

use crate::{Condition, Prepared, Unet};

/// A network whose answers are plain tensors, computed by the kernels of training where there are any, without gradients.
///
/// They take a batch at once: on small pictures, whose pixels are few, they are several times as fast as packed layers, which
/// compute sample by sample so that none depends on another.
#[derive(Clone, Debug)]
pub(super) struct Asked(Unet);

impl Asked {
    /// Of a network on a plain device.
    pub(super) fn new(plain: &Unet) -> Self {
        Self(plain.clone().train().no_grad())
    }
}

impl Network<4> for Asked {
    type Condition = Condition;
    type Prepared = Prepared;

    fn prepare(&self, condition: &Condition) -> Prepared {
        self.0.prepare(condition)
    }

    fn forward(&self, x: Tensor<4>, points: &[Point], prepared: &Prepared) -> Tensor<4> {
        let x = Tensor::from_inner(x);
        self.0.forward(x, points, prepared).inner()
    }
}
