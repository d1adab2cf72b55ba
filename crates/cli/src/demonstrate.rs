//! `clearway sim demonstrate`: an expert's episodes as a dataset; who interrupts it has those that have ended.

use std::path::PathBuf;

use clearway_planner::dataset::{RecordError, RecordedFeature, Recorder};
use clearway_sim::pusht;

use crate::closed_loop::{self, Episode, Settings, looking_ahead};
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::output::say;
use crate::sim::progress;
use crate::{Verdict, sampling, statistics};

/// The task, in the words of LeRobot's dataset.
const TASK: &str = "Push the T-shaped block onto the T-shaped target.";

/// The arguments of `clearway sim demonstrate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A folder written by LeRobot's `save_pretrained`: the policy whose plans are tried
    #[arg(long, value_name = "DIR")]
    policy: PathBuf,
    /// Where the dataset is written, in LeRobot's format; nothing may lie there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Episodes to run; those that succeed are written
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    episodes: u32,
    /// Seed of the first episode; episode i is gym-pusht's reset with this plus i
    #[arg(long, value_name = "FIRST", default_value_t = 1_000_000)]
    seed: u64,
    /// Seed of the plans' noise
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    noise_seed: u64,
    /// Where `--candidates` is one, the policy is left to itself, and learns from its own successes
    #[command(flatten)]
    sampling: sampling::Arguments,
    /// Episodes that share network passes
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    // Before the episodes run, whose result would have no place.
    if arguments.out.exists() {
        return Err(Error::write(&arguments.out, &"something is there already"));
    }
    let planner = arguments
        .sampling
        .planner(&arguments.policy, closed_loop::period())?;
    // Plans are tried to their end, though no more of them is executed than of any.
    let most = planner.most_actions();
    let planner = planner
        .with_actions(most)
        .map_err(|error| Error::policy(&arguments.policy, error))?;
    let settings = Settings {
        episodes: arguments.episodes as usize,
        seed: arguments.seed,
        noise_seed: arguments.noise_seed,
        batch: arguments.batch as usize,
        noise: None,
        kept: 0,
    };
    closed_loop::check(&planner, &settings)?;
    let bar = progress(settings.episodes);
    let interrupt = Interrupt::listen()?;
    let mut solved: Vec<(usize, Episode)> = Vec::new();
    let mut ended = 0;
    let keep = |index: usize, episode: Episode| {
        tracing::info!(index, succeeded = episode.succeeded, "an episode ended");
        if episode.succeeded {
            solved.push((index, episode));
        }
        ended += 1;
        bar.set_message(format!("{} succeeded", solved.len()));
        bar.inc(1);
    };
    looking_ahead::run(&planner, &settings, keep, || interrupt.came())?;
    bar.finish_and_clear();
    if ended < settings.episodes {
        // Short episodes end first: of what was begun, more succeed than would of all.
        say!(
            "interrupted after {ended} of {} episodes; what was done is written",
            settings.episodes
        );
    }
    solved.sort_by_key(|(index, _)| *index);
    let recorder = recorded(solved.iter().map(|(_, episode)| episode))
        .map_err(|error| Error::write(&arguments.out, &error))?;
    let [low, high] = statistics::wilson(solved.len(), ended.max(1));
    say!(
        "{} of {} episodes succeeded, {:.3} [{low:.3}, {high:.3}] (95 %, Wilson), in {:.0} actions on average",
        solved.len(),
        ended,
        solved.len() as f64 / ended.max(1) as f64,
        recorder.frames() as f64 / solved.len().max(1) as f64
    );
    recorder
        .write(&arguments.out)
        .map_err(|error| Error::write(&arguments.out, &error))?;
    say!(
        "{} frames in {}",
        recorder.frames(),
        arguments.out.display()
    );
    Ok(Verdict::Passed)
}

/// Episodes in the features of LeRobot's `pusht_keypoints`: what was seen before each action, and the action.
fn recorded<'a>(episodes: impl Iterator<Item = &'a Episode>) -> Result<Recorder, RecordError> {
    let feature = |name: &str, values: Vec<String>| RecordedFeature {
        name: name.to_owned(),
        values,
    };
    let axes = |of: &str| ["x", "y"].map(|axis| format!("{of}_{axis}")).to_vec();
    let corners = (0..8)
        .flat_map(|i| axes(&format!("keypoint_{i}")))
        .collect();
    let features = [
        feature("observation.state", axes("agent")),
        feature("observation.environment_state", corners),
        feature("action", axes("target")),
    ];
    let fps = 1.0 / pusht::CONTROL_PERIOD;
    let mut recorder = Recorder::new(fps, "2d pointer", TASK, features);
    for episode in episodes {
        for (seen, action) in episode.observations.iter().zip(&episode.actions) {
            recorder.push(&[&seen.agent, &seen.key_points, action])?;
        }
        recorder.end_episode();
    }
    Ok(recorder)
}
