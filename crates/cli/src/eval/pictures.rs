//! Pictures of a model beside a test set: a Fréchet distance, and how many are of the class that was asked for.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clearway_stable_diffusion::dataset::{Pictures, Split};
use clearway_stable_diffusion::{
    Classifier, ClassifierConfig, Emphasis, FeatureStatistics, Form, Method, PictureModel,
    Sampling, Spacing,
};
use serde::Serialize;

use crate::Verdict;
use crate::error::{Error, check_writable, write_json, write_whole};
use crate::output::say;
use crate::precision::Precision;
use crate::statistics::{percentile, wilson};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The model: a folder that `clearway train` wrote
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The classifier whose features are compared: a folder that `clearway train` wrote
    #[arg(long, value_name = "DIR")]
    classifier: PathBuf,
    /// The pictures to compare with: a folder of IDX files
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Pictures that are drawn a row, of all classes in turn
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    samples: u32,
    /// Steps of the solver, one row each
    #[arg(long, value_name = "K,..", value_delimiter = ',', default_values_t = [50], value_parser = clap::value_parser!(u32).range(1..=1000))]
    steps: Vec<u32>,
    /// The solver
    #[arg(long, value_name = "NAME", value_parser = method(), default_value = "ddim")]
    solver: Method,
    /// How the levels are spaced [default: the model's own]
    #[arg(long, value_name = "NAME", value_parser = spacing())]
    spacing: Option<Spacing>,
    /// What the weights are kept in, one row each
    #[arg(long, value_enum, value_name = "NAME,..", value_delimiter = ',', default_values_t = [Precision::F32])]
    precision: Vec<Precision>,
    /// Guidance scales, one row each: 1 is a single pass a step, others are two passes a step, or one where the model was
    /// distilled to know them
    #[arg(long, value_name = "W,..", value_delimiter = ',', default_values_t = [2.0])]
    scale: Vec<f64>,
    /// Pictures that are drawn at a time
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch: u16,
    /// Pictures that are drawn one at a time, to time them
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    timed: u16,
    /// The seed of the first picture; the next have the next
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Write some pictures of each row as a PNG into this folder
    #[arg(long, value_name = "DIR")]
    sheets: Option<PathBuf>,
    /// Write the rows as a table
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write the rows as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A solver by its name; clap lists them.
fn method() -> impl TypedValueParser<Value = Method> {
    PossibleValuesParser::new(Method::ALL.map(Method::name)).try_map(|name| name.parse::<Method>())
}

/// A grid by its name.
fn spacing() -> impl TypedValueParser<Value = Spacing> {
    let names = PossibleValuesParser::new(Spacing::ALL.map(Spacing::name));
    names.try_map(|name| name.parse::<Spacing>())
}

#[derive(Serialize)]
struct Report {
    model: String,
    parameters: usize,
    classifier: String,
    data: String,
    test_pictures: usize,
    samples: usize,
    seed: u64,
    /// Whose features a distance is of. It cannot be compared with a published FID.
    features: &'static str,
    /// The share of the test pictures that the classifier recognizes, and its 95 % interval.
    test_accuracy: [f64; 3],
    /// The distance of as many training pictures from the test pictures: what a perfect model would have.
    training_distance: f64,
    threads: usize,
    instructions: String,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    solver: &'static str,
    steps: usize,
    /// Of the network, a picture; two for each stage where it is guided in two passes.
    passes: usize,
    precision: &'static str,
    scale: f64,
    guidance: &'static str,
    frechet: f64,
    /// The share of the pictures that the classifier takes for what was asked for.
    accuracy: f64,
    accuracy_low: f64,
    accuracy_high: f64,
    /// Milliseconds of a picture that is drawn alone: the fastest, and the median.
    alone_ms_min: f64,
    alone_ms_p50: f64,
    /// Milliseconds a picture where they are drawn in batches.
    batch: usize,
    batch_ms: f64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    for file in [&arguments.csv, &arguments.json] {
        check_writable(file.as_deref())?;
    }
    if let Some(wrong) = (arguments.scale.iter()).find(|it| !(it.is_finite() && **it >= 0.0)) {
        return Err(Error::Argument {
            argument: "--scale",
            reason: format!("is {wrong}; a number from 0 is needed"),
        });
    }
    let device = Device::flex();
    let unreadable = |what, path: &Path| {
        let path = path.to_owned();
        move |error| Error::PictureModel {
            what,
            path,
            error: Box::new(error),
        }
    };
    let model = PictureModel::open(&arguments.model, &device)
        .map_err(unreadable("model", &arguments.model))?;
    let judge = Judge::open(&arguments.classifier, &device)
        .map_err(unreadable("classifier", &arguments.classifier))?;
    let read = |split| {
        Pictures::open(&arguments.data, split).map_err(|error| Error::Pictures(Box::new(error)))
    };
    let test = read(Split::Test)?;
    judge.check(&model, &test)?;

    let samples = arguments.samples as usize;
    let seen = judge.judge(
        test.len(),
        test.size(),
        &|at| (test.pixels(at), test.labels()[at]),
        &device,
    );
    let reference = seen.statistics()?;
    let [low, high] = wilson(seen.right, test.len());
    let test_accuracy = [seen.right as f64 / test.len() as f64, low, high];
    let training = read(Split::Train)?;
    let training = judge.judge(
        samples.min(training.len()),
        training.size(),
        &|at| (training.pixels(at), training.labels()[at]),
        &device,
    );
    let training_distance = training.statistics()?.distance(&reference);
    say!(
        "{} parameters; {} test pictures, of which the classifier knows {:.4} [{low:.4}, {high:.4}]",
        model.unet().parameters(),
        test.len(),
        test_accuracy[0]
    );
    say!(
        "Fréchet distances by features of that classifier, not comparable with a published FID; of {} training pictures {training_distance:.4}",
        training.count
    );
    let mut report = Report {
        model: arguments.model.display().to_string(),
        parameters: model.unet().parameters(),
        classifier: arguments.classifier.display().to_string(),
        data: arguments.data.display().to_string(),
        test_pictures: test.len(),
        samples,
        seed: arguments.seed,
        features: "the classifier's, before its last layer; not comparable with a published FID",
        test_accuracy,
        training_distance,
        threads: rayon::current_num_threads(),
        instructions: clearway_planner::Level::detected().to_string(),
        rows: Vec::new(),
    };
    for &precision in &arguments.precision {
        let mut model = model.clone();
        if let Some(precision) = precision.packed() {
            let packed = model.pack(precision);
            tracing::info!(?packed, "packed");
        }
        for &scale in &arguments.scale {
            for &steps in &arguments.steps {
                let row = Drawing {
                    arguments,
                    model: &model,
                    judge: &judge,
                    device: &device,
                    precision,
                    scale,
                    sampling: Sampling {
                        method: arguments.solver,
                        steps: steps as usize,
                        spacing: arguments.spacing,
                    },
                }
                .row(&reference)?;
                print(&row);
                report.rows.push(row);
                // A long evaluation that is stopped has what it did.
                write(arguments, &report)?;
            }
        }
    }
    Ok(Verdict::Passed)
}

fn print(row: &Row) {
    say!(
        "  {:4} {} steps, {:3} passes, {:5}, scale {} ({}): distance {:.4}, class {:.4} [{:.4}, {:.4}], {:.2} ms alone (p50 {:.2}), {:.3} ms in batches of {}",
        row.solver,
        row.steps,
        row.passes,
        row.precision,
        row.scale,
        row.guidance,
        row.frechet,
        row.accuracy,
        row.accuracy_low,
        row.accuracy_high,
        row.alone_ms_min,
        row.alone_ms_p50,
        row.batch_ms,
        row.batch
    );
}

fn write(arguments: &Arguments, report: &Report) -> Result<(), Error> {
    if let Some(path) = &arguments.json {
        write_json(path, report)?;
    }
    if let Some(path) = &arguments.csv {
        let mut text = String::from(
            "solver,steps,passes,precision,scale,guidance,frechet,accuracy,accuracy_low,accuracy_high,alone_ms_min,alone_ms_p50,batch,batch_ms\n",
        );
        for row in &report.rows {
            let numbers = [
                row.frechet,
                row.accuracy,
                row.accuracy_low,
                row.accuracy_high,
                row.alone_ms_min,
                row.alone_ms_p50,
            ];
            let numbers = numbers.map(|x| x.to_string()).join(",");
            let _ = writeln!(
                text,
                "{},{},{},{},{},{},{numbers},{},{}",
                row.solver,
                row.steps,
                row.passes,
                row.precision,
                row.scale,
                row.guidance,
                row.batch,
                row.batch_ms
            );
        }
        write_whole(path, |beside| std::fs::write(beside, &text))
            .map_err(|error: std::io::Error| Error::write(path, &error))?;
    }
    Ok(())
}

/// One way of drawing.
struct Drawing<'a> {
    arguments: &'a Arguments,
    model: &'a PictureModel,
    judge: &'a Judge,
    device: &'a Device,
    precision: Precision,
    scale: f64,
    sampling: Sampling,
}

impl Drawing<'_> {
    /// How the scale is kept, and how often a stage asks the network.
    fn emphasis(&self) -> (Emphasis, &'static str, usize) {
        if self.model.unet().knows_guidance() {
            (Emphasis::Known(self.scale), "known", 1)
        } else if (self.scale - 1.0).abs() < f64::EPSILON {
            (Emphasis::None, "none", 1)
        } else {
            (Emphasis::TwoPasses(self.scale), "two passes", 2)
        }
    }

    fn draw(&self, first: usize, count: usize) -> Result<Vec<u8>, Error> {
        let classes = self.model.form().labels.len();
        let classes: Vec<usize> = (first..first + count).map(|at| at % classes).collect();
        let seed = |at: usize| self.arguments.seed.wrapping_add(at as u64);
        let seeds: Vec<u64> = (first..first + count).map(seed).collect();
        let (emphasis, ..) = self.emphasis();
        Ok(self.model.draw(&classes, &seeds, self.sampling, emphasis)?)
    }

    fn row(&self, reference: &FeatureStatistics) -> Result<Row, Error> {
        let (_, guidance, asks) = self.emphasis();
        let stages = self.sampling.plan(self.model.scheduler(), None)?.stages;
        let mut alone = Vec::new();
        for at in 0..usize::from(self.arguments.timed) {
            let start = Instant::now();
            self.draw(at, 1)?;
            alone.push(1e3 * start.elapsed().as_secs_f64());
        }
        let samples = self.arguments.samples as usize;
        let batch = usize::from(self.arguments.batch).min(samples);
        let bar = indicatif::ProgressBar::new(samples as u64);
        let mut pixels = Vec::new();
        let start = Instant::now();
        for first in (0..samples).step_by(batch) {
            let count = batch.min(samples - first);
            pixels.extend(self.draw(first, count)?);
            bar.inc(count as u64);
        }
        let batch_ms = 1e3 * start.elapsed().as_secs_f64() / samples as f64;
        bar.finish_and_clear();
        let each = pixels.len() / samples;
        let classes = self.model.form().labels.len();
        let picture = |at: usize| (&pixels[at * each..][..each], at % classes);
        let size = self.model.form().size;
        let seen = self.judge.judge(samples, size, &picture, self.device);
        let [accuracy_low, accuracy_high] = wilson(seen.right, samples);
        let row = Row {
            solver: self.sampling.method.name(),
            steps: self.sampling.steps,
            passes: asks * stages.len(),
            precision: self.precision.name(),
            scale: self.scale,
            guidance,
            frechet: seen.statistics()?.distance(reference),
            accuracy: seen.right as f64 / samples as f64,
            accuracy_low,
            accuracy_high,
            alone_ms_min: percentile(&alone, 0.0),
            alone_ms_p50: percentile(&alone, 0.5),
            batch,
            batch_ms,
        };
        if let Some(folder) = &self.arguments.sheets {
            let name = format!(
                "{}-{}-{}-{}.png",
                row.solver, row.steps, row.precision, row.scale
            );
            sheet(self.model.form(), &pixels, &folder.join(name))?;
        }
        Ok(row)
    }
}

/// Writes the first pictures as a sheet, a column a class and ten rows at most.
fn sheet(form: &Form, pixels: &[u8], path: &Path) -> Result<(), Error> {
    let [height, width] = form.size;
    let each = form.channels * height * width;
    let columns = form.labels.len();
    let rows = (pixels.len() / each).div_ceil(columns).min(10);
    let side = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let mut sheet = image::RgbImage::new(side(columns * width), side(rows * height));
    for (at, picture) in pixels.chunks(each).take(rows * columns).enumerate() {
        let (left, top) = (at % columns * width, at / columns * height);
        for place in 0..height * width {
            let channel = |c: usize| picture[c.min(form.channels - 1) * height * width + place];
            let (x, y) = (left + place % width, top + place / width);
            sheet.put_pixel(side(x), side(y), image::Rgb([0, 1, 2].map(channel)));
        }
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|error| Error::write(folder, &error))?;
    sheet.save(path).map_err(|error| Error::write(path, &error))
}

/// What is seen of some pictures.
struct Seen {
    features: Vec<f32>,
    width: usize,
    count: usize,
    /// How many are of the class that they should be.
    right: usize,
}

impl Seen {
    fn statistics(&self) -> Result<FeatureStatistics, Error> {
        Ok(FeatureStatistics::of(&self.features, self.width)?)
    }
}

/// Who looks at pictures.
struct Judge {
    config: ClassifierConfig,
    network: Classifier,
}

impl Judge {
    /// Pictures that are looked at at a time.
    const BATCH: usize = 250;

    fn open(folder: &Path, device: &Device) -> Result<Self, clearway_stable_diffusion::LoadError> {
        let (config, mut network) = ClassifierConfig::open(folder, device)?;
        let packed = network.pack(clearway_planner::Precision::F32);
        tracing::info!(?packed, "packed the classifier");
        Ok(Self { config, network })
    }

    /// Makes sure that all are about the same pictures.
    fn check(&self, model: &PictureModel, test: &Pictures) -> Result<(), Error> {
        let form = model.form();
        let words = |size: [usize; 2], channels: usize, classes: usize| {
            let [height, width] = size;
            format!("{width} × {height} pixels of {channels} channels in {classes} classes")
        };
        let expected = words(test.size(), test.channels(), test.names().len());
        let found = words(form.size, form.channels, form.labels.len());
        if found != expected {
            return Err(Error::Unlike {
                what: "model",
                found,
                expected,
            });
        }
        let (channels, classes) = (self.config.in_channels, self.config.labels.len());
        let found = words(test.size(), channels, classes);
        if found != expected {
            return Err(Error::Unlike {
                what: "classifier",
                found,
                expected,
            });
        }
        Ok(())
    }

    /// Looks at pictures, each of them with the class that it should be of.
    fn judge<'a>(
        &self,
        count: usize,
        size: [usize; 2],
        picture: &dyn Fn(usize) -> (&'a [u8], usize),
        device: &Device,
    ) -> Seen {
        let mut seen = Seen {
            features: Vec::new(),
            width: self.config.channels[1],
            count,
            right: 0,
        };
        for first in (0..count).step_by(Self::BATCH) {
            let which = first..count.min(first + Self::BATCH);
            let batch = which.len();
            let pixels = which.clone().flat_map(|at| picture(at).0);
            let values: Vec<f32> = pixels.map(|&it| f32::from(it) / 127.5 - 1.0).collect();
            let [height, width] = size;
            let shape = [batch, self.config.in_channels, height, width];
            let x = Tensor::<4>::from_data(TensorData::new(values, shape), device);
            let features = self.network.features(x);
            let answers = self.network.answers(features.clone());
            let values = |tensor: Tensor<2>| -> Vec<f32> {
                tensor.into_data().try_to_vec().unwrap_or_default()
            };
            let classes = self.config.labels.len();
            for (answers, at) in values(answers).chunks(classes).zip(which) {
                let best = (0..classes).max_by(|&a, &b| answers[a].total_cmp(&answers[b]));
                seen.right += usize::from(best == Some(picture(at).1));
            }
            seen.features.extend(values(features));
        }
        seen
    }
}
