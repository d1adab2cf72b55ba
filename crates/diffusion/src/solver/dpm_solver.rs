use super::{FEW, SolverError, Stage, finite};
use crate::{Grid, Point, Schedule, Solver};

/// How the slope of the clean estimate enters a second-order step; the two agree to second order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Midpoint {
    /// Half of the first-order weight: `−α_next (e⁻ʰ − 1) / 2 · D`, the usual choice.
    #[default]
    Half,
    /// The exact integral of a linear estimate: `α_next ((e⁻ʰ − 1)/h + 1) · D`, diffusers' `solver_type = "heun"`.
    Exact,
}

/// DPM-Solver++(2M): second order in half-log-SNR, one pass a step, deterministic.
///
/// ```text
/// x_next = σ_next/σ · x + α_next (1 − e⁻ʰ) · [(1 + 1/2r) x̂₀ − 1/2r x̂₁]
/// h = λ_next − λ,   r = (λ − λ_previous) / h,   λ = ln(α/σ)
/// ```
///
/// `x̂₀` is the newest estimate. The first step is first order, and so is a last step to `sigma = 0`, where `h` is
/// infinite.
///
/// Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", 2022,
/// arXiv:2211.01095, algorithm 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DpmSolver2M {
    /// How the slope enters.
    pub midpoint: Midpoint,
    /// Makes the last step first order below 15 steps, whatever the end: diffusers' `lower_order_final`.
    pub first_order_end: bool,
}

impl Default for DpmSolver2M {
    fn default() -> Self {
        Self {
            midpoint: Midpoint::Half,
            first_order_end: true,
        }
    }
}

/// The stochastic form of [`DpmSolver2M`], with fresh noise in every step.
///
/// ```text
/// x_next = σ_next/σ e⁻ʰ · x + α_next (1 − e⁻²ʰ) · [(1 + 1/2r) x̂₀ − 1/2r x̂₁] + σ_next √(1 − e⁻²ʰ) · ε
/// ```
///
/// Lu et al., 2022, arXiv:2211.01095, on DPM-Solver++ for diffusion SDEs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SdeDpmSolver2M {
    /// Makes the last step first order below 15 steps, whatever the end.
    pub first_order_end: bool,
}

impl Default for SdeDpmSolver2M {
    fn default() -> Self {
        Self {
            first_order_end: true,
        }
    }
}

impl Solver for DpmSolver2M {
    fn plan(&self, _: &dyn Schedule, grid: &Grid) -> Result<Vec<Stage>, SolverError> {
        let stages = multistep(grid, self.first_order_end, |at, to, inverse_r| {
            let (decay, h) = decay(at, to);
            let whole = to.level.alpha * (1.0 - decay);
            let slope = match self.midpoint {
                Midpoint::Half => whole / 2.0,
                // Towards h = 0 and h = ∞ the quotient has its limits −1 and 0.
                Midpoint::Exact if h == 0.0 => 0.0,
                Midpoint::Exact => to.level.alpha * ((decay - 1.0) / h + 1.0),
            };
            Stage {
                at,
                to,
                states: vec![to.level.sigma / at.level.sigma],
                clean: weights(whole, slope, inverse_r),
                noise: vec![],
                fresh: 0.0,
            }
        });
        finite("DPM-Solver++(2M)", stages)
    }
}

impl Solver for SdeDpmSolver2M {
    fn plan(&self, _: &dyn Schedule, grid: &Grid) -> Result<Vec<Stage>, SolverError> {
        let stages = multistep(grid, self.first_order_end, |at, to, inverse_r| {
            let (decay, _) = decay(at, to);
            let renewed = (1.0 - decay * decay).max(0.0);
            let whole = to.level.alpha * renewed;
            Stage {
                at,
                to,
                states: vec![to.level.sigma / at.level.sigma * decay],
                clean: weights(whole, whole / 2.0, inverse_r),
                noise: vec![],
                fresh: to.level.sigma * renewed.sqrt(),
            }
        });
        finite("SDE-DPM-Solver++(2M)", stages)
    }
}

/// `e⁻ʰ` and `h`; from the ratios, since a logarithm of either end may be infinite.
pub(super) fn decay(at: Point, to: Point) -> (f64, f64) {
    let decay = (at.level.alpha * to.level.sigma) / (to.level.alpha * at.level.sigma);
    (decay, -decay.ln())
}

/// The weights of the estimates, newest first: `whole · x̂₀ + slope · (x̂₀ − x̂₁) / r`.
fn weights(whole: f64, slope: f64, inverse_r: Option<f64>) -> Vec<f64> {
    match inverse_r {
        None => vec![whole],
        Some(inverse_r) => vec![whole + slope * inverse_r, -slope * inverse_r],
    }
}

/// Calls `step(at, to, 1/r)`, without `r` where the order is one.
fn multistep(
    grid: &Grid,
    first_order_end: bool,
    step: impl Fn(Point, Point, Option<f64>) -> Stage,
) -> Vec<Stage> {
    let points = grid.points();
    let steps = grid.steps();
    (0..steps)
        .map(|i| {
            let (at, to) = (points[i], points[i + 1]);
            let is_last = i + 1 == steps;
            let lower =
                i == 0 || to.level.sigma == 0.0 || (is_last && first_order_end && steps < FEW);
            let inverse_r = (!lower).then(|| {
                let lambda = |point: Point| point.level.half_log_snr();
                // 1/r = h / h_previous: zero after a step from pure noise, where h_previous is infinite.
                (lambda(to) - lambda(at)) / (lambda(at) - lambda(points[i - 1]))
            });
            step(at, to, inverse_r)
        })
        .collect()
}
