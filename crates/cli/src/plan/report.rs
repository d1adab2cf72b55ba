//! What an evaluation of a planner says.

use std::time::Duration;

use clearway_motion::{FreeSpace, Interpolation, Path, Trajectory};
use clearway_planner::paths::{PathOutcome, PathPlanner};
use clearway_sim::clutter::Metrics;
use serde::Serialize;

use super::ask::{Answer, Arguments, Asked, Switch};
use crate::error::Error;
use crate::statistics;

/// Motion Planning Diffusion's waypoints and duration of a path.
const WAYPOINTS: usize = 64;
const DURATION: Duration = Duration::from_secs(5);

/// How many of the problems without a plan are shown.
const SHOWN: usize = 5;

/// The report of one world.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) world: String,
    pub(super) planner: String,
    guidance: bool,
    projection: bool,
    fallback: bool,
    episodes: usize,
    /// Plans that left the planner: motions that are proven free and within limits.
    success_rate: f64,
    success_interval: [f64; 2],
    /// Of the problems that RRT-Connect solves, how many.
    solvable: usize,
    success_rate_of_solvable: Option<f64>,
    /// Motion Planning Diffusion's measures, means over problems; those of paths over problems with a valid sample.
    some_sample_valid: f64,
    valid_fraction: f64,
    collision_intensity: f64,
    path_length: Option<f64>,
    smoothness: Option<f64>,
    diversity: Option<f64>,
    waypoint_variance: Option<f64>,
    /// The duration of the plans: s.
    duration: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) normalised_score: Option<Score>,
    latency_ms: Latency,
    outcomes: Outcomes,
    pub(super) candidates: u32,
    solver: Option<&'static str>,
    steps: Option<usize>,
    seed: u64,
    model: Option<String>,
    failures: Vec<Failure>,
}

/// D4RL's normalized score.
#[derive(Debug, Serialize)]
pub(super) struct Score {
    pub(super) mean: f64,
    pub(super) interval: [f64; 2],
    /// What the 100 of this score is.
    pub(super) reference: &'static str,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p95: f64,
    p99: f64,
}

#[derive(Debug, Default, Serialize)]
struct Outcomes {
    complete: usize,
    truncated: usize,
    fallback: usize,
}

#[derive(Debug, Serialize)]
struct Failure {
    seed: u64,
    reason: String,
}

/// What is measured, problem by problem.
#[derive(Default)]
pub(super) struct Measured {
    metrics: Vec<Metrics>,
    durations: Vec<f64>,
    latencies: Vec<f64>,
    outcomes: Outcomes,
    solved: usize,
    solvable: usize,
    solved_of_solvable: usize,
    failures: Vec<Failure>,
}

impl Measured {
    /// Takes an answer down. `solvable` is what RRT-Connect says of the problem.
    pub(super) fn add(
        &mut self,
        answer: &Answer,
        free: &FreeSpace,
        solvable: bool,
        seed: u64,
    ) -> Result<(), Error> {
        let samples: Result<Vec<Trajectory>, Error> = answer.samples.iter().map(timed).collect();
        let mut metrics = Metrics::of(free, &samples?);
        // What was asked for and not found is not valid either.
        metrics.fraction_valid *= answer.samples.len() as f64 / answer.asked.max(1) as f64;
        self.metrics.push(metrics);
        self.latencies.push(1e3 * answer.elapsed);
        match &answer.outcome {
            Some(PathOutcome::Truncated { .. }) => self.outcomes.truncated += 1,
            Some(PathOutcome::Fallback { .. }) => self.outcomes.fallback += 1,
            Some(_) => self.outcomes.complete += 1,
            None => {}
        }
        let solved = match &answer.plan {
            Ok(motion) => {
                self.durations.push(motion.duration().as_secs_f64());
                true
            }
            Err(reason) => {
                self.failures.push(Failure {
                    seed,
                    reason: reason.clone(),
                });
                false
            }
        };
        self.solved += usize::from(solved);
        self.solvable += usize::from(solvable);
        self.solved_of_solvable += usize::from(solved && solvable);
        Ok(())
    }

    /// How many have a plan.
    pub(super) fn solved(&self) -> usize {
        self.solved
    }

    pub(super) fn report(self, world: String, arguments: &Arguments, asked: &Asked) -> Report {
        let episodes = self.metrics.len();
        let mean = |of: &dyn Fn(&Metrics) -> Option<f64>| {
            let values: Vec<f64> = self.metrics.iter().filter_map(of).collect();
            (!values.is_empty()).then(|| statistics::mean(&values))
        };
        let all = |of: &dyn Fn(&Metrics) -> f64| mean(&|it| Some(of(it))).unwrap_or(f64::NAN);
        let percentile = |share| statistics::percentile(&self.latencies, share);
        let planner = asked.planner();
        let sampling = planner.map(PathPlanner::sampling);
        Report {
            world,
            planner: asked.kind.word().into(),
            guidance: planner.is_some() && arguments.guidance == Switch::On,
            projection: planner.is_some() && arguments.projection == Switch::On,
            fallback: arguments.fallback,
            episodes,
            success_rate: self.solved as f64 / episodes as f64,
            success_interval: statistics::wilson(self.solved, episodes),
            solvable: self.solvable,
            success_rate_of_solvable: (self.solvable > 0)
                .then(|| self.solved_of_solvable as f64 / self.solvable as f64),
            some_sample_valid: all(&|it| f64::from(u8::from(it.success))),
            valid_fraction: all(&|it| it.fraction_valid),
            collision_intensity: all(&|it| it.collision_intensity),
            path_length: mean(&|it| it.path_length),
            smoothness: mean(&|it| it.smoothness),
            diversity: mean(&|it| it.diversity),
            waypoint_variance: mean(&|it| it.waypoint_variance),
            duration: (!self.durations.is_empty()).then(|| statistics::mean(&self.durations)),
            normalised_score: None,
            latency_ms: Latency {
                p50: percentile(0.5),
                p95: percentile(0.95),
                p99: percentile(0.99),
            },
            outcomes: self.outcomes,
            candidates: arguments.candidates,
            solver: sampling.map(|it| it.method.name()),
            steps: sampling.map(|it| it.steps),
            seed: arguments.seed,
            model: planner.map(|it| it.prior().hash().to_owned()),
            failures: self.failures,
        }
    }
}

/// A path as the measures take it: five seconds, with 64 waypoints where it has fewer, none of them off the path.
fn timed(path: &Path) -> Result<Trajectory, Error> {
    let rows: Vec<Vec<f64>> = path
        .waypoints()
        .rows()
        .into_iter()
        .map(|it| it.to_vec())
        .collect();
    let apart = |i: usize| -> f64 {
        let squares = rows[i]
            .iter()
            .zip(&rows[i + 1])
            .map(|(a, b)| (a - b) * (a - b));
        squares.sum::<f64>().sqrt()
    };
    let segments = rows.len() - 1;
    let mut pieces = vec![1_usize; segments];
    while pieces.iter().sum::<usize>() + 1 < WAYPOINTS && segments > 0 {
        // The longest piece is divided once more.
        let piece = |i: &usize| apart(*i) / pieces[*i] as f64;
        let longest = (0..segments).max_by(|a, b| piece(a).total_cmp(&piece(b)));
        let Some(longest) = longest else { break };
        pieces[longest] += 1;
    }
    let mut all = vec![rows[0].clone()];
    for (i, count) in pieces.into_iter().enumerate() {
        for piece in 1..=count {
            let u = piece as f64 / count as f64;
            let ends = rows[i].iter().zip(&rows[i + 1]);
            all.push(ends.map(|(a, b)| a + u * (b - a)).collect());
        }
    }
    let period = DURATION / u32::try_from(all.len().max(2) - 1).unwrap_or(u32::MAX);
    let dof = path.dof();
    let positions = ndarray::Array2::from_shape_fn((all.len(), dof), |(i, j)| all[i][j]);
    let timed = Trajectory::uniform(Duration::ZERO, period, positions, Interpolation::Linear)?;
    Ok(timed)
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = |x: Option<f64>| x.map_or("-".into(), |it| format!("{it:.3}"));
        writeln!(
            f,
            "{}: {} problems from seed {}, {}, {} samples each",
            self.world, self.episodes, self.seed, self.planner, self.candidates
        )?;
        let [low, high] = self.success_interval;
        writeln!(
            f,
            "  plans        {:.3}  [{low:.3}, {high:.3}] (95 %, Wilson); {} of the {} that RRT-Connect solves",
            self.success_rate,
            number(self.success_rate_of_solvable),
            self.solvable
        )?;
        writeln!(
            f,
            "  samples      {:.3} of them valid, {:.3} of the problems with a valid one; {:.4} of waypoints collide",
            self.valid_fraction, self.some_sample_valid, self.collision_intensity
        )?;
        writeln!(
            f,
            "  paths        length {} m, smoothness {} m/s, diversity {}",
            number(self.path_length),
            number(self.smoothness),
            number(self.diversity)
        )?;
        if let Some(Score {
            mean,
            interval: [low, high],
            ..
        }) = &self.normalised_score
        {
            writeln!(
                f,
                "  score        {mean:.1} [{low:.1}, {high:.1}] (95 %, bootstrap); D4RL's 100 is a controller that plans \
                 in its first episode only"
            )?;
        }
        for Failure { seed, reason } in self.failures.iter().take(SHOWN) {
            writeln!(f, "  no plan      seed {seed}: {reason}")?;
        }
        if let Some(more @ 1..) = self.failures.len().checked_sub(SHOWN) {
            writeln!(f, "  no plan      {more} more, which --json lists")?;
        }
        let Latency { p50, p95, p99 } = &self.latency_ms;
        write!(
            f,
            "  one plan     p50 {p50:.1} ms, p95 {p95:.1} ms, p99 {p99:.1} ms"
        )
    }
}
