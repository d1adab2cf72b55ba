use std::path::PathBuf;

use clearway_planner::dataset::{Dataset, Info};
use clearway_stable_diffusion::dataset::{DatasetError, Pictures, Split};
use serde::Serialize;

use crate::Verdict;
use crate::error::{Error, check_writable, write_json};
use crate::output::say;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A `LeRobotDataset` folder, v2.1 or v3.0; a folder of IDX files, as Fashion-MNIST's; or a folder of pictures with
    /// captions
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
    if Pictures::are_in(path) {
        return pictures(arguments);
    }
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

#[derive(Serialize)]
struct PicturesReport {
    splits: Vec<SplitRow>,
}

#[derive(Serialize)]
struct SplitRow {
    split: &'static str,
    pictures: usize,
    height: usize,
    width: usize,
    channels: usize,
    /// Of values from -1 for black to 1 for white.
    mean: f64,
    std: f64,
    classes: Vec<ClassRow>,
    hash: String,
}

#[derive(Serialize)]
struct ClassRow {
    name: String,
    pictures: usize,
}

/// The classes that are printed; the report has all.
const SHOWN: usize = 20;

fn pictures(arguments: &Arguments) -> Result<Verdict, Error> {
    let mut splits = Vec::new();
    for (name, split) in [("train", Split::Train), ("test", Split::Test)] {
        let pictures = match Pictures::open(&arguments.folder, split) {
            Ok(pictures) => pictures,
            Err(DatasetError::NoTest { .. }) => continue,
            Err(error) => return Err(Error::Pictures(Box::new(error))),
        };
        let mut counts = vec![0; pictures.names().len()];
        for &label in pictures.labels() {
            counts[label] += 1;
        }
        let classes = pictures.names().iter().zip(counts);
        let ([height, width], [mean, std]) = (pictures.size(), pictures.moments());
        let row = SplitRow {
            split: name,
            pictures: pictures.len(),
            height,
            width,
            channels: pictures.channels(),
            mean,
            std,
            classes: classes
                .map(|(name, pictures)| ClassRow {
                    name: name.clone(),
                    pictures,
                })
                .collect(),
            hash: pictures.hash(),
        };
        say!(
            "{name}: {} pictures of {width} × {height} pixels, {} channels, mean {mean:.4}, deviation {std:.4}",
            row.pictures,
            row.channels
        );
        for class in row.classes.iter().take(SHOWN) {
            say!("  {:6} {}", class.pictures, class.name);
        }
        if row.classes.len() > SHOWN {
            say!("  and {} classes more", row.classes.len() - SHOWN);
        }
        splits.push(row);
    }
    if let Some(path) = &arguments.json {
        write_json(path, &PicturesReport { splits })?;
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
