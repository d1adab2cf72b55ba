//! Exact solvers carry the signal and the noise.
//!
//! ```text
//! Σ states[k]·α_k + Σ clean = α_next
//! (Σ states[k]·σ_k + Σ noise)² + fresh² = σ_next²
//! ```
//!
//! On every grid, on all three lines, to 1e-12. LCM and DDPM's fixed-large variance by definition do not; consistency
//! sampling does with `sigma_min = 0`.

use clearway_diffusion::{
    Consistency, Ddim, Ddpm, Deis, DpmSolver2M, Euler, EulerAncestral, Grid, Heun, Level, Line,
    Lms, Midpoint, Pndm, Point, Schedule, SdeDpmSolver2M, Solver, Stage, Tcd, UniPc, Variance,
};
use proptest::prelude::*;

/// Rounding in f64, relative to the coefficients of a stage.
const ROUNDING: f64 = 1e-12;

/// A schedule on a line, its time the logarithm of the ratio.
#[derive(Debug)]
struct Logarithmic(Line);

impl Schedule for Logarithmic {
    fn level(&self, t: f64) -> Level {
        self.0.level(t.exp())
    }

    fn time(&self, ratio: f64) -> f64 {
        ratio.ln()
    }

    fn domain(&self) -> std::ops::RangeInclusive<f64> {
        -41.0..=8.0
    }

    fn line(&self) -> Line {
        self.0
    }
}

fn exact_solvers(eta: f64) -> Vec<Box<dyn Solver>> {
    let first_order_end = eta < 0.5;
    let multistep = (1..=3).flat_map(|order| {
        let deis = Deis {
            order,
            first_order_end,
        };
        [Box::new(UniPc { order }) as Box<dyn Solver>, Box::new(deis)]
    });
    let others: Vec<Box<dyn Solver>> = vec![
        Box::new(Ddim { eta }),
        Box::new(Ddpm::default()),
        Box::new(Euler),
        Box::new(EulerAncestral),
        Box::new(DpmSolver2M::default()),
        Box::new(DpmSolver2M {
            midpoint: Midpoint::Exact,
            first_order_end: false,
        }),
        Box::new(SdeDpmSolver2M::default()),
        Box::new(Heun),
        Box::new(Pndm),
        Box::new(Tcd { gamma: eta }),
        Box::new(Consistency::default()),
        Box::new(Lms),
    ];
    others.into_iter().chain(multistep).collect()
}

/// The residuals of the two invariants, relative to the size of what is summed.
fn residuals(stages: &[Stage], index: usize) -> (f64, f64) {
    let stage = &stages[index];
    let mut signal = -stage.to.level.alpha;
    let mut noise = 0.0;
    let mut size = stage.fresh.max(1.0);
    for (k, share) in stage.states.iter().enumerate() {
        let Level { alpha, sigma } = stages[index - k].at.level;
        signal += share * alpha;
        noise += share * sigma;
        size = size.max(share.abs() * alpha.max(sigma));
    }
    signal += stage.clean.iter().sum::<f64>();
    noise += stage.noise.iter().sum::<f64>();
    size = stage
        .clean
        .iter()
        .chain(&stage.noise)
        .fold(size, |size, share| size.max(share.abs()));
    let variance = noise * noise + stage.fresh * stage.fresh - stage.to.level.sigma.powi(2);
    (signal.abs() / size, variance.abs() / (size * size))
}

/// Two or more ratios, falling, from which a grid on any line can be made; the last may be the data.
fn ratios() -> impl Strategy<Value = (Vec<f64>, bool)> {
    (
        prop::collection::vec(0.01..1.5_f64, 1..24),
        -4.0..8.0_f64,
        any::<bool>(),
    )
        .prop_map(|(falls, top, to_data)| {
            let mut logarithm = top;
            let mut ratios = vec![top.exp()];
            for fall in falls {
                logarithm -= fall;
                ratios.push(logarithm.exp());
            }
            (ratios, to_data)
        })
}

proptest! {
    #[test]
    fn on_any_grid((ratios, to_data) in ratios(), eta in 0.0..=1.0_f64) {
        for line in [Line::Preserving, Line::Exploding, Line::Straight] {
            let schedule = Logarithmic(line);
            let mut points: Vec<Point> = ratios.iter().map(|ratio| Point { t: ratio.ln(), level: line.level(*ratio) }).collect();
            if to_data {
                points.push(Point { t: -41.0, level: Level::CLEAN });
            }
            let grid = Grid::new(points).expect("ratios fall");
            for solver in exact_solvers(eta) {
                let stages = solver.plan(&schedule, &grid).expect("finite levels");
                for index in 0..stages.len() {
                    let (signal, noise) = residuals(&stages, index);
                    prop_assert!(signal < ROUNDING, "{solver:?} on {line:?}, stage {index}: signal off by {signal:e}");
                    prop_assert!(noise < ROUNDING, "{solver:?} on {line:?}, stage {index}: noise off by {noise:e}");
                }
            }
        }
    }
}

#[test]
fn fixed_large_adds_more_noise_than_the_level_has() {
    let line = Line::Preserving;
    let points = [3.0, 1.0, 0.5].map(|ratio| Point {
        t: 0.0,
        level: line.level(ratio),
    });
    let grid = Grid::new(points.to_vec()).expect("ratios fall");
    let large = Ddpm {
        variance: Variance::FixedLarge,
    };
    let stages = large
        .plan(&Logarithmic(line), &grid)
        .expect("finite levels");
    let (signal, noise) = residuals(&stages, 0);
    assert!(signal < ROUNDING && noise > 1e-3);
    // β of the forward step, which is what the variance is said to be.
    let (from, to) = (grid.points()[0].level, grid.points()[1].level);
    let beta = 1.0 - (from.alpha / to.alpha).powi(2);
    assert!((stages[0].fresh.powi(2) - beta).abs() < ROUNDING);
}
