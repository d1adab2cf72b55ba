//! A method of order p has an error that falls with the p-th power of the step.
//!
//! Measured on an exact Gaussian denoiser, whose probability-flow ODE has a closed solution, in f64 and without a
//! tensor: solvers are data.

use clearway_diffusion::{
    Cosine, Ddim, Deis, DpmSolver2M, Edm, Euler, Exploding, FlowMatching, Gaussian, Grid, Heun,
    Level, Lms, Midpoint, Pndm, Schedule, Solver, Stage, UniPc,
};

const DATA: Gaussian = Gaussian {
    mean: 0.4,
    deviation: 0.6,
};

/// The slope of the logarithm of the error over that of the step, by least squares.
fn order(solver: &dyn Solver, schedule: &dyn Schedule, without: usize, from: f64, to: f64) -> f64 {
    let start = 0.9;
    let points: Vec<(f64, f64)> = [64, 128, 256, 512]
        .map(|steps| {
            let times: Vec<f64> = (0..=steps)
                .map(|i| from + (to - from) * f64::from(i) / f64::from(steps))
                .collect();
            let (last, times) = times.split_last().expect("more than one time");
            let grid = Grid::at_times(schedule, times, clearway_diffusion::End::At(*last))
                .expect("the noise falls");
            let stages = solver.plan(schedule, &grid).expect("finite levels");
            let stages = &stages[..stages.len() - without];
            let end = stages.last().expect("more than one step").to.level;
            let exact = DATA.flow(start, schedule.level(from), end);
            let error = (run(stages, start, None) - exact).abs();
            (f64::from(steps).recip().ln(), error.ln())
        })
        .to_vec();
    let mean =
        |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / points.len() as f64;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>()
        / points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>()
}

/// The order on each schedule, without the last steps.
fn orders(solver: &dyn Solver, without: usize) -> Vec<(String, f64)> {
    let flow = FlowMatching::new(1.0, 1.0).expect("valid");
    let edm = Edm::new(0.002, 80.0).expect("valid");
    let cases: [(&dyn Schedule, f64, f64); 4] = [
        (&Cosine, 0.9, 0.1),
        (&flow, 0.95, 0.05),
        (&edm, 0.5, -0.7),
        (&Exploding(Cosine), 0.9, 0.1),
    ];
    let cases = cases.into_iter().map(|(schedule, from, to)| {
        let measured = order(solver, schedule, without, from, to);
        println!("{solver:?} on {schedule:?}: {measured:.3}");
        (format!("{schedule:?}"), measured)
    });
    cases.collect()
}

fn assert_order(solver: &dyn Solver, expected: f64) {
    for (schedule, measured) in orders(solver, 0) {
        assert!(
            (measured - expected).abs() <= 0.1,
            "{solver:?} on {schedule}: order {measured:.3}, not {expected}"
        );
    }
}

#[test]
fn ddim_and_euler_are_first_order() {
    assert_order(&Ddim { eta: 0.0 }, 1.0);
    assert_order(&Euler, 1.0);
}

#[test]
fn dpm_solver_2m_and_heun_are_second_order() {
    for midpoint in [Midpoint::Half, Midpoint::Exact] {
        let solver = DpmSolver2M {
            midpoint,
            first_order_end: false,
        };
        assert_order(&solver, 2.0);
    }
    assert_order(&Heun, 2.0);
}

/// Its start is of order two, so that is what it has in all, although its steps are of order four.
#[test]
fn pndm_is_second_order() {
    assert_order(&Pndm, 2.0);
}

/// Their steps are of order up to four, but for the first ones, and one step of order one makes the whole second. On some
/// grids, what it adds is small for the numbers of steps that are measured.
#[test]
fn linear_multistep_methods_are_at_least_second_order() {
    let deis = |order| Deis {
        order,
        first_order_end: false,
    };
    let solvers: [Box<dyn Solver>; 3] = [Box::new(Lms), Box::new(deis(2)), Box::new(deis(3))];
    for solver in solvers {
        for (schedule, measured) in orders(&*solver, 0) {
            assert!(
                measured >= 1.9,
                "{solver:?} on {schedule}: order {measured:.3}"
            );
        }
    }
}

/// A step that was corrected is of one order more than its prediction. The last one, whose order is one, is left out.
#[test]
fn corrections_gain_an_order() {
    for order in [1, 2] {
        let solver = UniPc { order };
        for (schedule, measured) in orders(&solver, 1) {
            assert!(
                measured >= order as f64 + 0.85,
                "{solver:?} on {schedule}: order {measured:.3}"
            );
        }
    }
}

/// Noise that is drawn must have the variance that the data has: a Gaussian stays that Gaussian.
///
/// TCD, LCM and consistency sampling are not here: their steps reach to (or towards) the data however many there are,
/// and are exact only for a network that was distilled to do so.
#[test]
fn stochastic_solvers_reach_the_variance_of_the_data() {
    use clearway_diffusion::{Ddpm, EulerAncestral, SdeDpmSolver2M};
    let steps = 400;
    let solvers: [(Box<dyn Solver>, f64); 3] = [
        (Box::new(Ddpm::default()), 2e-2),
        (Box::new(EulerAncestral), 2e-2),
        (Box::new(SdeDpmSolver2M::default()), 2e-3),
    ];
    for (solver, bound) in solvers {
        let (from, to) = (0.95, 0.02);
        let times: Vec<f64> = (0..steps)
            .map(|i| from + (to - from) * f64::from(i) / f64::from(steps))
            .collect();
        let grid = Grid::at_times(&Cosine, &times, clearway_diffusion::End::At(to))
            .expect("the noise falls");
        let stages = solver.plan(&Cosine, &grid).expect("finite levels");
        // The result is affine in the start and in each draw: propagate each unit alone.
        let base = run(&stages, 0.0, None);
        let Level { alpha, sigma } = stages[0].at.level;
        let spread = (alpha * DATA.deviation).hypot(sigma);
        let mut variance = ((run(&stages, 1.0, None) - base) * spread).powi(2);
        for index in 0..stages.len() {
            variance += (run(&stages, 0.0, Some(index)) - base).powi(2);
        }
        let end = stages[stages.len() - 1].to.level;
        let expected = (end.alpha * DATA.deviation).powi(2) + end.sigma.powi(2);
        println!("{solver:?}: variance {variance:.5}, exact {expected:.5}");
        assert!(
            (variance / expected - 1.0).abs() < bound,
            "{solver:?}: variance {variance}, exact {expected}"
        );
    }
}

/// Runs stages on one number; fresh noise is one in the stage `drawn` and zero in the others.
fn run(stages: &[Stage], start: f64, drawn: Option<usize>) -> f64 {
    let mut history: Vec<(f64, f64, f64)> = Vec::new();
    let mut x = start;
    for (index, stage) in stages.iter().enumerate() {
        let level = stage.at.level;
        let clean = DATA.clean(x, level);
        history.insert(0, (x, clean, (x - level.alpha * clean) / level.sigma));
        let weighted = |shares: &[f64], of: fn(&(f64, f64, f64)) -> f64| -> f64 {
            shares
                .iter()
                .zip(&history)
                .map(|(share, entry)| share * of(entry))
                .sum()
        };
        x = weighted(&stage.states, |entry| entry.0)
            + weighted(&stage.clean, |entry| entry.1)
            + weighted(&stage.noise, |entry| entry.2)
            + if drawn == Some(index) {
                stage.fresh
            } else {
                0.0
            };
    }
    x
}
