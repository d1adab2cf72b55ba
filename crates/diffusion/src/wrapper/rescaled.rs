use burn::tensor::Tensor;

use super::classifier_free::{Guidance, Stack};
use crate::{Network, Point};

/// Classifier-free guidance of a network, whose result is brought back to the spread of the conditional one.
///
/// ```text
/// m  = m₋ + scale · (m₊ − m₋)
/// m' = rescale · m · std(m₊) / std(m) + (1 − rescale) · m          std over all of a sample
/// ```
///
/// A large scale makes estimates too wide, and pictures burn out; `rescale = 0` is
/// [`ClassifierFree`](crate::ClassifierFree), 0.7 is the authors' choice.
///
/// It is a [`Network`] around a network, and not a denoiser around a denoiser, since `m` is what the network predicts:
/// a factor on a velocity is none on the noise that it implies. [`Parameterized`](crate::Parameterized) goes around it.
///
/// Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2023, arXiv:2305.08891, section 3.4.
#[derive(Clone, Debug)]
pub struct Rescaled<N> {
    /// What is guided.
    pub network: N,
    /// The emphasis of the positive condition.
    pub scale: f64,
    /// How far the spread is brought back, from 0 to 1.
    pub rescale: f64,
}

impl<const D: usize, N> Network<D> for Rescaled<N>
where
    N: Network<D>,
    N::Condition: Stack,
{
    type Condition = Guidance<N::Condition>;
    type Prepared = N::Prepared;

    fn prepare(&self, condition: &Self::Condition) -> Self::Prepared {
        self.network
            .prepare(&Stack::stack(&[&condition.negative, &condition.positive]))
    }

    fn forward(&self, x: Tensor<D>, points: &[Point], prepared: &Self::Prepared) -> Tensor<D> {
        let batch = x.dims()[0];
        let twice = if points.len() == 1 {
            points.to_vec()
        } else {
            points.repeat(2)
        };
        let both = Tensor::cat(vec![x.clone(), x], 0);
        let both = self.network.forward(both, &twice, prepared);
        let negative = both.clone().narrow(0, 0, batch);
        let positive = both.narrow(0, batch, batch);
        let guided = negative.clone() + (positive.clone() - negative).mul_scalar(self.scale);
        let ratio = spread(&positive) / spread(&guided);
        let factor = ratio
            .mul_scalar(self.rescale)
            .add_scalar(1.0 - self.rescale);
        guided * factor
    }
}

/// The root of the summed squares of each sample's deviations from its mean: `[batch, 1, ..]`.
fn spread<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
    let batch = x.dims()[0];
    let each = x.dims()[1..].iter().product::<usize>();
    let x = x.clone().reshape([batch, each]);
    let deviations = x.clone() - x.mean_dim(1);
    let mut shape = [1; D];
    shape[0] = batch;
    deviations.square().sum_dim(1).sqrt().reshape(shape)
}
