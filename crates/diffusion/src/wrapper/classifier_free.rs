use burn::tensor::Tensor;

use crate::{Denoiser, Estimate, Point};

/// Conditions that can be laid one after another along the batch.
pub trait Stack: Sized {
    /// The parts as one batch, in order.
    fn stack(parts: &[&Self]) -> Self;
}

impl<const N: usize> Stack for Tensor<N> {
    fn stack(parts: &[&Self]) -> Self {
        Tensor::cat(parts.iter().map(|&part| part.clone()).collect(), 0)
    }
}

/// What a sample shall be, and what it shall not: the two conditions of classifier-free guidance.
#[derive(Clone, Debug)]
pub struct Guidance<C> {
    /// The observation, goal or prompt.
    pub positive: C,
    /// The empty or negative one, of the same batch.
    pub negative: C,
}

/// Classifier-free guidance, both conditions in one batched pass.
///
/// ```text
/// x̂ = x̂₋ + scale · (x̂₊ − x̂₋),   ε̂ = ε̂₋ + scale · (ε̂₊ − ε̂₋)
/// ```
///
/// `scale = 1` is the conditional model, above it the condition is emphasised. For a robot that is the weight of the
/// goal, for a picture that of the prompt. Both conditions have the batch of the samples: one row for all would be taken
/// for two samples.
///
/// Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022, arXiv:2207.12598, equation 6 with `scale = 1 + w`.
#[derive(Clone, Debug)]
pub struct ClassifierFree<N> {
    /// What is guided.
    pub denoiser: N,
    /// The emphasis of the positive condition.
    pub scale: f64,
}

impl<const D: usize, N> Denoiser<D> for ClassifierFree<N>
where
    N: Denoiser<D>,
    N::Condition: Stack,
{
    type Condition = Guidance<N::Condition>;
    type Prepared = N::Prepared;

    fn prepare(&self, condition: &Self::Condition) -> Self::Prepared {
        self.denoiser
            .prepare(&Stack::stack(&[&condition.negative, &condition.positive]))
    }

    fn denoise(&self, x: Tensor<D>, points: &[Point], prepared: &Self::Prepared) -> Estimate<D> {
        let batch = x.dims()[0];
        let twice = if points.len() == 1 {
            points.to_vec()
        } else {
            points.repeat(2)
        };
        let both = self
            .denoiser
            .denoise(Tensor::cat(vec![x.clone(), x], 0), &twice, prepared);
        let guide = |both: Tensor<D>| {
            let negative = both.clone().narrow(0, 0, batch);
            let positive = both.narrow(0, batch, batch);
            negative.clone() + (positive - negative).mul_scalar(self.scale)
        };
        Estimate {
            clean: guide(both.clean),
            noise: guide(both.noise),
        }
    }

    fn finish(&self, sample: Tensor<D>) -> Tensor<D> {
        self.denoiser.finish(sample)
    }
}
