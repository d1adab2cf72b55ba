use super::dpm_solver::decay;
use super::{SolverError, Stage, check_order, finite};
use crate::{Grid, Point, Schedule, Solver};

/// UniPC: a multistep predictor in half-log-SNR whose every step is corrected with the estimate at its end, one pass a
/// step.
///
/// ```text
/// predicted: x_next = σ_next/σ · x + α_next E [x̂₀ + Σ_k ρ_k (x̂_k − x̂₀)/r_k]                    k = 1 .. p−1
/// corrected: x_next = σ_next/σ · x + α_next E [x̂₀ + Σ_k ρ'_k (x̂_k − x̂₀)/r_k + ρ'_p (x̂_next − x̂₀)]
/// E = 1 − e⁻ʰ,   h = λ_next − λ,   r_k = (λ_k − λ) / h,   λ = ln(α/σ)
/// Σ_k r_kʲ⁻¹ ρ_k = b_j for j = 1 .. p,   r_p = 1;   p = 1 and 2 have 1/2 for the only ρ' and ρ
/// ```
///
/// The estimate that corrects a step is that of the predicted sample, so no pass is added; it is known a stage later, and
/// what it changes is a sum of estimates: a linear multistep method like the others here. The first steps and the last
/// ones are of the order that their neighbours allow.
///
/// Zhao et al., "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models", 2023,
/// arXiv:2302.04867, algorithms 5 and 6, with `B(h) = e⁻ʰ − 1` (`bh2`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UniPc {
    /// The order `p` of the predictor, from 1 to 3; the corrector's is one higher.
    pub order: usize,
}

impl Default for UniPc {
    fn default() -> Self {
        Self { order: 2 }
    }
}

/// A step from one point to the next, before it is known what the network says at its end.
struct Step {
    /// `α_next (1 − e⁻ʰ)`.
    whole: f64,
    /// What a prediction adds to `x̂₀`: the shares of the estimates, newest first.
    predicted: Vec<f64>,
    /// What a correction adds to `x̂₀`: the share of the estimate at the end, then the others.
    corrected: Vec<f64>,
}

impl Solver for UniPc {
    fn plan(&self, _: &dyn Schedule, grid: &Grid) -> Result<Vec<Stage>, SolverError> {
        check_order("UniPC", self.order)?;
        let points = grid.points();
        let mut before: Option<Step> = None;
        let mut stages = Vec::with_capacity(grid.steps());
        for i in 0..grid.steps() {
            let order = self.order.min(grid.steps() - i).min(i + 1);
            let step = Step::new(&points[..=i + 1], order);
            let (at, to) = (points[i], points[i + 1]);
            let ratio = to.level.sigma / at.level.sigma;
            let mut clean = vec![step.whole];
            add(&mut clean, 0, step.whole, &step.predicted);
            // The sample at `at` was predicted; this is what its correction adds.
            if let Some(before) = &before {
                add(&mut clean, 0, ratio * before.whole, &before.corrected);
                add(&mut clean, 1, -ratio * before.whole, &before.predicted);
            }
            stages.push(Stage {
                at,
                to,
                states: vec![ratio],
                clean,
                noise: vec![],
                fresh: 0.0,
            });
            before = Some(step);
        }
        finite("UniPC", stages)
    }
}

impl Step {
    /// The step between the last two points.
    fn new(points: &[Point], order: usize) -> Self {
        let lambda = |point: Point| point.level.half_log_snr();
        let (at, to) = (points[points.len() - 2], points[points.len() - 1]);
        let (decay, h) = decay(at, to);
        // Pure noise is infinitely far: a slope towards it says nothing.
        let ratios: Vec<f64> = (points.iter().rev().skip(2).take(order - 1))
            .map(|&point| (lambda(point) - lambda(at)) / h)
            .take_while(|ratio| ratio.is_finite())
            .collect();
        let b = moments(-h);
        let slopes = match ratios.len() {
            1 => vec![0.5],
            _ => solve(&ratios, &b),
        };
        let ends: Vec<f64> = ratios.iter().copied().chain([1.0]).collect();
        let mut rates = match ratios.len() {
            0 => vec![0.5],
            _ => solve(&ends, &b),
        };
        let end = rates.pop().unwrap_or_default();
        let mut corrected = vec![end];
        add(&mut corrected, 1, 1.0, &differences(&rates, &ratios));
        add(&mut corrected, 1, -end, &[1.0]);
        Self {
            whole: to.level.alpha * (1.0 - decay),
            predicted: differences(&slopes, &ratios),
            corrected,
        }
    }
}

/// `Σ ρ_k (x̂_k − x̂₀)/r_k` as shares of the estimates, newest first.
fn differences(rates: &[f64], ratios: &[f64]) -> Vec<f64> {
    let shares = || rates.iter().zip(ratios).map(|(rate, ratio)| rate / ratio);
    std::iter::once(-shares().sum::<f64>())
        .chain(shares())
        .collect()
}

/// Adds `scale` times shares, the first to the one at `from`.
fn add(to: &mut Vec<f64>, from: usize, scale: f64, shares: &[f64]) {
    to.resize(to.len().max(from + shares.len()), 0.0);
    for (to, share) in to[from..].iter_mut().zip(shares) {
        *to += scale * share;
    }
}

/// `b_j = j! z φ_{j+1}(z) / (eᶻ − 1)` for j = 1, 2, 3, with `φ₁(z) = (eᶻ − 1)/z` and `φ_{j+1}(z) = (φ_j(z) − 1/j!)/z`;
/// `z = −h` may be infinite.
fn moments(z: f64) -> [f64; 3] {
    /// Below, the differences lose more digits than the series, whose next term is z³.
    const SMALL: f64 = 1e-3;
    if z.abs() < SMALL {
        let one = 1.0 + z / 2.0 + z * z / 6.0;
        return [
            (1.0 / 2.0 + z / 6.0 + z * z / 24.0) / one,
            2.0 * (1.0 / 6.0 + z / 24.0 + z * z / 120.0) / one,
            6.0 * (1.0 / 24.0 + z / 120.0 + z * z / 720.0) / one,
        ];
    }
    let one = z.exp_m1();
    let first = one / z - 1.0;
    let second = first / z - 1.0 / 2.0;
    let third = second / z - 1.0 / 6.0;
    [first / one, 2.0 * second / one, 6.0 * third / one]
}

/// Solves `Σ_k r_kʲ⁻¹ ρ_k = b_j`, for up to three different `r_k`.
fn solve(r: &[f64], b: &[f64; 3]) -> Vec<f64> {
    match *r {
        [_] => vec![b[0]],
        [r1, r2] => {
            let second = (b[1] - r1 * b[0]) / (r2 - r1);
            vec![b[0] - second, second]
        }
        [r1, r2, r3] => {
            // Newton's divided differences of the transposed Vandermonde matrix.
            let (c1, c2) = (b[1] - r1 * b[0], b[2] - r1 * b[1]);
            let third = (c2 - r2 * c1) / ((r3 - r1) * (r3 - r2));
            let second = (c1 - third * (r3 - r1)) / (r2 - r1);
            vec![b[0] - second - third, second, third]
        }
        _ => vec![],
    }
}
