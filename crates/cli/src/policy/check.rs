use std::path::{Path, PathBuf};
use std::time::Duration;

use burn::tensor::{Device, Tensor, TensorData};
use clearway_diffusion::{Network, Point, Sampler, Seeded};
use clearway_planner::lerobot::DiffusionConfig;
use clearway_planner::{History, Observation, Planner};
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;

use crate::Verdict;
use crate::error::{Error, check_writable, load_policy, write_json};
use crate::output::say;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A folder written by LeRobot's `save_pretrained`
    #[arg(long, value_name = "DIR")]
    policy: PathBuf,
    /// Recorded cases [default: expected.safetensors in the policy's folder]
    #[arg(long, value_name = "FILE")]
    expected: Option<PathBuf>,
    /// Write the same as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// f32 on one side, f64 rounded to f32 on the other.
const NORMALIZED: f64 = 1e-5;
const CONDITION: f64 = 1e-5;
/// Sums of up to some ten thousand f32 products, in another order.
const NETWORK: f64 = 5e-5;
/// The same, through the passes of a plan.
const SAMPLE: f64 = 1e-4;

#[derive(Debug, Serialize)]
struct Quantity {
    name: &'static str,
    largest_error: f64,
    tolerance: f64,
    values: usize,
    passed: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    cases: usize,
    passed: bool,
    quantities: Vec<Quantity>,
    not_compared: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    check_writable(arguments.json.as_deref())?;
    let device = Device::flex();
    let policy = load_policy(&arguments.policy, &device)?;
    let planner = Planner::new(policy, Duration::from_secs(1), &device)
        .map_err(|error| Error::policy(&arguments.policy, error))?;
    let path = arguments
        .expected
        .clone()
        .unwrap_or_else(|| arguments.policy.join("expected.safetensors"));
    let bytes = std::fs::read(&path).map_err(|error| Error::read(&path, &error))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| Error::read(&path, &error))?;
    let mut check = Check {
        planner: &planner,
        expected: Expected { path: &path, file },
        device,
        quantities: Vec::new(),
        not_compared: Vec::new(),
        known: Vec::new(),
    };
    let mut cases = 0;
    while check.case(cases)? {
        cases += 1;
    }
    if cases == 0 {
        return Err(Error::Missing {
            path,
            key: "case0.noise".to_owned(),
            expected: "cases as clearway's fixtures hold them",
        });
    }
    let mut not_compared = check.not_compared;
    for key in check.expected.file.names() {
        if !check.known.iter().any(|known| known == key) {
            not_compared.push(format!("{key}: not known"));
        }
    }
    not_compared.sort();
    let report = Report {
        cases,
        passed: check.quantities.iter().all(|quantity| quantity.passed),
        quantities: check.quantities,
        not_compared,
    };
    print(&report);
    if let Some(path) = &arguments.json {
        write_json(path, &report)?;
    }
    Ok(if report.passed {
        Verdict::Passed
    } else {
        Verdict::Failed
    })
}

fn print(report: &Report) {
    say!("{} cases", report.cases);
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
                expected: format!("of {expected} values in f32"),
                found: tensor.shape().to_vec(),
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
    quantities: Vec<Quantity>,
    not_compared: Vec<String>,
    known: Vec<String>,
}

impl Check<'_> {
    /// Replays a case, and says whether there is one.
    fn case(&mut self, case: usize) -> Result<bool, Error> {
        let key = |name: &str| format!("case{case}.{name}");
        if !self.expected.has(&key("noise")) {
            return Ok(false);
        }
        let planner = self.planner;
        let policy = planner.policy();
        let config = policy.config();
        let size = config.horizon * config.action.len;

        let history = self.observations(case, config)?;
        let condition = policy
            .condition(&history)
            .map_err(clearway_planner::PlanError::from)?;
        self.compare_inputs(case, config, &condition)?;
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
            self.compare(&pass, "network", &download(output), NETWORK)?;
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
            return Ok(true);
        }
        let denoiser = planner.denoiser();
        let mut none = Seeded::new(0, 1);
        let sample = Sampler::new(denoiser, &prepared, planner.stages(), noise, &mut none).finish();
        let sample = download(sample);
        let first = (config.n_obs_steps - 1) * config.action.len;
        let executed = &sample[first..first + config.n_action_steps * config.action.len];
        let actions: Vec<f32> = policy
            .actions(executed)
            .iter()
            .map(|&value| value as f32)
            .collect();
        // One normalized unit is so many physical ones.
        let scale = unit(planner);
        for (name, quantity, values, tolerance) in [
            (&names[0], "sample, normalized", sample.as_slice(), SAMPLE),
            (&names[1], "actions, normalized", executed, SAMPLE),
            (&names[2], "actions", actions.as_slice(), SAMPLE * scale),
        ] {
            if self.expected.has(name) {
                self.compare(name, quantity, values, tolerance)?;
            }
        }
        Ok(true)
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
        Ok(History::new(observations)?)
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
            let key = format!("case{case}.normalized.{}", feature.name);
            if self.expected.has(&key) {
                let values: Vec<f32> = condition
                    .chunks(width)
                    .flat_map(|row| row[offset..offset + feature.len].iter().copied())
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

    fn compare(
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
        let worst = errors.fold(0.0, |worst: f64, error| {
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
        quantity.largest_error = quantity.largest_error.max(worst);
        quantity.values += ours.len();
        quantity.passed = quantity.largest_error <= tolerance;
        Ok(())
    }
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
