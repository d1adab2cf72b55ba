//! `clearway train`: a policy from demonstrations, or a network of pictures from pictures.

mod config;
mod curve;
mod run;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::Verdict;
use crate::error::Error;
use crate::output::say;
use config::Config;
use curve::Curve;
use run::Run;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What to train, on what, how and for how long
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// The dataset, in place of the one that the file names
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where the run is written, in place of what the file says
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Go on with the run in the output folder
    #[arg(long)]
    resume: bool,
}

/// What a run's folder holds.
const CHECKPOINT: &str = "checkpoint.safetensors";
const CURVE: &str = "curve.csv";

/// The loss that is shown forgets a step's by so much with each step.
const SHOWN: f64 = 0.98;

/// A second interrupt is one only after this.
const AGAIN: Duration = Duration::from_millis(500);

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Steps,
    Time,
    Interrupted,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    let mut config = Config::read(&arguments.config)?;
    if let Some(data) = &arguments.data {
        config.data.folder.clone_from(data);
    }
    if let Some(output) = &arguments.output {
        config.run.output.clone_from(output);
    }
    let output = &config.run.output;
    let checkpoint = output.join(CHECKPOINT);
    if arguments.resume && !checkpoint.is_file() {
        return Err(Error::NoCheckpoint(checkpoint));
    }
    // What a run writes takes the place of what is there.
    let kinds = [run::POLICY, run::MODEL, run::CLASSIFIER];
    let is_taken = checkpoint.exists() || kinds.iter().any(|it| output.join(it).exists());
    if !arguments.resume && is_taken {
        return Err(Error::RunExists(output.clone()));
    }
    let resumed = arguments.resume.then_some(checkpoint.as_path());
    let mut trainer = run::begin(&config, resumed)?;
    let trainer = &mut *trainer;
    std::fs::create_dir_all(output).map_err(|error| Error::write(output, &error))?;
    let curve = output.join(CURVE);
    let curve =
        Curve::open(&curve, trainer.steps()).map_err(|error| Error::write(&curve, &error))?;

    say!("{}", trainer.words());
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    let mut asked: Option<Instant> = None;
    ctrlc::set_handler(move || {
        flag.store(true, Ordering::Relaxed);
        // Who asks again does not want to wait for the step; one request may come as two signals.
        if asked.get_or_insert_with(Instant::now).elapsed() > AGAIN {
            std::process::exit(130);
        }
    })
    .map_err(|error| Error::Threads(error.to_string()))?;

    let (end, elapsed) = go(trainer, &config, curve, &checkpoint, &interrupted)?;
    trainer.save(output, &checkpoint)?;
    let why = match end {
        End::Steps => "done",
        End::Time => "time is up",
        End::Interrupted => "interrupted",
    };
    say!(
        "{why} after {} steps, {:.0} s; the {} is in {}",
        trainer.steps(),
        elapsed.as_secs_f64(),
        trainer.kind(),
        output.join(trainer.kind()).display()
    );
    if end != End::Steps {
        say!("go on with --resume");
    }
    Ok(Verdict::Passed)
}

/// Steps until the end, with checkpoints, validations and a curve on the way.
fn go(
    trainer: &mut dyn Run,
    config: &Config,
    mut curve: Curve,
    checkpoint: &Path,
    interrupted: &AtomicBool,
) -> Result<(End, Duration), Error> {
    let run = &config.run;
    let total = config.optimizer.steps;
    let bar = progress(total, trainer.steps());
    let start = Instant::now();
    let most = run
        .minutes
        .map(|minutes| Duration::from_secs_f64(60.0 * minutes));
    let mut shown: Option<f64> = None;
    let mut sum = 0.0;
    let mut summed = 0;
    let end = loop {
        if trainer.steps() >= total {
            break End::Steps;
        }
        if interrupted.load(Ordering::Relaxed) {
            break End::Interrupted;
        }
        if most.is_some_and(|most| start.elapsed() >= most) {
            break End::Time;
        }
        let step = trainer.step()?;
        sum += step.loss;
        summed += 1;
        let loss = shown.map_or(step.loss, |it| SHOWN * it + (1.0 - SHOWN) * step.loss);
        shown = Some(loss);
        bar.set_message(format!("{loss:.5}"));
        bar.inc(1);
        let made = trainer.steps();
        let is_last = made == total;
        let validation = if made.is_multiple_of(run.validate_every) || is_last {
            trainer.validate(run.validation_windows)
        } else {
            None
        };
        if made.is_multiple_of(run.log_every) || is_last || validation.is_some() {
            let written = curve.write(&step, sum / f64::from(summed), validation);
            written.map_err(|error| Error::write(&run.output.join(CURVE), &error))?;
            (sum, summed) = (0.0, 0);
        }
        if made.is_multiple_of(run.save_every) && !is_last {
            trainer.save(&run.output, checkpoint)?;
        }
    };
    bar.finish_and_clear();
    curve
        .finish()
        .map_err(|error| Error::write(&run.output.join(CURVE), &error))?;
    Ok((end, start.elapsed()))
}

/// Loss, steps a second and time left, on a terminal; nothing where the output is piped.
fn progress(total: u64, made: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{bar:30} {pos}/{len}  loss {msg}  {per_sec}  {eta_precise} left",
    );
    let bar = ProgressBar::new(total);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_position(made);
    bar.reset_eta();
    bar
}
