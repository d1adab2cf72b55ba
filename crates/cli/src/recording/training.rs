//! A training run's curve as a rerun recording.

use clearway_viz::rerun::{RecordingStream, Scalars};
use clearway_viz::{self as viz, colour, timeline};

use super::open;
use crate::error::Error;

const APPLICATION: &str = "clearway_training";

/// A row of a curve.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    /// Steps that were made.
    pub(crate) step: u64,
    pub(crate) loss: f64,
    pub(crate) norm: f64,
    pub(crate) rate: f64,
    pub(crate) validation: Option<f64>,
}

/// A rerun recording of a run, which can be watched while it grows.
pub(crate) struct CurveRecorder(RecordingStream);

impl CurveRecorder {
    /// Opens a `.rrd` file, or connects to a viewer at a `rerun+http://` address.
    pub(crate) fn open(target: &str) -> Result<Self, Error> {
        let rec = open(target, APPLICATION, viz::training_blueprint())?;
        for (path, name, colour) in [
            ("training/loss/trained", "trained", colour::PLAN),
            ("training/loss/held_out", "held out", colour::COVERAGE),
            ("training/norm", "norm", colour::BLOCK),
            ("training/rate", "rate", colour::AGENT),
        ] {
            rec.log_static(path, &viz::series(name, colour))?;
        }
        Ok(Self(rec))
    }

    pub(crate) fn log(&self, point: &Point) -> Result<(), Error> {
        let Self(rec) = self;
        rec.set_time_sequence(
            timeline::STEP,
            i64::try_from(point.step).unwrap_or(i64::MAX),
        );
        let losses = [
            ("training/loss/trained", Some(point.loss)),
            ("training/loss/held_out", point.validation),
        ];
        for (path, loss) in losses {
            // rerun's axes are linear, and a loss falls by orders of magnitude.
            if let Some(loss) = loss.filter(|it| *it > 0.0) {
                rec.log(path, &Scalars::single(loss.log10()))?;
            }
        }
        rec.log("training/norm", &Scalars::single(point.norm))?;
        rec.log("training/rate", &Scalars::single(point.rate))?;
        Ok(())
    }
}
