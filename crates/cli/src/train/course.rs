//! The course of a run: steps until the end, with checkpoints, validations and a curve on the way.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::config;
use super::curve::Curve;
use super::run::{CLASSIFIER, MODEL, POLICY, PRIOR, Run};
use crate::Verdict;
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::output::say;

/// What a run's folder holds.
const CHECKPOINT: &str = "checkpoint.safetensors";
const CURVE: &str = "curve.csv";

/// The loss that is shown forgets a step's by so much with each step.
const SHOWN: f64 = 0.98;

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Steps,
    Time,
    Interrupted,
}

/// Where the checkpoint of a run is that goes on, or may begin.
pub(crate) fn checkpoint(run: &config::Run, resume: bool) -> Result<PathBuf, Error> {
    let output = &run.output;
    let checkpoint = output.join(CHECKPOINT);
    if resume && !checkpoint.is_file() {
        return Err(Error::NoCheckpoint(checkpoint));
    }
    // What a run writes takes the place of what is there.
    let kinds = [POLICY, MODEL, CLASSIFIER, PRIOR];
    let is_taken = checkpoint.exists() || kinds.iter().any(|it| output.join(it).exists());
    if !resume && is_taken {
        return Err(Error::RunExists(output.clone()));
    }
    Ok(checkpoint)
}

/// Makes the steps of a run, `total` of them with those that were made, and writes what comes of it.
pub(crate) fn follow(
    learner: &mut dyn Run,
    run: &config::Run,
    record: Option<&str>,
    total: u64,
) -> Result<Verdict, Error> {
    let output = &run.output;
    let checkpoint = output.join(CHECKPOINT);
    std::fs::create_dir_all(output).map_err(|error| Error::write(output, &error))?;
    let curve = Curve::open(&output.join(CURVE), learner.steps(), record)?;

    say!("{}", learner.words());
    let interrupt = Interrupt::listen()?;
    let (end, elapsed) = go(learner, run, total, curve, &checkpoint, &interrupt)?;
    learner.save(output, &checkpoint)?;
    let why = match end {
        End::Steps => "done",
        End::Time => "time is up",
        End::Interrupted => "interrupted",
    };
    say!(
        "{why} after {} steps, {:.0} s; the {} is in {}",
        learner.steps(),
        elapsed.as_secs_f64(),
        learner.kind(),
        output.join(learner.kind()).display()
    );
    if end != End::Steps {
        say!("go on with --resume");
    }
    Ok(Verdict::Passed)
}

/// Steps until the end.
fn go(
    learner: &mut dyn Run,
    run: &config::Run,
    total: u64,
    mut curve: Curve,
    checkpoint: &Path,
    interrupt: &Interrupt,
) -> Result<(End, Duration), Error> {
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
        if interrupt.came() {
            break End::Interrupted;
        }
        if most.is_some_and(|most| start.elapsed() >= most) {
            break End::Time;
        }
        let step = learner.step()?;
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
            curve.write(&step, sum / f64::from(summed), validation)?;
            (sum, summed) = (0.0, 0);
        }
        if !is_last {
            learner.keep(&run.output)?;
        }
        if made.is_multiple_of(run.save_every) && !is_last {
            learner.save(&run.output, checkpoint)?;
        }
    };
    bar.finish_and_clear();
    curve.finish()?;
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
