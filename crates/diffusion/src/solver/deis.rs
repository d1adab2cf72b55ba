use super::{FEW, SolverError, Stage, check_order, finite};
use crate::{Grid, Schedule, Solver};

/// DEIS: the noise estimates as a polynomial of `ln S`, integrated exactly; one pass a step.
///
/// ```text
/// x_next / α_next = x / α + ∫ P(ln S) dS,   S = σ/α,   P(ln S_k) = ε̂_k for k = 0 .. p−1
/// ```
///
/// The first steps are of lower order, since there are fewer estimates. Order 1 is [`Ddim`](super::Ddim).
///
/// Zhang and Chen, "Fast Sampling of Diffusion Models with Exponential Integrator", 2022, arXiv:2204.13902, as
/// `logrho` in diffusers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deis {
    /// The estimates that a step reads, from 1 to 3.
    pub order: usize,
    /// Lowers the order of the last steps below 15 steps: diffusers' `lower_order_final`.
    pub first_order_end: bool,
}

impl Default for Deis {
    fn default() -> Self {
        Self {
            order: 2,
            first_order_end: true,
        }
    }
}

impl Solver for Deis {
    fn plan(&self, _: &dyn Schedule, grid: &Grid) -> Result<Vec<Stage>, SolverError> {
        check_order("DEIS", self.order)?;
        let (points, steps) = (grid.points(), grid.steps());
        let stages = (0..steps).map(|i| {
            let (at, to) = (points[i], points[i + 1]);
            let left = if self.first_order_end && steps < FEW {
                steps - i
            } else {
                self.order
            };
            let order = self.order.min(i + 1).min(left);
            // Logarithms relative to the newest ratio: u = ln(S / S₀).
            let ratio = at.level.ratio();
            let places: Vec<f64> = (1..order)
                .map(|k| (points[i - k].level.ratio() / ratio).ln())
                .collect();
            let integrals = integrals(to.level.ratio() / ratio);
            let shares = shares(&places, integrals);
            Stage {
                at,
                to,
                states: vec![to.level.alpha / at.level.alpha],
                clean: vec![],
                noise: shares
                    .into_iter()
                    .map(|share| to.level.alpha * ratio * share)
                    .collect(),
                fresh: 0.0,
            }
        });
        finite("DEIS", stages.collect())
    }
}

/// `∫₁ᵠ (ln s)ᵏ ds` for k = 0, 1, 2; `q = 0` is the data.
fn integrals(q: f64) -> [f64; 3] {
    if q == 0.0 {
        return [-1.0, 1.0, -2.0];
    }
    let u = q.ln();
    [
        q - 1.0,
        q * (u - 1.0) + 1.0,
        q * (u * u - 2.0 * u + 2.0) - 2.0,
    ]
}

/// The integrals of Lagrange's polynomials at 0 and the places.
fn shares(places: &[f64], [zeroth, first, second]: [f64; 3]) -> Vec<f64> {
    match *places {
        [u] => {
            let other = first / u;
            vec![zeroth - other, other]
        }
        [u, v] => {
            let share = |u: f64, v: f64| (second - v * first) / (u * (u - v));
            let (one, two) = (share(u, v), share(v, u));
            vec![zeroth - one - two, one, two]
        }
        _ => vec![zeroth],
    }
}
