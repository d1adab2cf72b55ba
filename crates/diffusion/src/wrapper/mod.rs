//! Whatever changes an estimate: denoisers around denoisers.
//!
//! Their order, the innermost first, where several are used:
//!
//! | wrapper | why there |
//! |---|---|
//! | [`ClassifierFree`], or [`Rescaled`] | around the network alone: what is inside of it sees two samples for one, and is extrapolated |
//! | [`Clip`] | after guidance, which leaves the range |
//! | [`Guided`] | descends on what will be used |
//! | [`Inpaint`] | outermost: what is known stays as it is |

mod bounded;
mod classifier_free;
mod clip;
mod guided;
mod inpaint;
mod rescaled;

pub use bounded::Bounded;
pub use classifier_free::{ClassifierFree, Guidance, Stack};
pub use clip::{Clip, ClippedNoise, Threshold};
pub use guided::{Cost, Guided};
pub use inpaint::{Inpaint, Pins};
pub use rescaled::Rescaled;

use burn::tensor::Tensor;

use crate::Point;
use crate::parameterization::scaled;

/// `ε̂ = (x − α x̂) / σ`, the noise that a clean estimate implies.
fn implied_noise<const D: usize>(x: &Tensor<D>, clean: &Tensor<D>, points: &[Point]) -> Tensor<D> {
    let factors =
        |of: fn(Point) -> f64| -> Vec<f64> { points.iter().map(|&point| of(point)).collect() };
    let noise = scaled(x, &factors(|point| 1.0 / point.level.sigma));
    let signal = scaled(
        clean,
        &factors(|point| point.level.alpha / point.level.sigma),
    );
    match (noise, signal) {
        (Some(noise), Some(signal)) => noise - signal,
        (Some(noise), None) => noise,
        (None, _) => x.zeros_like(),
    }
}
