//! `clearway plan maze`.

use std::path::PathBuf;

use clearway_motion::{RrtConnect, Trajectory};
use clearway_sim::maze2d::{CONTROL_PERIOD, GEAR, MASS};
use clearway_sim::{Layout, Maze2D};

use super::LayoutName;
use super::ask;
use super::problem::Problem;
use super::report::{Measured, Report, Score};
use crate::Verdict;
use crate::error::{Error, check_writable, write_json};
use crate::output::say;
use crate::sim::progress;
use crate::statistics;

/// What guidance and projection keep from walls beyond contact: m.
const MARGIN: f64 = 0.04;

/// The share of speed and force that a plan uses; the rest is for following it.
const SHARE: f64 = 0.95;

/// How stiffly a plan is followed: 1/s² and 1/s. Critically damped.
const STIFFNESS: f64 = 100.0;
const DAMPING: f64 = 20.0;

/// What the score's 100 is.
const REFERENCE: &str = "the mean of D4RL's own controller, which plans in the first of its episodes and not in the others";

/// Which targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Task {
    /// The maze's own goal, as in D4RL
    Single,
    /// A drawn one for each episode, as in Diffuser's Multi2D
    Multi,
}

/// The arguments of `clearway plan maze`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A folder with a prior of paths
    #[arg(long, value_name = "DIR", default_value = "models/maze")]
    prior: PathBuf,
    /// The maze [default: all three]
    #[arg(long, value_enum)]
    maze: Option<LayoutName>,
    /// Where the ball shall go
    #[arg(long, value_enum, default_value = "single")]
    task: Task,
    #[command(flatten)]
    ask: ask::Arguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    let ask = &arguments.ask;
    check_writable(ask.json.as_deref())?;
    check_writable(ask.problems_out.as_deref())?;
    let asked = ask.asked(&arguments.prior, MARGIN)?;
    let layouts: Vec<Layout> = match arguments.maze {
        Some(name) => vec![name.into()],
        None => Layout::ALL.to_vec(),
    };
    let recorder = ask
        .record
        .as_deref()
        .map(super::Recorder::open)
        .transpose()?;
    let mut reports: Vec<Report> = Vec::new();
    let mut problems = Vec::new();
    for layout in layouts {
        let bar = progress(ask.episodes as usize);
        let mut measured = Measured::default();
        let mut scores = Vec::new();
        for i in 0..ask.episodes {
            let seed = ask.seed + u64::from(i);
            let mut ball = match arguments.task {
                Task::Single => Maze2D::reset(layout, seed),
                Task::Multi => Maze2D::reset_with_random_target(layout, seed),
            };
            let start = ball.observation().position;
            let problem = Problem::of_maze(layout, start, ball.target(), SHARE);
            let world = problem.world()?;
            let keep = recorder.is_some() && i < ask.record_episodes;
            let answer = asked.plan(&problem, &world, seed, keep)?;
            let free = world.free()?;
            let known = RrtConnect::default().plan(&free, &problem.start, &problem.goal, seed);
            measured.add(&answer, &free, known.is_ok(), seed)?;
            if let Some(recorder) = recorder.as_ref().filter(|_| keep) {
                recorder.problem(&problem, &free, &answer, i as usize)?;
            }
            // Without a plan the ball stays where it is, and that is its score.
            let total = follow(&mut ball, answer.plan.as_ref().ok())?;
            scores.push(layout.normalized_score(total));
            bar.set_message(format!("{} solved", measured.solved()));
            bar.inc(1);
            problems.push(problem);
        }
        bar.finish_and_clear();
        let mut report = measured.report(format!("{layout:?} maze"), ask, &asked);
        report.normalised_score = Some(Score {
            mean: statistics::mean(&scores),
            interval: statistics::bootstrap(&scores),
            reference: REFERENCE,
        });
        say!("{report}");
        reports.push(report);
    }
    if let Some(path) = &ask.json {
        write_json(path, &reports)?;
    }
    if let Some(path) = &ask.problems_out {
        write_json(path, &problems)?;
    }
    if let Some(recorder) = recorder {
        recorder.finish()?;
    }
    Ok(Verdict::Passed)
}

/// Follows a motion to its end and then stays there, until the published episode is over; the sum of rewards.
///
/// ```text
/// 100 u = m (a + k (q_plan − q) + d (v_plan − v)) + v_plan
/// ```
///
/// The plan's own acceleration does most of it: with the weak law of Diffuser's a ball at full speed would lag behind by
/// metres.
fn follow(ball: &mut Maze2D, plan: Option<&Trajectory>) -> Result<f64, Error> {
    let mut total = 0.0;
    for step in 0..ball.layout().episode_steps() {
        let seen = ball.observation();
        // The state at the end of the step is the one that this step's force brings about.
        let time = CONTROL_PERIOD * (step + 1) as f64;
        let state = plan.and_then(|it| it.sample(std::time::Duration::from_secs_f64(time)));
        let action = match state {
            None => [0.0; 2],
            Some(state) => [0, 1].map(|j: usize| {
                let [q, v, a] = [state.position[j], state.velocity[j], state.acceleration[j]];
                let push = a
                    + STIFFNESS * (q - seen.position[j] - CONTROL_PERIOD * seen.velocity[j])
                    + DAMPING * (v - CONTROL_PERIOD * a - seen.velocity[j]);
                (MASS * push + v) / GEAR
            }),
        };
        total += ball.step(action)?.reward;
    }
    Ok(total)
}
