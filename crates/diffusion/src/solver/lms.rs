use super::{SolverError, Stage, finite};
use crate::{Grid, Schedule, Solver};

/// A linear multistep method in σ-space: the noise estimates as a polynomial of `S`, integrated exactly; one pass a step.
///
/// ```text
/// x_next / α_next = x / α + ∫ P(S) dS,   S = σ/α,   P(S_k) = ε̂_k for k = 0 .. p−1,   p = 4
/// ```
///
/// Adams and Bashforth's on a grid of any spacing. The first three steps have fewer estimates.
///
/// Katherine Crowson's k-diffusion, `sample_lms`, 2022.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lms;

/// The estimates that a step reads.
const ORDER: usize = 4;

impl Solver for Lms {
    fn plan(&self, _: &dyn Schedule, grid: &Grid) -> Result<Vec<Stage>, SolverError> {
        let points = grid.points();
        let stages = (0..grid.steps()).map(|i| {
            let (at, to) = (points[i], points[i + 1]);
            let nodes: Vec<f64> = (0..ORDER.min(i + 1))
                .map(|k| points[i - k].level.ratio())
                .collect();
            let integrals = (0..nodes.len())
                .map(|k| to.level.alpha * integral(&nodes, k, at.level.ratio(), to.level.ratio()));
            Stage {
                at,
                to,
                states: vec![to.level.alpha / at.level.alpha],
                clean: vec![],
                noise: integrals.collect(),
                fresh: 0.0,
            }
        });
        finite("LMS", stages.collect())
    }
}

/// The integral of Lagrange's polynomial that is one at node `k`. Gauss's rule of two points is exact: the degree is 3.
fn integral(nodes: &[f64], k: usize, from: f64, to: f64) -> f64 {
    let polynomial = |s: f64| -> f64 {
        let others = nodes.iter().enumerate().filter(|(other, _)| *other != k);
        others
            .map(|(_, node)| (s - node) / (nodes[k] - node))
            .product()
    };
    let (middle, half) = (f64::midpoint(from, to), (to - from) / 2.0);
    let place = half / 3.0_f64.sqrt();
    half * (polynomial(middle - place) + polynomial(middle + place))
}
