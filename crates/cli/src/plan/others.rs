//! Paths that another planner found, to be judged as one's own are.

use std::path::Path as FilePath;

use clearway_motion::Path;
use ndarray::Array2;
use serde::Deserialize;

use super::problem::Problem;
use crate::error::Error;

/// A file of `--paths`: as many answers as there are problems, in their order.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Others {
    /// What found them.
    pub(super) planner: String,
    pub(super) answers: Vec<OthersAnswer>,
}

/// What another planner says of a problem, run by run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OthersAnswer {
    /// Waypoints, or nothing where a run found no path.
    paths: Vec<Option<Vec<Vec<f64>>>>,
    /// What each run took.
    pub(super) milliseconds: Vec<f64>,
}

impl Others {
    /// Reads a file that answers such problems.
    pub(super) fn read(file: &FilePath, problems: &[Problem]) -> Result<Self, Error> {
        let text = std::fs::read_to_string(file).map_err(|error| Error::read(file, &error))?;
        let read: Self = serde_json::from_str(&text).map_err(|error| Error::read(file, &error))?;
        let wrong = |reason: String| Err(Error::read(file, &reason));
        let (answers, expected) = (read.answers.len(), problems.len());
        if answers != expected {
            return wrong(format!("{answers} answers to {expected} problems"));
        }
        for (i, (answer, problem)) in read.answers.iter().zip(problems).enumerate() {
            let (runs, times) = (answer.paths.len(), answer.milliseconds.len());
            if runs == 0 || runs != times {
                return wrong(format!("problem {i} has {runs} runs and {times} times"));
            }
            for (j, rows) in answer.paths.iter().enumerate() {
                let Some(rows) = rows else { continue };
                let ends = [rows.first(), rows.last()];
                let is_asked = ends == [Some(&problem.start), Some(&problem.goal)];
                let even = rows.iter().all(|row| row.len() == problem.start.len());
                if !(is_asked && even && rows.len() >= 2) {
                    return wrong(format!(
                        "path {j} of problem {i} does not go from its start to its goal"
                    ));
                }
            }
        }
        Ok(read)
    }
}

impl OthersAnswer {
    /// The paths, a run each.
    pub(super) fn paths(&self) -> Result<Vec<Option<Path>>, Error> {
        let path = |rows: &Vec<Vec<f64>>| {
            let dof = rows.first().map_or(0, Vec::len);
            let waypoints = Array2::from_shape_fn((rows.len(), dof), |(i, j)| rows[i][j]);
            Ok(Path::new(waypoints)?)
        };
        let paths = self.paths.iter();
        paths.map(|it| it.as_ref().map(path).transpose()).collect()
    }
}
