use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clearway_planner::{Budget, History, Image, Observation, Problem};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, check_writable, spinner, write_json};
use crate::output::say;
use crate::{Verdict, precision, sampling};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A folder written by LeRobot's `save_pretrained`
    #[arg(long, value_name = "DIR")]
    policy: PathBuf,
    /// A JSON list, the newest last: `[{"time": 0.0, "observation.state": [222, 97], ...}]`, in seconds; an image is the
    /// path of a PNG file, relative to this one, or rows of pixels `[[[255, 0, 0], ...], ...]` in bytes
    #[arg(long, value_name = "FILE")]
    observations: PathBuf,
    /// Seed of the noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Seconds between two actions
    #[arg(long, value_name = "SECONDS", default_value_t = 0.1)]
    period: f64,
    #[command(flatten)]
    sampling: sampling::Arguments,
    /// Write the plan
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One observation of the file.
#[derive(Deserialize)]
struct Entry {
    /// Seconds since a start that the caller chooses.
    time: f64,
    #[serde(flatten)]
    features: BTreeMap<String, Value>,
}

#[derive(Serialize)]
struct Report {
    action: String,
    times: Vec<f64>,
    actions: Vec<Vec<f64>>,
    outcome: String,
    solver: &'static str,
    steps: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<usize>,
    precision: String,
    level: Option<String>,
    seed: u64,
    latency_ms: f64,
    model: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    check_writable(arguments.json.as_deref())?;
    let history = read(&arguments.observations)?;
    let period = Duration::try_from_secs_f64(arguments.period)
        .ok()
        .filter(|period| !period.is_zero())
        .ok_or_else(|| Error::Argument {
            argument: "--period",
            reason: format!(
                "must be a time above zero in seconds, found {}",
                arguments.period
            ),
        })?;
    let planner = arguments.sampling.planner(&arguments.policy, period)?;
    let bar = spinner("planning");
    let plan = planner.plan(&Problem::new(&history), Budget::default(), arguments.seed);
    bar.finish_and_clear();
    let plan = plan?;
    let (precision, level) = precision::of(planner.policy());
    let report = Report {
        action: planner.policy().config().action.name.clone(),
        times: plan
            .trajectory
            .times()
            .iter()
            .map(Duration::as_secs_f64)
            .collect(),
        actions: plan
            .trajectory
            .positions()
            .rows()
            .into_iter()
            .map(|row| row.to_vec())
            .collect(),
        outcome: plan.outcome.to_string(),
        solver: planner.sampling().method.name(),
        steps: planner.sampling().steps,
        offset: planner.sampling().offset,
        precision,
        level,
        seed: plan.seed,
        latency_ms: plan.elapsed.as_secs_f64() * 1e3,
        model: plan.model.to_string(),
    };
    say!("{:>10}  {}", "time [s]", report.action);
    for (time, action) in report.times.iter().zip(&report.actions) {
        let numbers: Vec<String> = action
            .iter()
            .map(|value| format!("{value:>12.6}"))
            .collect();
        say!("{time:>10.3}  {}", numbers.join(" "));
    }
    say!(
        "{}, {} in {} steps, {}, seed {}, {:.1} ms",
        report.outcome,
        report.solver,
        report.steps,
        precision::words(&planner),
        report.seed,
        report.latency_ms
    );
    if let Some(path) = &arguments.json {
        write_json(path, &report)?;
    }
    Ok(Verdict::Passed)
}

fn read(path: &Path) -> Result<History, Error> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::read(path, &error))?;
    let entries: Vec<Entry> =
        serde_json::from_str(&text).map_err(|error| Error::read(path, &error))?;
    let mut history = History::default();
    for Entry { time, features } in entries {
        let time = Duration::try_from_secs_f64(time).map_err(|error| {
            Error::read(
                path,
                &format!("`time` must be in seconds, found {time:e}: {error}"),
            )
        })?;
        let mut observation = Observation::new(time);
        for (name, value) in features {
            let wrong = |reason: String| Error::read(path, &format!("`{name}` {reason}"));
            observation = match &value {
                Value::String(file) => {
                    let beside = path.parent().unwrap_or(Path::new(""));
                    observation.with_image(&name, picture(&beside.join(file))?)
                }
                Value::Array(rows) if rows.first().is_some_and(Value::is_array) => {
                    observation.with_image(&name, pixels(&value).map_err(wrong)?)
                }
                _ => {
                    let values = Vec::<f64>::deserialize(&value).map_err(|error| {
                        wrong(format!(
                            "is neither a list of numbers nor an image: {error}"
                        ))
                    })?;
                    observation.with(&name, values)
                }
            };
        }
        history
            .push(observation)
            .map_err(|error| Error::read(path, &error))?;
    }
    if history.newest().is_none() {
        return Err(Error::read(path, &"it holds no observation"));
    }
    Ok(history)
}

/// The widest and the highest PNG file that is read: those of 4K video and some more.
const MAX_SIDE: u32 = 1 << 12;

/// Reads a PNG file as red, green and blue; what is transparent keeps its colour.
fn picture(path: &Path) -> Result<Image, Error> {
    let wrong = |error: &dyn std::fmt::Display| Error::read(path, &error.to_string());
    let mut reader = image::ImageReader::open(path).map_err(|error| wrong(&error))?;
    reader.set_format(image::ImageFormat::Png);
    let mut limits = image::Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    reader.limits(limits);
    let picture = reader.decode().map_err(|error| wrong(&error))?.into_rgb8();
    let (width, height) = picture.dimensions();
    Image::from_rgb8(height as usize, width as usize, picture.into_raw())
        .map_err(|error| wrong(&error))
}

/// Rows of pixels of three bytes.
fn pixels(value: &Value) -> Result<Image, String> {
    let rows = Vec::<Vec<[u8; 3]>>::deserialize(value)
        .map_err(|error| format!("is not an image of rows of pixels of three bytes: {error}"))?;
    let width = rows.first().map_or(0, Vec::len);
    if let Some(row) = rows.iter().position(|row| row.len() != width) {
        let found = rows[row].len();
        return Err(format!(
            "is not an image: row {row} has {found} pixels where the first has {width}"
        ));
    }
    let bytes: Vec<u8> = rows.iter().flatten().flatten().copied().collect();
    Image::from_rgb8(rows.len(), width, bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rows of three pixels.
    const BYTES: [u8; 18] = [
        0, 1, 2, 3, 4, 5, 6, 7, 8, 100, 101, 102, 200, 201, 202, 253, 254, 255,
    ];

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("clearway-plan-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("can be made");
        folder.join(name)
    }

    fn read_text(name: &str, text: &str) -> Result<History, Error> {
        let path = scratch(name);
        std::fs::write(&path, text).expect("can be written");
        read(&path)
    }

    #[test]
    fn images_are_files_or_rows_of_pixels() {
        let picture = image::RgbImage::from_raw(3, 2, BYTES.to_vec()).expect("fits");
        picture.save(scratch("seen.png")).expect("can be written");
        let expected = Image::from_rgb8(2, 3, BYTES).expect("fits");
        let history = read_text(
            "images.json",
            r#"[{"time": 0, "state": [1, 2.5], "file": "seen.png",
                 "rows": [[[0,1,2],[3,4,5],[6,7,8]], [[100,101,102],[200,201,202],[253,254,255]]]}]"#,
        )
        .expect("is whole");
        let seen = history.newest().expect("one");
        assert_eq!(seen.get("state"), Some(&[1.0, 2.5][..]));
        assert_eq!(seen.image("file"), Some(&expected));
        assert_eq!(seen.image("rows"), Some(&expected));
        assert_eq!((seen.features().count(), seen.images().count()), (1, 2));
    }

    #[test]
    fn what_is_no_image_says_so() {
        std::fs::write(scratch("broken.png"), "no picture").expect("can be written");
        for (value, said) in [
            (r#""absent.png""#, "absent.png"),
            (r#""broken.png""#, "broken.png"),
            ("[[[0,1,2]], [[0,1,2],[3,4,5]]]", "row 1 has 2 pixels"),
            ("[[]]", "no pixels"),
            ("[[[0,1]]]", "three bytes"),
            ("[[[0,1,256]]]", "three bytes"),
            ("[[[0,1,0.5]]]", "three bytes"),
            ("{}", "`camera` is neither"),
            ("[\"0\"]", "`camera` is neither"),
            ("null", "`camera` is neither"),
        ] {
            let text = format!(r#"[{{"time": 0, "camera": {value}}}]"#);
            let error = read_text("wrong.json", &text).expect_err("is wrong");
            assert!(error.to_string().contains(said), "{value}: {error}");
        }
    }
}
