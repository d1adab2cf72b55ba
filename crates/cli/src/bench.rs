//! `clearway bench`: how fast networks run on this machine, beside what it can do.

mod image;
mod machine;
mod policy;

use std::path::Path;
use std::time::{Duration, Instant};

use clearway_layers::Work;
use serde::Serialize;

use crate::Verdict;
use crate::error::Error;
use crate::output::say;
use crate::precision::Precision;
use machine::Machine;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// A policy's network pass and whole plan
    Policy(policy::Arguments),
    /// Text encoding, a U-Net pass and decoding, of one picture
    Image(image::Arguments),
}

pub(crate) fn run(command: &Command) -> Result<Verdict, Error> {
    match command {
        Command::Policy(arguments) => policy::run(arguments),
        Command::Image(arguments) => image::run(arguments),
    }
}

/// The middle of what was measured, and its ends.
#[derive(Clone, Copy, Debug, Serialize)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        let at = |share| crate::statistics::percentile(values, share);
        Self {
            median: at(0.5),
            min: at(0.0),
            max: at(1.0),
        }
    }

    fn say(self) -> String {
        let Self { median, min, max } = self;
        format!("{:>9} [{}, {}]", digits(median), digits(min), digits(max))
    }
}

/// Three digits, and no fewer than there are before the point.
fn digits(value: f64) -> String {
    let whole = value.abs().log10().floor().max(-3.0);
    format!("{value:.*}", (2.0 - whole).max(0.0) as usize)
}

/// The fewest milliseconds in which a pass can be done by this machine.
#[derive(Clone, Copy, Debug, Serialize)]
struct Floor {
    /// Reading each weight once, from where as many bytes lie that are read over and over: a cache, where they fit.
    weights_ms: f64,
    /// Its products, by all arithmetic units at once.
    arithmetic_ms: f64,
}

/// A network that was measured.
#[derive(Clone, Debug, Serialize)]
struct Figures {
    parameters: usize,
    multiply_adds: u64,
    weight_bytes: u64,
    pass_ms: Spread,
    gflop_s: f64,
    gb_s: f64,
    floor_ms: Floor,
    /// What the process had at most until the pass was done, loading and packing included; none where the system does
    /// not say.
    peak_memory_mb: Option<u64>,
}

impl Figures {
    fn new(
        parameters: usize,
        work: Work,
        storage: Precision,
        pass_ms: &[f64],
        weights_ms: &[f64],
        machine: &Machine,
    ) -> Self {
        let pass_ms = Spread::of(pass_ms);
        let (operations, bytes) = (2 * work.multiply_adds, work.weights * storage.bytes());
        Self {
            parameters,
            multiply_adds: work.multiply_adds,
            weight_bytes: bytes,
            pass_ms,
            gflop_s: operations as f64 / pass_ms.median / 1e6,
            gb_s: bytes as f64 / pass_ms.median / 1e6,
            floor_ms: Floor {
                weights_ms: Spread::of(weights_ms).median,
                arithmetic_ms: operations as f64 / machine.report().arithmetic_gflop_s.median / 1e6,
            },
            peak_memory_mb: None,
        }
    }

    fn say(&self, name: &str) {
        let Floor {
            weights_ms,
            arithmetic_ms,
        } = self.floor_ms;
        let floor = weights_ms.max(arithmetic_ms);
        say!(
            "{name:14} {} ms   {:.2} times the floor: weights {} ms, arithmetic {} ms",
            self.pass_ms.say(),
            self.pass_ms.median / floor,
            digits(weights_ms),
            digits(arithmetic_ms)
        );
        say!(
            "{:14} {} M parameters, {} GMAC, {} GFLOP/s, {} GB/s of weights{}",
            "",
            digits(self.parameters as f64 / 1e6),
            digits(self.multiply_adds as f64 / 1e9),
            digits(self.gflop_s),
            digits(self.gb_s),
            self.peak_memory_mb
                .map_or_else(String::new, |mb| format!(", at most {mb} MB of memory"))
        );
    }
}

/// How long each quantity is measured in a round; at least once.
const SLICE: Duration = Duration::from_millis(250);

/// Adds the milliseconds of each call that fits into a slice.
fn measure(
    milliseconds: &mut Vec<f64>,
    mut call: impl FnMut() -> Result<(), Error>,
) -> Result<(), Error> {
    let slice = Instant::now();
    loop {
        let begun = Instant::now();
        call()?;
        milliseconds.push(begun.elapsed().as_secs_f64() * 1e3);
        if slice.elapsed() > SLICE {
            return Ok(());
        }
    }
}

/// Forgets the most memory that this process had, so that the next part has its own; not every system can.
fn reset_peak_memory() {
    // 5 resets it, see proc(5). Where it does not, what is printed is that of all parts until then.
    let _ = std::fs::write(Path::new("/proc/self/clear_refs"), "5");
}
