//! A run's losses, as a table.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use clearway_planner::train::Step;

const HEADER: &str = "step,loss,norm,rate,validation";

/// `curve.csv`: the mean loss since the row before, or since the run went on, and the norm of the gradient and the rate of
/// the row's own step.
#[derive(Debug)]
pub(super) struct Curve(BufWriter<File>);

impl Curve {
    /// A curve that goes on behind the step `made`; of a run that begins, an empty one.
    ///
    /// What was written behind the last checkpoint is written again, and so is left out.
    pub(super) fn open(path: &Path, made: u64) -> io::Result<Self> {
        let before = if made > 0 && path.exists() {
            std::fs::read_to_string(path)?
        } else {
            String::new()
        };
        let mut out = BufWriter::new(File::create(path)?);
        writeln!(out, "{HEADER}")?;
        for row in before.lines().skip(1) {
            // A row that was cut short is not one.
            let is_whole = row.split(',').count() == HEADER.split(',').count();
            let step = row.split(',').next().and_then(|step| step.parse().ok());
            if is_whole && step.is_some_and(|step: u64| step <= made) {
                writeln!(out, "{row}")?;
            }
        }
        out.flush()?;
        Ok(Self(out))
    }

    /// Adds a row; its number is how many steps were made.
    pub(super) fn write(
        &mut self,
        step: &Step,
        loss: f64,
        validation: Option<f64>,
    ) -> io::Result<()> {
        let Step {
            step, norm, rate, ..
        } = step;
        let validation = validation.map_or(String::new(), |loss| loss.to_string());
        let made = step + 1;
        writeln!(self.0, "{made},{loss},{norm},{rate},{validation}")?;
        // Who looks at it while it runs sees all.
        self.0.flush()
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.0.flush()
    }
}
