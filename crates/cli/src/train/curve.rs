//! A run's losses, as a table, and as a recording where one is asked for.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clearway_planner::train::Step;

use crate::error::Error;
#[cfg(feature = "rerun")]
use crate::recording::{CurveRecorder, Point};

const HEADER: &str = "step,loss,norm,rate,validation";

/// `curve.csv`: the mean loss since the row before, or since the run went on, and the norm of the gradient and the rate of
/// the row's own step.
pub(super) struct Curve {
    path: PathBuf,
    out: BufWriter<File>,
    #[cfg(feature = "rerun")]
    recorder: Option<CurveRecorder>,
}

impl Curve {
    /// A curve that goes on behind the step `made`; of a run that begins, an empty one. `record` is where it is recorded as
    /// well: a `.rrd` file, or the address of a viewer.
    ///
    /// What was written behind the last checkpoint is written again, and so is left out.
    pub(super) fn open(path: &Path, made: u64, record: Option<&str>) -> Result<Self, Error> {
        #[cfg(not(feature = "rerun"))]
        if record.is_some() {
            return Err(Error::Record);
        }
        let io = |error| Error::write(path, &error);
        let before = if made > 0 && path.exists() {
            std::fs::read_to_string(path).map_err(io)?
        } else {
            String::new()
        };
        #[cfg(feature = "rerun")]
        let recorder = record.map(CurveRecorder::open).transpose()?;
        let mut out = BufWriter::new(File::create(path).map_err(io)?);
        writeln!(out, "{HEADER}").map_err(io)?;
        for row in before.lines().skip(1) {
            // A row that was cut short is not one.
            let columns: Vec<&str> = row.split(',').collect();
            let is_whole = columns.len() == HEADER.split(',').count();
            let step = columns[0].parse::<u64>().ok().filter(|step| *step <= made);
            let Some(step) = step.filter(|_| is_whole) else {
                continue;
            };
            writeln!(out, "{row}").map_err(io)?;
            #[cfg(feature = "rerun")]
            if let Some(recorder) = &recorder {
                let number = |i: usize| columns[i].parse().unwrap_or(f64::NAN);
                recorder.log(&Point {
                    step,
                    loss: number(1),
                    norm: number(2),
                    rate: number(3),
                    validation: columns[4].parse().ok(),
                })?;
            }
            #[cfg(not(feature = "rerun"))]
            let _ = step;
        }
        out.flush().map_err(io)?;
        Ok(Self {
            path: path.to_owned(),
            out,
            #[cfg(feature = "rerun")]
            recorder,
        })
    }

    /// Adds a row; its number is how many steps were made.
    pub(super) fn write(
        &mut self,
        step: &Step,
        loss: f64,
        validation: Option<f64>,
    ) -> Result<(), Error> {
        let Step {
            step, norm, rate, ..
        } = *step;
        let made = step + 1;
        let shown = validation.map_or(String::new(), |loss| loss.to_string());
        writeln!(self.out, "{made},{loss},{norm},{rate},{shown}")
            // Who looks at it while it runs sees all.
            .and_then(|()| self.out.flush())
            .map_err(|error| Error::write(&self.path, &error))?;
        #[cfg(feature = "rerun")]
        if let Some(recorder) = &self.recorder {
            recorder.log(&Point {
                step: made,
                loss,
                norm,
                rate,
                validation,
            })?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<(), Error> {
        self.out
            .flush()
            .map_err(|error| Error::write(&self.path, &error))
    }
}
