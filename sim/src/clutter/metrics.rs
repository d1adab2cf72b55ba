//! How good a batch of trajectories for one problem is.

use clearway_motion::{FreeSpace, Trajectory};
use nalgebra::{DMatrix, DVector};

/// Motion Planning Diffusion's measures of a batch of samples for one problem.
///
/// ```text
/// success              at least one sample is valid
/// fraction_valid       valid samples / samples
/// collision_intensity  waypoints in collision / waypoints, over all samples
/// path_length          Σ |qᵢ₊₁ − qᵢ|            mean over the valid samples
/// smoothness           Σ |q̇ᵢ₊₁ − q̇ᵢ|            mean over the valid samples; less is smoother
/// diversity            Vendi score of the valid samples, kernel exp(−|x − y|²) over all waypoints: from 1 (all are one)
///                      to their number (nothing alike)
/// waypoint_variance    Σ over waypoints of the variance of the distances between samples: their earlier measure
/// ```
///
/// Two of them are stricter here than there: **valid is proven** by a sweep of the trajectory between waypoints and of its
/// positions against the limits, where they check five points between two waypoints.
///
/// Carvalho et al., 2023, arXiv:2308.01557, section V; Friedman and Dieng, "The Vendi Score: A Diversity Evaluation Metric
/// for Machine Learning", 2023, arXiv:2210.02410, equation 1.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Metrics {
    /// Whether at least one sample is valid.
    pub success: bool,
    /// The share of valid samples; 0 without samples.
    pub fraction_valid: f64,
    /// The share of waypoints in collision or beyond a limit; 0 without waypoints.
    pub collision_intensity: f64,
    /// m; `None` without a valid sample, and so are those below.
    pub path_length: Option<f64>,
    /// m/s.
    pub smoothness: Option<f64>,
    /// The Vendi score.
    pub diversity: Option<f64>,
    /// m²; `None` with fewer than two valid samples, or if samples differ in their number of waypoints.
    pub waypoint_variance: Option<f64>,
}

impl Metrics {
    /// The measures of a batch for one problem. The robot's scene is that of `free`, without a margin unless it has one.
    pub fn of(free: &FreeSpace, samples: &[Trajectory]) -> Self {
        let valid: Vec<&Trajectory> = samples
            .iter()
            .filter(|it| free.check_trajectory(it).is_ok())
            .collect();
        let (mut collisions, mut waypoints) = (0_usize, 0_usize);
        for sample in samples {
            for position in sample.positions().rows() {
                waypoints += 1;
                collisions += usize::from(free.check(&position.to_vec()).is_err());
            }
        }
        let share = |part: usize, all: usize| part as f64 / (all.max(1)) as f64;
        let mean = |of: fn(&Trajectory) -> f64| {
            let sum: f64 = valid.iter().map(|it| of(it)).sum();
            (!valid.is_empty()).then(|| sum / valid.len() as f64)
        };
        Self {
            success: !valid.is_empty(),
            fraction_valid: share(valid.len(), samples.len()),
            collision_intensity: share(collisions, waypoints),
            path_length: mean(path_length),
            smoothness: mean(smoothness),
            diversity: vendi_score(&valid),
            waypoint_variance: waypoint_variance(&valid),
        }
    }
}

/// `Σ |qᵢ₊₁ − qᵢ|`.
fn path_length(path: &Trajectory) -> f64 {
    let positions = path.positions();
    let steps = (1..path.len()).map(|i| norm(&positions.row(i) - &positions.row(i - 1)));
    steps.sum()
}

/// `Σ |q̇ᵢ₊₁ − q̇ᵢ|`.
fn smoothness(path: &Trajectory) -> f64 {
    let velocities = path.velocities();
    let steps = (1..path.len()).map(|i| norm(&velocities.row(i) - &velocities.row(i - 1)));
    steps.sum()
}

fn norm(vector: ndarray::Array1<f64>) -> f64 {
    vector.into_iter().map(|it| it * it).sum::<f64>().sqrt()
}

/// `exp(−Σ λᵢ ln λᵢ)` over the eigenvalues of the kernel's matrix by its size.
fn vendi_score(samples: &[&Trajectory]) -> Option<f64> {
    let count = samples.len();
    if count == 0 {
        return None;
    }
    let vectors: Vec<DVector<f64>> = samples
        .iter()
        .map(|it| DVector::from_iterator(it.positions().len(), it.positions().iter().copied()))
        .collect();
    if vectors.iter().any(|it| it.len() != vectors[0].len()) {
        return None;
    }
    let kernel = DMatrix::from_fn(count, count, |i, j| {
        (-(&vectors[i] - &vectors[j]).norm_squared()).exp() / count as f64
    });
    let eigenvalues = kernel.symmetric_eigenvalues();
    let entropy = eigenvalues.iter().map(|&it| {
        // Rounding makes zeros a little negative; 0 ln 0 = 0.
        if it > 0.0 { -it * it.ln() } else { 0.0 }
    });
    Some(entropy.sum::<f64>().exp())
}

/// As published, the variance is over all entries of the upper triangle as a full matrix: the zeros below count.
fn waypoint_variance(samples: &[&Trajectory]) -> Option<f64> {
    let count = samples.len();
    let waypoints = samples.first()?.len();
    if count < 2 || samples.iter().any(|it| it.len() != waypoints) {
        return None;
    }
    let entries = (count * count) as f64;
    let variance = |waypoint: usize| {
        let (mut sum, mut squares) = (0.0, 0.0);
        for i in 0..count {
            for j in i + 1..count {
                let [one, other] = [i, j].map(|k| samples[k].positions().row(waypoint).to_owned());
                let distance = norm(one - other);
                sum += distance;
                squares += distance * distance;
            }
        }
        (squares - sum * sum / entries) / (entries - 1.0)
    };
    Some((0..waypoints).map(variance).sum())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clearway_motion::Interpolation;
    use ndarray::array;

    use super::*;
    use crate::{Clutter, Environment};

    fn path(positions: ndarray::Array2<f64>) -> Trajectory {
        let second = Duration::from_secs(1);
        let path = Trajectory::uniform(Duration::ZERO, second, positions, Interpolation::Linear);
        path.expect("finite")
    }

    #[test]
    fn measures_are_the_ones_on_paper() {
        let world = Clutter::new(Environment::Simple).expect("published");
        let free = world.free_space().expect("two coordinates");
        // Along the lower rim, and the same with a detour; one through the disc at (0.05637, −0.51497).
        let straight = path(array![[-0.9, -0.95], [-0.6, -0.95], [-0.3, -0.95]]);
        let detour = path(array![[-0.9, -0.95], [-0.6, -0.85], [-0.3, -0.95]]);
        let blocked = path(array![[-0.9, -0.95], [0.05637, -0.51497], [-0.3, -0.95]]);
        let metrics = Metrics::of(&free, &[straight.clone(), detour.clone(), blocked.clone()]);
        assert!(metrics.success);
        assert!((metrics.fraction_valid - 2.0 / 3.0).abs() < 1e-12);
        assert!((metrics.collision_intensity - 1.0 / 9.0).abs() < 1e-12);
        let bend = 0.3_f64.hypot(0.1);
        let length = f64::midpoint(0.6, 2.0 * bend);
        assert!((metrics.path_length.expect("valid") - length).abs() < 1e-12);
        // Velocities (0.3, 0.1), (0.3, 0), (0.3, −0.1): two steps of 0.1; the straight one has none.
        assert!((metrics.smoothness.expect("valid") - 0.1).abs() < 1e-12);
        // Two samples of similarity k = exp(−0.01): eigenvalues (1 ± k)/2.
        let k = (-0.01_f64).exp();
        let entropy = |it: f64| -it * it.ln();
        let vendi = (entropy(f64::midpoint(1.0, k)) + entropy((1.0 - k) / 2.0)).exp();
        assert!((metrics.diversity.expect("valid") - vendi).abs() < 1e-12);
        // One distance of 0.1 and three zeros at one waypoint: 0.01 (1 − 1/4) / 3.
        assert!((metrics.waypoint_variance.expect("valid") - 0.0025).abs() < 1e-12);

        let nothing = Metrics::of(&free, &[blocked]);
        assert!(!nothing.success && nothing.path_length.is_none() && nothing.diversity.is_none());
        let same = Metrics::of(&free, &[straight.clone(), straight]);
        assert!((same.diversity.expect("valid") - 1.0).abs() < 1e-9);
        assert!(!Metrics::of(&free, &[]).success);
    }
}
