//! `clearway demo`: the shipped policy drives a few episodes.

use std::path::{Path, PathBuf};

use crate::closed_loop::{self, Settings};
use crate::error::Error;
use crate::output::say;
use crate::sim::{Recorder, Report, progress};
use crate::{Verdict, precision, sampling};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A folder written by LeRobot's `save_pretrained` [default: the repository's models/pusht]
    #[arg(long, value_name = "DIR")]
    policy: Option<PathBuf>,
    /// Episodes to run
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    episodes: u32,
    /// Seed of the first episode
    #[arg(long, value_name = "FIRST", default_value_t = 0)]
    seed: u64,
    /// Where to record the episodes: a .rrd file, or the rerun+http:// address of a viewer that runs [default:
    /// clearway-demo.rrd]
    #[arg(long, value_name = "FILE")]
    record: Option<String>,
    #[command(flatten)]
    precision: precision::Arguments,
}

/// Enough to see that a policy has more than one way.
const CANDIDATES: usize = 8;

const RECORDING: &str = "clearway-demo.rrd";

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    let policy = arguments.policy.clone().unwrap_or_else(shipped);
    let planner = sampling::Arguments::with_candidates(CANDIDATES, arguments.precision)
        .planner(&policy, closed_loop::period())?;
    let settings = Settings {
        episodes: arguments.episodes as usize,
        seed: arguments.seed,
        noise_seed: 0,
        batch: 1,
        noise: None,
        kept: arguments.episodes as usize,
    };
    closed_loop::check(&planner, &settings)?;
    // Recording is a part of the demo where it was built in; where it was not, asking for it is an error.
    let target = match &arguments.record {
        None if !cfg!(feature = "rerun") => None,
        None => Some(RECORDING),
        Some(target) => Some(target.as_str()),
    };
    let recorder = target.map(Recorder::open).transpose()?;
    say!(
        "PushT, driven by {} ({:.1} M parameters), {CANDIDATES} candidates a plan",
        policy.display(),
        planner.policy().parameters() as f64 / 1e6
    );
    let bar = progress(settings.episodes);
    let outcome = closed_loop::run(&planner, &settings, |episode| {
        bar.suspend(|| {
            let result = if episode.succeeded {
                "solved"
            } else {
                "not solved"
            };
            say!(
                "  seed {}: {result} after {:>4.1} s, {} plans, largest reward {:.3}",
                episode.seed,
                episode.steps() as f64 * clearway_sim::pusht::CONTROL_PERIOD,
                episode.replans.len(),
                episode.reward
            );
        });
        bar.inc(1);
    })?;
    bar.finish_and_clear();
    let report = Report::new(&outcome, &planner, &settings);
    say!("{report}");
    if let (Some(recorder), Some(target)) = (recorder, target) {
        recorder.write(&outcome.episodes)?;
        say!("recorded: {target} (pip install rerun-sdk==0.36.3, then: rerun {target})");
    }
    Ok(Verdict::Passed)
}

/// The policy in the repository: below the working directory, or where this binary was built.
fn shipped() -> PathBuf {
    let here = Path::new("models/pusht");
    if here.is_dir() {
        return here.to_owned();
    }
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(here)
}
