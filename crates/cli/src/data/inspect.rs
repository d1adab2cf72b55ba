use std::path::PathBuf;

use clearway_planner::dataset::{Dataset, Info};
use serde::Serialize;

use crate::Verdict;
use crate::error::{Error, check_writable, write_json};
use crate::output::say;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A `LeRobotDataset` folder, v2.1 or v3.0
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Write the same as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    robot_type: Option<String>,
    fps: f64,
    frames: usize,
    episodes: usize,
    /// The shortest, the median, the longest: frames.
    lengths: [usize; 3],
    features: Vec<FeatureRow>,
}

#[derive(Serialize)]
struct FeatureRow {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    /// Of what is read: a vector of floating-point numbers.
    statistics: Option<StatisticsRow>,
}

#[derive(Serialize)]
struct StatisticsRow {
    min: Vec<f64>,
    max: Vec<f64>,
    mean: Vec<f64>,
    std: Vec<f64>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    check_writable(arguments.json.as_deref())?;
    let path = &arguments.folder;
    let unreadable = |error| Error::Dataset {
        path: path.clone(),
        error: Box::new(error),
    };
    let info = Info::open(path).map_err(unreadable)?;
    let is_vector = |name: &str| {
        let feature = &info.features[name];
        ["float32", "float64"].contains(&feature.dtype.as_str()) && feature.shape.len() == 1
    };
    let names: Vec<&str> = info.features.keys().map(String::as_str).collect();
    let read: Vec<&str> = names.into_iter().filter(|name| is_vector(name)).collect();
    let dataset = Dataset::open(path, &read).map_err(unreadable)?;
    let mut lengths: Vec<usize> = dataset
        .episodes()
        .iter()
        .map(ExactSizeIterator::len)
        .collect();
    lengths.sort_unstable();
    let features = info.features.iter().map(|(name, feature)| FeatureRow {
        name: name.clone(),
        dtype: feature.dtype.clone(),
        shape: feature.shape.clone(),
        statistics: dataset.statistics(name).map(|statistics| {
            let row = |name| statistics.get(name).unwrap_or_default().to_vec();
            StatisticsRow {
                min: row("min"),
                max: row("max"),
                mean: row("mean"),
                std: row("std"),
            }
        }),
    });
    let report = Report {
        version: info.version.word(),
        robot_type: info.robot_type.clone(),
        fps: info.fps,
        frames: dataset.len(),
        episodes: lengths.len(),
        lengths: [0, lengths.len() / 2, lengths.len() - 1].map(|at| lengths[at]),
        features: features.collect(),
    };
    print(&report);
    if let Some(path) = &arguments.json {
        write_json(path, &report)?;
    }
    Ok(Verdict::Passed)
}

fn print(report: &Report) {
    let robot = report.robot_type.as_deref().unwrap_or("unknown");
    say!(
        "LeRobotDataset {}, robot {robot}, {} frames a second",
        report.version,
        report.fps
    );
    let [shortest, median, longest] = report.lengths;
    say!(
        "  episodes     {}, of {shortest} to {longest} frames, median {median}; {} frames",
        report.episodes,
        report.frames
    );
    for feature in &report.features {
        let read = match (&feature.statistics, feature.dtype.as_str()) {
            (Some(_), _) => "",
            (None, "image" | "video") => ", not read: pictures are not supported yet",
            (None, _) => ", not read",
        };
        say!(
            "  {} {:?}, {}{read}",
            feature.name,
            feature.shape,
            feature.dtype
        );
        if let Some(statistics) = &feature.statistics {
            for (name, row) in [
                ("min", &statistics.min),
                ("max", &statistics.max),
                ("mean", &statistics.mean),
                ("std", &statistics.std),
            ] {
                let numbers: Vec<String> = row.iter().map(|x| format!("{x:.4}")).collect();
                say!("    {name:5} {}", numbers.join(" "));
            }
        }
    }
}
