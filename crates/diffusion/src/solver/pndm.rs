use super::{SolverError, Stage, finite};
use crate::{Grid, Point, Schedule, Solver};

/// PNDM without Runge–Kutta steps (PLMS): a linear multistep method on the noise estimate; Stable Diffusion 1.5's own
/// default.
///
/// ```text
/// x_next = α_next/α · x + (σ_next − σ α_next/α) · e
/// e      = ε̂₀, (ε̂₀ + ε̂₁)/2, (3ε̂₀ − ε̂₁)/2, (23ε̂₀ − 16ε̂₁ + 5ε̂₂)/12, (55ε̂₀ − 59ε̂₁ + 37ε̂₂ − 9ε̂₃)/24
/// ```
///
/// The first step is done twice: once with `ε̂` alone, then again from the same sample with the mean of its two ends,
/// after which the second end is forgotten. So n > 1 steps take n + 1 passes.
///
/// Liu et al., "Pseudo Numerical Methods for Diffusion Models on Manifolds", 2022, arXiv:2202.09778,
/// algorithm 2, without its Runge–Kutta start, as `skip_prk_steps` in diffusers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pndm;

impl Solver for Pndm {
    fn plan(&self, _: &dyn Schedule, grid: &Grid) -> Result<Vec<Stage>, SolverError> {
        let points = grid.points();
        let mut stages = vec![stage(points[0], points[0], points[1], vec![1.0], vec![1.0])];
        if grid.steps() > 1 {
            let again = stage(
                points[1],
                points[0],
                points[1],
                vec![0.0, 1.0],
                vec![0.5, 0.5],
            );
            stages.push(again);
        }
        for call in 2..=grid.steps() {
            let (at, to) = (points[call - 1], points[call]);
            // The estimate of call 1 is not among those remembered, hence the zeros.
            let noise: &[f64] = match call {
                2 => &[3.0 / 2.0, 0.0, -1.0 / 2.0],
                3 => &[23.0 / 12.0, -16.0 / 12.0, 0.0, 5.0 / 12.0],
                4 => &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, 0.0, -9.0 / 24.0],
                _ => &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
            };
            stages.push(stage(at, at, to, vec![1.0], noise.to_vec()));
        }
        finite("PNDM", stages)
    }
}

/// A pass at `at`, then a step from `from` to `to`; `states` and `noise` are shares that sum to one.
fn stage(at: Point, from: Point, to: Point, mut states: Vec<f64>, mut noise: Vec<f64>) -> Stage {
    let carried = to.level.alpha / from.level.alpha;
    for share in &mut states {
        *share *= carried;
    }
    for share in &mut noise {
        *share *= to.level.sigma - from.level.sigma * carried;
    }
    Stage {
        at,
        to,
        states,
        clean: vec![],
        noise,
        fresh: 0.0,
    }
}
