//! What a network predicts, and how an estimate is made of it. No other file knows prediction types.

use burn::tensor::{Tensor, TensorData};

use crate::{Denoiser, Estimate, Level, Line, Network, Point, Stage};

/// What a network was trained to predict.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Parameterization {
    /// The noise `ε`.
    ///
    /// Ho et al., "Denoising Diffusion Probabilistic Models", 2020, arXiv:2006.11239, equation 14.
    Noise,
    /// The clean sample `x₀`.
    Sample,
    /// The velocity `αε − σx₀`, with (α, σ) normalised to `α² + σ² = 1`.
    ///
    /// Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", 2022, arXiv:2202.00512,
    /// section 4 and appendix D.
    Velocity,
    /// The flow `ε − x₀`.
    ///
    /// Lipman et al., "Flow Matching for Generative Modeling", 2022, arXiv:2210.02747.
    Flow,
    /// EDM's `F`, for data of standard deviation `sigma_data`.
    ///
    /// Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, arXiv:2206.00364,
    /// table 1.
    Karras {
        /// The standard deviation of the data.
        sigma_data: f64,
    },
}

/// How the estimates follow from the network: all three lines are affine in the sample `x` and the output `F`.
///
/// ```text
/// F = network(input · x)      x̂ = skip · x + output · F      ε̂ = noise_skip · x + noise_output · F
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scalings {
    /// The share of the sample in the clean estimate.
    pub skip: f64,
    /// The share of the output in the clean estimate.
    pub output: f64,
    /// The share of the sample in the noise estimate.
    pub noise_skip: f64,
    /// The share of the output in the noise estimate.
    pub noise_output: f64,
    /// What the network sees of the sample.
    pub input: f64,
}

impl Parameterization {
    /// The scalings at a level, which may lie on any line.
    ///
    /// | | skip | output | input |
    /// |---|---|---|---|
    /// | `Noise` | 1/α | −σ/α | 1 |
    /// | `Sample` | 0 | 1 | 1 |
    /// | `Velocity` | α/(α²+σ²) | −σ/√(α²+σ²) | 1/√(α²+σ²) |
    /// | `Flow` | 1/(α+σ) | −σ/(α+σ) | 1 |
    /// | `Karras`, α = 1 | σd²/(σ²+σd²) | σσd/√(σ²+σd²) | 1/√(σ²+σd²) |
    ///
    /// The noise follows from `x = αx̂ + σε̂`, in the form that loses no digits: `Noise` returns the output itself.
    pub fn scalings(self, level: Level) -> Scalings {
        let Level { alpha, sigma } = level;
        match self {
            Self::Noise => Scalings {
                skip: 1.0 / alpha,
                output: -sigma / alpha,
                noise_skip: 0.0,
                noise_output: 1.0,
                input: 1.0,
            },
            Self::Sample => Scalings {
                skip: 0.0,
                output: 1.0,
                noise_skip: 1.0 / sigma,
                noise_output: -alpha / sigma,
                input: 1.0,
            },
            Self::Velocity => {
                let norm = level.magnitude();
                Scalings {
                    skip: alpha / (norm * norm),
                    output: -sigma / norm,
                    noise_skip: sigma / (norm * norm),
                    noise_output: alpha / norm,
                    input: 1.0 / norm,
                }
            }
            Self::Flow => {
                let norm = alpha + sigma;
                Scalings {
                    skip: 1.0 / norm,
                    output: -sigma / norm,
                    noise_skip: 1.0 / norm,
                    noise_output: alpha / norm,
                    input: 1.0,
                }
            }
            Self::Karras { sigma_data } => {
                // In units of alpha, where the paper's α = 1 holds.
                let total = sigma.hypot(alpha * sigma_data);
                Scalings {
                    skip: alpha * sigma_data * sigma_data / (total * total),
                    output: sigma * sigma_data / total,
                    noise_skip: sigma / (total * total),
                    noise_output: -alpha * sigma_data / total,
                    input: 1.0 / total,
                }
            }
        }
    }
}

/// What a network shall answer, of the clean sample and the noise: `F = clean · x₀ + noise · ε`.
///
/// It is the output for which both estimates are exact.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// The share of the clean sample.
    pub clean: f64,
    /// The share of the noise.
    pub noise: f64,
}

impl Parameterization {
    /// What a network is trained to answer at a level, which may lie on any line.
    ///
    /// | | clean | noise |
    /// |---|---|---|
    /// | `Noise` | 0 | 1 |
    /// | `Sample` | 1 | 0 |
    /// | `Velocity` | −σ/√(α²+σ²) | α/√(α²+σ²) |
    /// | `Flow` | −1 | 1 |
    /// | `Karras`, α = 1 | σ/(σd√(σ²+σd²)) | −σd/√(σ²+σd²) |
    ///
    /// The last row is `(x₀ − skip · x) / output` with `x = x₀ + σε`, in the form that loses no digits.
    pub fn target(self, level: Level) -> Target {
        let Level { alpha, sigma } = level;
        let (clean, noise) = match self {
            Self::Noise => (0.0, 1.0),
            Self::Sample => (1.0, 0.0),
            Self::Velocity => {
                let norm = level.magnitude();
                (-sigma / norm, alpha / norm)
            }
            Self::Flow => (-1.0, 1.0),
            Self::Karras { sigma_data } => {
                let total = sigma.hypot(alpha * sigma_data);
                (sigma / (sigma_data * total), -alpha * sigma_data / total)
            }
        };
        Target { clean, noise }
    }
}

/// Why a network's prediction gives no estimate somewhere.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "a network that predicts {parameterization:?} says nothing at alpha {alpha}, sigma {sigma} (step {step}); begin \
     later, or use velocity or sample prediction"
)]
pub struct ParameterizationError {
    /// What the network predicts.
    pub parameterization: Parameterization,
    /// Which stage.
    pub step: usize,
    /// The signal there.
    pub alpha: f64,
    /// The noise there.
    pub sigma: f64,
}

impl Scalings {
    /// Whether all of them are numbers in f32, in which tensors are.
    fn is_finite(&self) -> bool {
        let Self {
            skip,
            output,
            noise_skip,
            noise_output,
            input,
        } = *self;
        [skip, output, noise_skip, noise_output, input]
            .iter()
            .all(|&value| (value as f32).is_finite())
    }

    /// The scalings for a sample that must be divided by `norm` before they hold.
    fn after_division_by(self, norm: f64) -> Self {
        Self {
            skip: self.skip / norm,
            noise_skip: self.noise_skip / norm,
            input: self.input / norm,
            ..self
        }
    }
}

/// A [`Network`] with what it predicts: a [`Denoiser`].
#[derive(Clone, Debug)]
pub struct Parameterized<N> {
    network: N,
    parameterization: Parameterization,
    line: Option<Line>,
}

impl<N> Parameterized<N> {
    /// A network that is sampled on the line on which it was trained.
    pub fn new(network: N, parameterization: Parameterization) -> Self {
        Self {
            network,
            parameterization,
            line: None,
        }
    }

    /// Says on which line the network was trained, so that it can be sampled on another: it is then shown
    /// `x / norm`, the sample as that line has it.
    ///
    /// For a network of the variance-preserving line in σ-space this is the usual `x / √(σ² + 1)`.
    #[must_use]
    pub fn trained_on(mut self, line: Line) -> Self {
        self.line = Some(line);
        self
    }

    /// The network.
    pub fn network(&self) -> &N {
        &self.network
    }

    /// What the network predicts.
    pub fn parameterization(&self) -> Parameterization {
        self.parameterization
    }

    /// Says whether every stage has an estimate: a network that predicts noise has none in pure noise, where a zero
    /// terminal SNR or flow matching may start.
    ///
    /// # Errors
    ///
    /// [`ParameterizationError`] at the first stage that has none.
    pub fn check(&self, stages: &[Stage]) -> Result<(), ParameterizationError> {
        for (step, stage) in stages.iter().enumerate() {
            let level = stage.at.level;
            if !self.scalings(level).is_finite() {
                return Err(ParameterizationError {
                    parameterization: self.parameterization,
                    step,
                    alpha: level.alpha,
                    sigma: level.sigma,
                });
            }
        }
        Ok(())
    }

    /// What the network is trained to answer at a level, the line taken into account.
    pub fn target(&self, level: Level) -> Target {
        let norm = self.line.map_or(1.0, |line| line.norm(level));
        self.parameterization.target(Level {
            alpha: level.alpha / norm,
            sigma: level.sigma / norm,
        })
    }

    /// The scalings at a level, the line taken into account.
    pub fn scalings(&self, level: Level) -> Scalings {
        let norm = self.line.map_or(1.0, |line| line.norm(level));
        let on_line = Level {
            alpha: level.alpha / norm,
            sigma: level.sigma / norm,
        };
        self.parameterization
            .scalings(on_line)
            .after_division_by(norm)
    }
}

impl<const D: usize, N: Network<D>> Denoiser<D> for Parameterized<N> {
    type Condition = N::Condition;
    type Prepared = N::Prepared;

    fn prepare(&self, condition: &Self::Condition) -> Self::Prepared {
        self.network.prepare(condition)
    }

    fn denoise(&self, x: Tensor<D>, points: &[Point], prepared: &Self::Prepared) -> Estimate<D> {
        let scalings: Vec<Scalings> = points
            .iter()
            .map(|point| self.scalings(point.level))
            .collect();
        let scale = |tensor: &Tensor<D>, factor: fn(&Scalings) -> f64| {
            let factors: Vec<f64> = scalings.iter().map(factor).collect();
            scaled(tensor, &factors)
        };
        let input = scale(&x, |s| s.input).unwrap_or_else(|| x.zeros_like());
        let output = self.network.forward(input, points, prepared);
        let sum = |a: Option<Tensor<D>>, b: Option<Tensor<D>>| match (a, b) {
            (Some(a), Some(b)) => a + b,
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => x.zeros_like(),
        };
        Estimate {
            clean: sum(scale(&x, |s| s.skip), scale(&output, |s| s.output)),
            noise: sum(
                scale(&x, |s| s.noise_skip),
                scale(&output, |s| s.noise_output),
            ),
        }
    }
}

/// `factor · tensor` with one factor for all samples or one a sample; `None` where all factors are zero.
///
/// # Shapes
///
/// - tensor: `[batch, ..]`
/// - factors: 1 or `batch`
pub(crate) fn scaled<const D: usize>(tensor: &Tensor<D>, factors: &[f64]) -> Option<Tensor<D>> {
    if factors.iter().all(|&factor| factor == 0.0) {
        return None;
    }
    let tensor = tensor.clone();
    Some(match factors {
        [factor] if (*factor - 1.0).abs() < f64::EPSILON => tensor,
        [factor] => tensor.mul_scalar(*factor),
        _ => {
            let factors = per_sample(factors, &tensor);
            tensor * factors
        }
    })
}

/// One value a sample, shaped to broadcast over the rest: `[batch, 1, ..]`.
pub(crate) fn per_sample<const D: usize>(values: &[f64], like: &Tensor<D>) -> Tensor<D> {
    let mut shape = [1; D];
    shape[0] = values.len();
    assert_eq!(
        values.len(),
        like.dims()[0],
        "points must be one for all samples or one a sample"
    );
    let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), &like.device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cosine, Edm, FlowMatching, Schedule};

    /// On each line, with each parameterization, the estimates of a perfect network are the truth.
    #[test]
    fn a_perfect_prediction_gives_back_the_sample_and_the_noise() {
        let (clean, noise) = (0.7, -1.3);
        let flow = FlowMatching::new(1.0, 1.0).expect("valid");
        let edm = Edm::new(0.002, 80.0).expect("valid");
        let levels = [0.05, 0.3, 0.8]
            .iter()
            .flat_map(|&t| [Cosine.level(t), flow.level(t), edm.level(t - 0.5)]);
        for level in levels {
            let Level { alpha, sigma } = level;
            let x = alpha * clean + sigma * noise;
            let sigma_data = 0.5;
            let total = sigma.hypot(alpha * sigma_data);
            let rows = [
                (Parameterization::Noise, noise),
                (Parameterization::Sample, clean),
                (
                    Parameterization::Velocity,
                    (alpha * noise - sigma * clean) / level.magnitude(),
                ),
                (Parameterization::Flow, noise - clean),
                (
                    Parameterization::Karras { sigma_data },
                    (clean - alpha * sigma_data * sigma_data / (total * total) * x) * total
                        / (sigma * sigma_data),
                ),
            ];
            for (parameterization, output) in rows {
                for line in [
                    None,
                    Some(Line::Preserving),
                    Some(Line::Exploding),
                    Some(Line::Straight),
                ] {
                    // What a network of that line would have been trained to answer: EDM's F alone depends on x.
                    if matches!(parameterization, Parameterization::Karras { .. }) && line.is_some()
                    {
                        continue;
                    }
                    let network = Parameterized {
                        network: (),
                        parameterization,
                        line,
                    };
                    let s = network.scalings(level);
                    let target = network.target(level);
                    assert!(
                        (target.clean * clean + target.noise * noise - output).abs() < 1e-12,
                        "{parameterization:?} {level:?}"
                    );
                    assert!(
                        (s.skip * x + s.output * output - clean).abs() < 1e-12,
                        "{parameterization:?} {level:?}"
                    );
                    assert!(
                        (s.noise_skip * x + s.noise_output * output - noise).abs() < 1e-12,
                        "{parameterization:?} {level:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn in_sigma_space_velocity_has_its_known_form() {
        let sigma = 3.0_f64;
        let level = Level { alpha: 1.0, sigma };
        let s = Parameterization::Velocity.scalings(level);
        assert!((s.skip - 1.0 / (sigma * sigma + 1.0)).abs() < 1e-15);
        assert!((s.output + sigma / (sigma * sigma + 1.0).sqrt()).abs() < 1e-15);
        let noise = Parameterized::new((), Parameterization::Noise)
            .trained_on(Line::Preserving)
            .scalings(level);
        assert!((noise.input - 1.0 / (sigma * sigma + 1.0).sqrt()).abs() < 1e-15);
        assert!((noise.skip - 1.0).abs() < 1e-15 && (noise.output + sigma).abs() < 1e-15);
    }
}
