//! Whatever changes an estimate: denoisers around denoisers.

mod classifier_free;
mod clip;
mod guided;
mod inpaint;

pub use classifier_free::{ClassifierFree, Guidance, Stack};
pub use clip::{Clip, Threshold};
pub use guided::{Cost, Guided};
pub use inpaint::{Inpaint, Pins};

use burn::tensor::Tensor;

use crate::parameterization::{per_sample, scaled};
use crate::{Estimate, Point};

/// The estimate whose noise is what `x = αx̂ + σε̂` makes of a new clean estimate.
fn with_clean<const D: usize>(x: &Tensor<D>, clean: Tensor<D>, points: &[Point]) -> Estimate<D> {
    let alphas: Vec<f64> = points.iter().map(|point| point.level.alpha).collect();
    let noise = match scaled(&clean, &alphas) {
        Some(signal) => x.clone() - signal,
        None => x.clone(),
    };
    let noise = if let [point] = points {
        noise.div_scalar(point.level.sigma)
    } else {
        let sigmas: Vec<f64> = points.iter().map(|point| point.level.sigma).collect();
        let sigmas = per_sample(&sigmas, &noise);
        noise / sigmas
    };
    Estimate { clean, noise }
}
