use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use burn::tensor::{Device, Tensor, TensorData};
use clearway_diffusion::{Network, Point, Sampler, Seeded};
use clearway_planner::lerobot::{DiffusionConfig, FeatureKind};
use clearway_planner::{
    Budget, History, Image, Observation, Planner, Precision, Problem, Sampling,
};
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;

use crate::Verdict;
use crate::error::{Error, check_writable, spinner, write_json};
use crate::output::say;
use crate::precision;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A folder written by LeRobot's `save_pretrained`
    #[arg(long, value_name = "DIR")]
    policy: PathBuf,
    /// Recorded cases [default: expected.safetensors in the policy's folder]
    #[arg(long, value_name = "FILE")]
    expected: Option<PathBuf>,
    #[command(flatten)]
    precision: precision::Arguments,
    /// Write the same as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

// Tolerances are for values of up to one in magnitude, as normalized ones are meant to be; where a recorded tensor has
// larger ones, they grow with its largest, as rounding in f32 does.

/// f32 on one side, f64 rounded to f32 on the other.
const NORMALIZED: f64 = 1e-5;
const CONDITION: f64 = 1e-5;
/// Sums of up to some ten thousand f32 products, in another order.
const NETWORK: f64 = 5e-5;
/// The same, through the passes of a plan, on levels that are f64 here and f32 there.
const SAMPLE: f64 = 1e-4;
/// What a network of weights in bf16 makes, and a plan of it: each weight is wrong by up to 2⁻⁸ of itself.
const BF16: f64 = 5e-3;
/// The same of weights and inputs in codes of 8 bits: each is wrong by up to half a step of some hundred.
const INT8: f64 = 2e-2;
/// The same of weights in codes of 4 bits.
const INT4: f64 = 0.1;

/// The errors of one quantity over all cases.
#[derive(Debug, Serialize)]
struct Quantity {
    name: &'static str,
    /// Absolute, of the tensor that comes nearest to its tolerance, or goes farthest beyond it.
    largest_error: f64,
    /// That tensor's.
    tolerance: f64,
    values: usize,
    passed: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    cases: usize,
    passed: bool,
    precision: String,
    level: Option<String>,
    quantities: Vec<Quantity>,
    not_compared: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    check_writable(arguments.json.as_deref())?;
    let device = Device::flex();
    let policy = arguments.precision.load(&arguments.policy, &device)?;
    // What was recorded was sampled as the configuration says: of a student's own steps LeRobot knows nothing.
    let sampling = Sampling::of(policy.config());
    let planner = Planner::new(policy, Duration::from_secs(1), &device)
        .and_then(|planner| planner.with_sampling(sampling))
        .map_err(|error| Error::policy(&arguments.policy, error))?;
    let path = arguments
        .expected
        .clone()
        .unwrap_or_else(|| arguments.policy.join("expected.safetensors"));
    let bytes = std::fs::read(&path).map_err(|error| Error::read(&path, &error))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| Error::read(&path, &error))?;
    let [network, sample] = match planner.policy().precision() {
        Some(Precision::Bf16) => [BF16; 2],
        Some(Precision::Int8) => [INT8; 2],
        Some(Precision::Int4 { .. }) => [INT4; 2],
        _ => [NETWORK, SAMPLE],
    };
    let mut check = Check {
        planner: &planner,
        expected: Expected { path: &path, file },
        device,
        network,
        sample,
        quantities: Vec::new(),
        not_compared: Vec::new(),
        known: Vec::new(),
    };
    let cases = check.expected.cases();
    let bar = spinner("replaying the cases");
    for &case in &cases {
        check.case(case)?;
    }
    bar.finish_and_clear();
    if check.quantities.is_empty() {
        return Err(Error::Missing {
            path,
            key: "case0.unet_out.t0".to_owned(),
            expected: "recorded cases with something to compare",
        });
    }
    let mut not_compared = check.not_compared;
    for key in check.expected.file.names() {
        if !check.known.iter().any(|known| known == key) {
            not_compared.push(format!("{key}: not known"));
        }
    }
    not_compared.sort();
    let arithmetic = precision::words(&planner);
    let (precision, level) = precision::of(planner.policy());
    let report = Report {
        cases: cases.len(),
        precision,
        level,
        passed: check.quantities.iter().all(|quantity| quantity.passed),
        quantities: check.quantities,
        not_compared,
    };
    print(&report, &arithmetic);
    if let Some(path) = &arguments.json {
        write_json(path, &report)?;
    }
    Ok(if report.passed {
        Verdict::Passed
    } else {
        Verdict::Failed
    })
}

fn print(report: &Report, arithmetic: &str) {
    say!("{} cases, {arithmetic}", report.cases);
    say!("  {:<26} {:>13}  {:>9}", "", "largest error", "tolerance");
    for quantity in &report.quantities {
        say!(
            "  {:<26} {:>13.2e}  {:>9.0e}  {}",
            quantity.name,
            quantity.largest_error,
            quantity.tolerance,
            if quantity.passed {
                "ok"
            } else {
                "ABOVE TOLERANCE"
            }
        );
    }
    for line in &report.not_compared {
        say!("  not compared: {line}");
    }
}

/// A file of recorded cases.
struct Expected<'a> {
    path: &'a Path,
    file: SafeTensors<'a>,
}

impl Expected<'_> {
    /// The numbers of the cases, in order.
    fn cases(&self) -> Vec<usize> {
        let number = |key: &str| key.strip_prefix("case")?.split_once('.')?.0.parse().ok();
        let cases: BTreeSet<usize> = self.file.names().into_iter().filter_map(number).collect();
        cases.into_iter().collect()
    }

    fn has(&self, key: &str) -> bool {
        self.file.tensor(key).is_ok()
    }

    /// The values of a tensor, which must have so many.
    fn values(&self, key: &str, expected: usize) -> Result<Vec<f32>, Error> {
        let tensor = self.file.tensor(key).map_err(|_| Error::Missing {
            path: self.path.to_owned(),
            key: key.to_owned(),
            expected: "a tensor of a recorded case",
        })?;
        if tensor.dtype() != Dtype::F32 || tensor.shape().iter().product::<usize>() != expected {
            return Err(Error::Shape {
                path: self.path.to_owned(),
                key: key.to_owned(),
                expected: format!("{expected} values in F32"),
                found: format!("{:?} in {:?}", tensor.shape(), tensor.dtype()),
            });
        }
        let (values, _) = tensor.data().as_chunks::<4>();
        Ok(values
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect())
    }
}

struct Check<'a> {
    planner: &'a Planner,
    expected: Expected<'a>,
    device: Device,
    /// The tolerance of a pass, and of a plan.
    network: f64,
    sample: f64,
    quantities: Vec<Quantity>,
    not_compared: Vec<String>,
    known: Vec<String>,
}

impl Check<'_> {
    /// Replays a case.
    fn case(&mut self, case: usize) -> Result<(), Error> {
        let key = |name: &str| format!("case{case}.{name}");
        let planner = self.planner;
        let policy = planner.policy();
        let config = policy.config();
        let size = config.horizon * config.action.len;

        let history = self.observations(case, config)?;
        let condition = policy
            .condition(&history)
            .map_err(clearway_planner::PlanError::from)?;
        self.compare_inputs(case, config, &condition)?;
        self.compare_images(case, &history)?;
        if self.expected.has(&key("global_cond")) {
            self.compare(&key("global_cond"), "conditioning", &condition, CONDITION)?;
        }

        // Each stage from the recorded input, so that an error is found where it is made.
        let condition = self.recorded_or(&key("global_cond"), condition)?;
        let condition = Tensor::<2>::from_data(
            TensorData::new(condition, [1, config.condition_dim()]),
            &self.device,
        );
        let noise = self.take(&key("noise"), size)?;
        let noise = Tensor::<3>::from_data(
            TensorData::new(noise, [1, config.horizon, config.action.len]),
            &self.device,
        );
        let prepared = policy.network().prepare(&condition);
        for (pass, t) in self.recorded_passes(case) {
            let point = Point {
                t,
                ..planner.stages()[0].at
            };
            let output = policy.network().forward(noise.clone(), &[point], &prepared);
            self.compare(&pass, "network", &download(output), self.network)?;
        }

        let names = ["sample_normalized", "actions_normalized", "actions"].map(key);
        if planner.stages().iter().any(|stage| stage.fresh > 0.0) {
            for name in names {
                if self.expected.has(&name) {
                    let reason =
                        format!("{name}: {} draws noise in every step", planner.sampling());
                    self.not_compared.push(reason);
                    self.known.push(name);
                }
            }
            return Ok(());
        }
        let mut none = Seeded::new(0, 1);
        let initial = download(noise.clone());
        let sampler = Sampler::new(
            planner.denoiser(),
            &prepared,
            planner.stages(),
            noise,
            &mut none,
        );
        let sample = download(sampler.finish());
        let first = (config.n_obs_steps - 1) * config.action.len;
        let executed = &sample[first..first + config.n_action_steps * config.action.len];
        let [sample_key, normalized_key, actions_key] = names;
        if self.expected.has(&sample_key) {
            self.compare(&sample_key, "sample, normalized", &sample, self.sample)?;
        }
        if self.expected.has(&normalized_key) {
            self.compare(
                &normalized_key,
                "actions, normalized",
                executed,
                self.sample,
            )?;
        }
        if self.expected.has(&actions_key) {
            // By the planner itself, so that what is checked is what runs.
            let plan = planner.plan(
                &Problem::new(&history).with_noise(&initial),
                Budget::default(),
                0,
            )?;
            let actions: Vec<f32> = plan
                .trajectory
                .positions()
                .iter()
                .map(|&value| value as f32)
                .collect();
            // One normalized unit is so many physical ones; an offset rounds to f32 too.
            let scale = unit(planner) * largest(executed).max(1.0);
            let bound = self.sample * scale + f64::from(f32::EPSILON) * largest(&actions);
            self.compare_within(&actions_key, "actions", &actions, bound)?;
        }
        Ok(())
    }

    /// The raw observations of a case, one a second.
    fn observations(&mut self, case: usize, config: &DiffusionConfig) -> Result<History, Error> {
        let mut observations: Vec<Observation> = (0..config.n_obs_steps)
            .map(|step| Observation::new(Duration::from_secs(step as u64)))
            .collect();
        for (feature, name) in config
            .inputs
            .iter()
            .zip(self.planner.policy().observed_names())
        {
            let key = format!("case{case}.raw.{name}");
            let values = self.take(&key, config.n_obs_steps * feature.len)?;
            observations = observations
                .into_iter()
                .zip(values.chunks(feature.len))
                .map(|(observation, values)| {
                    let values: Vec<f64> = values.iter().map(|&value| f64::from(value)).collect();
                    observation.with(name.clone(), values)
                })
                .collect();
        }
        let Some(vision) = self.planner.policy().vision() else {
            return Ok(History::new(observations)?);
        };
        let [height, width] = vision.config().size;
        for camera in vision.observed_names() {
            let key = format!("case{case}.raw.{camera}");
            let values = self.take(&key, config.n_obs_steps * 3 * height * width)?;
            let images = values.chunks(3 * height * width);
            for (observation, values) in observations.iter_mut().zip(images) {
                let image = Image::from_chw(height, width, values)
                    .map_err(|error| Error::read(self.expected.path, &format!("{key}: {error}")))?;
                *observation = std::mem::take(observation).with_image(camera, image);
            }
        }
        Ok(History::new(observations)?)
    }

    /// Compares the normalized images with the recorded ones.
    fn compare_images(&mut self, case: usize, history: &History) -> Result<(), Error> {
        let Some(vision) = self.planner.policy().vision() else {
            return Ok(());
        };
        let cameras = vision.config().cameras.iter();
        let cameras = cameras.zip(vision.observed_names().iter().zip(vision.normalizers()));
        for (camera, (name, normalizer)) in cameras {
            let key = format!("case{case}.normalized.{camera}");
            if !self.expected.has(&key) {
                continue;
            }
            let images = history
                .observations()
                .iter()
                .filter_map(|it| it.image(name));
            let mut values = Vec::new();
            for image in images {
                let pixels = image.to_chw();
                let channels = pixels.chunks(image.height() * image.width()).enumerate();
                for (channel, pixels) in channels {
                    values.extend(pixels.iter().copied().map(normalizer.in_f32(channel)));
                }
            }
            self.compare(&key, "images, normalized", &values, NORMALIZED)?;
        }
        Ok(())
    }

    /// Compares each feature's share of the condition with its recorded normalized values.
    fn compare_inputs(
        &mut self,
        case: usize,
        config: &DiffusionConfig,
        condition: &[f32],
    ) -> Result<(), Error> {
        let width = condition.len() / config.n_obs_steps;
        let mut offset = 0;
        for feature in &config.inputs {
            // The features of images come before the environment.
            let skipped = match (&config.vision, feature.kind) {
                (Some(vision), FeatureKind::Environment) => {
                    vision.cameras.len() * vision.features()
                }
                _ => 0,
            };
            let start = offset + skipped;
            let key = format!("case{case}.normalized.{}", feature.name);
            if self.expected.has(&key) {
                let values: Vec<f32> = condition
                    .chunks(width)
                    .flat_map(|row| row[start..start + feature.len].iter().copied())
                    .collect();
                self.compare(&key, "observations, normalized", &values, NORMALIZED)?;
            }
            offset += feature.len;
        }
        Ok(())
    }

    /// The recorded passes of a case: their keys and timesteps, `case0.unet_out.t90` and 90.
    fn recorded_passes(&self, case: usize) -> Vec<(String, f64)> {
        let prefix = format!("case{case}.unet_out.t");
        let mut passes: Vec<(String, f64)> = self
            .expected
            .file
            .names()
            .into_iter()
            .filter_map(|key| Some((key.to_owned(), key.strip_prefix(&prefix)?.parse().ok()?)))
            .collect();
        passes.sort_by(|a, b| a.1.total_cmp(&b.1));
        passes
    }

    fn take(&mut self, key: &str, expected: usize) -> Result<Vec<f32>, Error> {
        self.known.push(key.to_owned());
        self.expected.values(key, expected)
    }

    fn recorded_or(&self, key: &str, own: Vec<f32>) -> Result<Vec<f32>, Error> {
        if self.expected.has(key) {
            self.expected.values(key, own.len())
        } else {
            Ok(own)
        }
    }

    /// Compares values with a recorded tensor; the tolerance grows with the tensor's largest value beyond one.
    fn compare(
        &mut self,
        key: &str,
        name: &'static str,
        ours: &[f32],
        tolerance: f64,
    ) -> Result<(), Error> {
        let theirs = self.take(key, ours.len())?;
        self.compare_within(key, name, ours, tolerance * largest(&theirs).max(1.0))
    }

    fn compare_within(
        &mut self,
        key: &str,
        name: &'static str,
        ours: &[f32],
        tolerance: f64,
    ) -> Result<(), Error> {
        let theirs = self.take(key, ours.len())?;
        let errors = ours
            .iter()
            .zip(&theirs)
            .map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
        // A NaN on either side is the largest error there is; `max` would drop it.
        let error = errors.fold(0.0, |worst: f64, error| {
            if error.is_nan() {
                f64::INFINITY
            } else {
                worst.max(error)
            }
        });
        let index = self
            .quantities
            .iter()
            .position(|quantity| quantity.name == name);
        let index = index.unwrap_or_else(|| {
            self.quantities.push(Quantity {
                name,
                largest_error: 0.0,
                tolerance,
                values: 0,
                passed: true,
            });
            self.quantities.len() - 1
        });
        let quantity = &mut self.quantities[index];
        if error / tolerance >= quantity.largest_error / quantity.tolerance {
            (quantity.largest_error, quantity.tolerance) = (error, tolerance);
        }
        quantity.values += ours.len();
        quantity.passed &= error <= tolerance;
        Ok(())
    }
}

/// The largest finite magnitude: an infinity must not make a tolerance that everything keeps.
fn largest(values: &[f32]) -> f64 {
    let magnitudes = values.iter().map(|value| f64::from(value.abs()));
    magnitudes
        .filter(|magnitude| magnitude.is_finite())
        .fold(0.0, f64::max)
}

/// The largest physical change that one normalized unit of an action makes.
fn unit(planner: &Planner) -> f64 {
    let width = planner.policy().config().action.len;
    let (zero, one) = (vec![0.0_f32; width], vec![1.0_f32; width]);
    let (zero, one) = (
        planner.policy().actions(&zero),
        planner.policy().actions(&one),
    );
    zero.iter()
        .zip(one)
        .map(|(zero, one)| (one - zero).abs())
        .fold(0.0, f64::max)
}

fn download(tensor: Tensor<3>) -> Vec<f32> {
    tensor
        .into_data()
        .try_to_vec()
        .expect("networks compute in f32")
}
