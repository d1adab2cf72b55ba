//! Ways that are planned, as a rerun recording.

use std::cell::Cell;

use clearway_motion::{Blocked, FreeSpace, Path};
use clearway_viz::rerun::{RecordingStream, TextDocument};
use clearway_viz::{self as viz, colour, timeline};

use super::open;
use crate::error::Error;
use crate::plan::{Answer, Problem, Shape};

const APPLICATION: &str = "clearway_paths";

/// A recording of plans, one after the other.
pub(crate) struct PathRecorder {
    rec: RecordingStream,
    /// Passes since the beginning.
    pass: Cell<i64>,
}

impl PathRecorder {
    /// Opens a `.rrd` file, or connects to a viewer at a `rerun+http://` address.
    pub(crate) fn open(target: &str) -> Result<Self, Error> {
        Ok(Self {
            rec: open(target, APPLICATION, viz::paths_blueprint())?,
            pass: Cell::new(0),
        })
    }

    /// Logs a problem, the passes of its candidates, and what came of them.
    pub(crate) fn problem(
        &self,
        problem: &Problem,
        free: &FreeSpace,
        answer: &Answer,
        index: usize,
    ) -> Result<(), Error> {
        let rec = &self.rec;
        rec.set_time_sequence(timeline::STEP, i64::try_from(index).unwrap_or(i64::MAX));
        rec.set_time_sequence(timeline::DENOISING, self.pass.get());
        rec.log("plan/candidates", &viz::ways(&[], colour::CANDIDATE))?;
        rec.log("plan/motion", &viz::ways(&[], colour::PLAN))?;
        rec.log("plan/violations", &viz::violations(&[]))?;
        self.world(problem)?;
        let passes = answer.passes.len().max(1);
        for (i, rows) in answer.passes.iter().enumerate() {
            rec.set_time_sequence(timeline::DENOISING, self.pass.get());
            let paths: Vec<Path> = rows
                .iter()
                .filter_map(|it| Path::new(it.clone()).ok())
                .collect();
            let share = (i + 1) as f64 / passes as f64;
            let shown = viz::ways(&paths, colour::denoising(share));
            rec.log("denoising/candidates", &shown)?;
            self.pass.set(self.pass.get() + 1);
        }
        rec.set_time_sequence(timeline::DENOISING, self.pass.get());
        let found: Vec<Option<Blocked>> = answer
            .samples
            .iter()
            .map(|it| free.check_path(it).err())
            .collect();
        let blocked: Vec<bool> = found.iter().map(Option::is_some).collect();
        let places: Vec<[f64; 2]> = found
            .iter()
            .filter_map(|it| match it {
                Some(Blocked::Obstacle { position, .. }) => Some([position[0], position[1]]),
                _ => None,
            })
            .collect();
        let judged = viz::judged(&answer.samples, &blocked, answer.chosen);
        rec.log("plan/candidates", &judged)?;
        rec.log("plan/violations", &viz::violations(&places))?;
        let said = match &answer.plan {
            Ok(motion) => {
                rec.log("plan/motion", &viz::path(motion, colour::PLAN))?;
                let outcome = answer.outcome.as_ref().map(ToString::to_string);
                format!(
                    "{}: {:.2} s along {} waypoints; {} of {} candidates are blocked",
                    outcome.unwrap_or_else(|| "planned".into()),
                    motion.duration().as_secs_f64(),
                    motion.len(),
                    places.len(),
                    answer.samples.len()
                )
            }
            Err(reason) => format!("no plan: {reason}"),
        };
        rec.log("decision", &TextDocument::new(said))?;
        self.pass.set(self.pass.get() + 1);
        Ok(())
    }

    fn world(&self, problem: &Problem) -> Result<(), Error> {
        let mut discs = Vec::new();
        let mut boxes: Vec<Vec<[f64; 2]>> = Vec::new();
        let mut rectangle = |center: [f64; 2], edges: [f64; 2], angle: f64| {
            let (sin, cos) = angle.sin_cos();
            let corner = |[u, v]: [f64; 2]| {
                let [x, y] = [u * edges[0] / 2.0, v * edges[1] / 2.0];
                [center[0] + cos * x - sin * y, center[1] + sin * x + cos * y]
            };
            let corners = [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]];
            boxes.push(corners.map(corner).to_vec());
        };
        for shape in &problem.obstacles {
            match shape {
                Shape::Disc { center, radius } => discs.push((*center, *radius)),
                Shape::Box {
                    center,
                    edges,
                    angle,
                    ..
                } => rectangle(*center, *edges, *angle),
                Shape::Cells {
                    origin,
                    cell,
                    columns,
                    occupied,
                } => {
                    for (i, _) in occupied.iter().enumerate().filter(|(_, it)| **it) {
                        let [x, y] = [(i % columns) as f64, (i / columns) as f64];
                        let place = |at: f64, axis: usize| origin[axis] + (at + 0.5) * cell;
                        rectangle([place(x, 0), place(y, 1)], [*cell; 2], 0.0);
                    }
                }
            }
        }
        let rec = &self.rec;
        rec.log("world/discs", &viz::discs(&discs))?;
        rec.log("world/boxes", &viz::polygons(&boxes, colour::BLOCK))?;
        let at = |q: &[f64]| [q[0], q[1]];
        let robot = viz::agent(at(&problem.start), problem.radius);
        rec.log("world/start", &robot)?;
        let target = viz::agent(at(&problem.goal), problem.radius);
        rec.log("world/goal", &target.with_colors([colour::COVERAGE]))?;
        Ok(())
    }

    /// Completes the recording.
    pub(crate) fn finish(self) -> Result<(), Error> {
        let flushed = self.rec.flush_blocking();
        flushed.map_err(|error| Error::write("the recording".as_ref(), &error))
    }
}
