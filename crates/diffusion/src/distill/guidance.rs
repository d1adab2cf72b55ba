use std::ops::RangeInclusive;

use burn::tensor::Tensor;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::parameterization::scaled;
use crate::{Denoiser, Estimate, Guidance, Point, Stack};

/// [`ClassifierFree`](crate::ClassifierFree) guidance with a scale for each sample: the teacher of a student that knows its
/// scale.
///
/// The student is a denoiser whose condition has the scale in it, and which answers in one pass:
/// [`Lesson::estimate`](super::Lesson::estimate) of this teacher is what it learns. How a network is told a scale is the
/// network's own matter; Stable Diffusion's are told `scale − 1`.
///
/// Meng et al., "On Distillation of Guided Diffusion Models", 2023, arXiv:2210.03142, section 3.1, with `scale = 1 + w`.
#[derive(Clone, Debug)]
pub struct ClassifierFreeEach<N> {
    /// What is guided.
    pub denoiser: N,
    /// The emphasis of the positive condition, one a sample.
    pub scales: Vec<f64>,
}

impl<const D: usize, N> Denoiser<D> for ClassifierFreeEach<N>
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
        assert_eq!(batch, self.scales.len(), "one scale a sample");
        let twice = if points.len() == 1 {
            points.to_vec()
        } else {
            points.repeat(2)
        };
        let both = Tensor::cat(vec![x.clone(), x], 0);
        let both = self.denoiser.denoise(both, &twice, prepared);
        let guide = |both: Tensor<D>| {
            let negative = both.clone().narrow(0, 0, batch);
            let positive = both.narrow(0, batch, batch);
            match scaled(&(positive - negative.clone()), &self.scales) {
                Some(emphasis) => negative + emphasis,
                None => negative,
            }
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

/// A guidance scale for each of `count` samples, each in the range as often, in the training step `step` of a seed.
///
/// The generator is ChaCha with 8 rounds: key = seed, stream = step.
pub fn scales(range: &RangeInclusive<f64>, seed: u64, step: u64, count: usize) -> Vec<f64> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(step);
    let (low, high) = (range.start(), range.end());
    (0..count)
        .map(|_| low + generator.random::<f64>() * (high - low))
        .collect()
}
