//! The course of a run: steps until the end, with checkpoints, validations and a curve on the way.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clearway_planner::dataset::Dataset;
use clearway_planner::train::{Distiller, Step, TrainError, Trainer};
use indicatif::{ProgressBar, ProgressStyle};

use super::config::Run;
use super::curve::Curve;
use crate::Verdict;
use crate::error::Error;
use crate::output::say;

/// What a run's folder holds.
const CHECKPOINT: &str = "checkpoint.safetensors";
const POLICY: &str = "policy";
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

/// A loop's body.
pub(crate) trait Learner {
    fn steps(&self) -> u64;
    fn step(&mut self) -> Result<Step, TrainError>;
    fn validate(&self, most: usize) -> Option<f64>;
    fn save(&self, path: &Path) -> Result<(), TrainError>;
    fn save_policy(&self, folder: &Path) -> Result<(), TrainError>;
    fn windows(&self) -> [usize; 2];
    fn dataset(&self) -> &Dataset;
    fn parameters(&self) -> usize;
}

macro_rules! learn {
    ($($learner:ty),*) => {$(
        impl Learner for $learner {
            fn steps(&self) -> u64 {
                self.steps()
            }

            fn step(&mut self) -> Result<Step, TrainError> {
                self.step()
            }

            fn validate(&self, most: usize) -> Option<f64> {
                self.validate(most)
            }

            fn save(&self, path: &Path) -> Result<(), TrainError> {
                self.save(path)
            }

            fn save_policy(&self, folder: &Path) -> Result<(), TrainError> {
                self.save_policy(folder)
            }

            fn windows(&self) -> [usize; 2] {
                self.windows()
            }

            fn dataset(&self) -> &Dataset {
                self.dataset()
            }

            fn parameters(&self) -> usize {
                self.network().parameters()
            }
        }
    )*};
}

learn!(Trainer, Distiller);

/// Where the checkpoint of a run is that goes on, or may begin.
pub(crate) fn checkpoint(run: &Run, resume: bool) -> Result<PathBuf, Error> {
    let output = &run.output;
    let checkpoint = output.join(CHECKPOINT);
    if resume && !checkpoint.is_file() {
        return Err(Error::NoCheckpoint(checkpoint));
    }
    // What a run writes takes the place of what is there.
    let is_taken = checkpoint.exists() || output.join(POLICY).exists();
    if !resume && is_taken {
        return Err(Error::RunExists(output.clone()));
    }
    Ok(checkpoint)
}

/// Makes the steps of a run, `total` of them with those that were made, and writes what comes of it.
pub(crate) fn follow(mut learner: impl Learner, run: &Run, total: u64) -> Result<Verdict, Error> {
    let output = &run.output;
    let checkpoint = output.join(CHECKPOINT);
    std::fs::create_dir_all(output).map_err(|error| Error::write(output, &error))?;
    let curve = output.join(CURVE);
    let curve =
        Curve::open(&curve, learner.steps()).map_err(|error| Error::write(&curve, &error))?;

    let [windows, held_out] = learner.windows();
    say!(
        "{} parameters, {windows} windows of {} episodes, {held_out} windows held out",
        learner.parameters(),
        learner.dataset().episodes().len()
    );
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

    let (end, elapsed) = go(&mut learner, run, total, curve, &checkpoint, &interrupted)?;
    save(&learner, output, &checkpoint).map_err(|error| Error::Train(Box::new(error)))?;
    let why = match end {
        End::Steps => "done",
        End::Time => "time is up",
        End::Interrupted => "interrupted",
    };
    say!(
        "{why} after {} steps, {:.0} s; the policy is in {}",
        learner.steps(),
        elapsed.as_secs_f64(),
        output.join(POLICY).display()
    );
    if end != End::Steps {
        say!("go on with --resume");
    }
    Ok(Verdict::Passed)
}

/// Steps until the end.
fn go(
    learner: &mut impl Learner,
    run: &Run,
    total: u64,
    mut curve: Curve,
    checkpoint: &Path,
    interrupted: &AtomicBool,
) -> Result<(End, Duration), Error> {
    let failed = |error| Error::Train(Box::new(error));
    let bar = progress(total, learner.steps());
    let start = Instant::now();
    let most = run
        .minutes
        .map(|minutes| Duration::from_secs_f64(60.0 * minutes));
    let mut shown: Option<f64> = None;
    let mut sum = 0.0;
    let mut summed = 0;
    let end = loop {
        if learner.steps() >= total {
            break End::Steps;
        }
        if interrupted.load(Ordering::Relaxed) {
            break End::Interrupted;
        }
        if most.is_some_and(|most| start.elapsed() >= most) {
            break End::Time;
        }
        let step = learner.step().map_err(failed)?;
        sum += step.loss;
        summed += 1;
        let loss = shown.map_or(step.loss, |it| SHOWN * it + (1.0 - SHOWN) * step.loss);
        shown = Some(loss);
        bar.set_message(format!("{loss:.5}"));
        bar.inc(1);
        let made = learner.steps();
        let is_last = made == total;
        let validation = if made.is_multiple_of(run.validate_every) || is_last {
            learner.validate(run.validation_windows)
        } else {
            None
        };
        if made.is_multiple_of(run.log_every) || is_last || validation.is_some() {
            let written = curve.write(&step, sum / f64::from(summed), validation);
            written.map_err(|error| Error::write(&run.output.join(CURVE), &error))?;
            (sum, summed) = (0.0, 0);
        }
        if made.is_multiple_of(run.save_every) && !is_last {
            save(learner, &run.output, checkpoint).map_err(failed)?;
        }
    };
    bar.finish_and_clear();
    curve
        .finish()
        .map_err(|error| Error::write(&run.output.join(CURVE), &error))?;
    Ok((end, start.elapsed()))
}

/// A policy without a checkpoint beside it is not of a run.
fn save(learner: &impl Learner, output: &Path, checkpoint: &Path) -> Result<(), TrainError> {
    learner.save(checkpoint)?;
    learner.save_policy(&output.join(POLICY))
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
