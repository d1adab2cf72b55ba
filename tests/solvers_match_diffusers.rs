//! Solvers, grids, schedules, parameterizations and clipping give the samples of diffusers, noise included.
//!
//! Two sets of runs of a dummy model on a fixed sample: `golden/diffusers/runs.json`, and the shared
//! `fixtures/image/scheduler_goldens_0322.json`, of whose 85 runs 69 are of solvers that the engine has. What is left
//! out is listed in `NOT_OURS` and `DIFFERENT`, with reasons; a run that is in neither list must match.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use clearway_diffusion::{
    Clip, ClippedNoise, Ddim, Ddpm, Deis, Denoiser, Discrete, DpmSolver2M, Edm, End, Estimate,
    Euler, EulerAncestral, Exploding, FlowMatching, Grid, Heun, Lcm, Line, Lms, Midpoint, Network,
    Parameterization, Parameterized, Pndm, Point, Sampler, Schedule, SdeDpmSolver2M, Solver, Tcd,
    Threshold, Torch, UniPc, Variance, timesteps,
};
use clearway_tests::{repository, shared};
use serde_json::Value;

/// Solvers that the engine does not have.
const NOT_OURS: [&str; 2] = ["dpmpp2s_", "dpmpp3m_"];

/// Deliberate differences.
const DIFFERENT: [(&str, &str); 2] = [
    (
        "ddim_sd15_linspace_20",
        "diffusers steps from t to t − N/n on every grid, also where the grid's next timestep is another (its issue \
         11347); the engine steps to the next point of the grid",
    ),
    (
        "pndm_v_20",
        "diffusers averages velocities of different samples and times and turns the mean into noise with the newest; \
         the engine averages noise estimates, as the paper has it",
    ),
];

/// Of the trace, relative; f32 on both sides, up to 100 steps.
const TRACE: f64 = 1e-5;
/// The same of DEIS of order three, whose coefficients diffusers computes as differences in f32: in f64 its own trace is
/// another one by 1.5e-5.
const COARSE_TRACE: f64 = 3e-5;
/// Of single elements.
const ELEMENT: f64 = 1e-5;
/// The same where values grow without bound: sigma starts at 2029 and nothing is clipped.
const GROWING_ELEMENT: f64 = 3e-5;

type Failure = Box<dyn std::error::Error>;

/// The project's own runs, of diffusers 0.42.1.
#[test]
fn every_recorded_run_matches() -> Result<(), Failure> {
    let matched = matches(&repository("tests/golden/diffusers/runs.json"))?;
    assert_eq!(matched, 148);
    Ok(())
}

/// The shared runs, of diffusers 0.32.2.
#[test]
fn every_shared_run_of_our_solvers_matches() -> Result<(), Failure> {
    let Some(file) = shared("fixtures/image/scheduler_goldens_0322.json") else {
        return Ok(());
    };
    let matched = matches(&file)?;
    assert_eq!(matched, 81);
    Ok(())
}

/// Replays the runs of a file and returns how many match; fails if one does not that should.
fn matches(file: &Path) -> Result<usize, Failure> {
    let goldens = read(file)?;
    let runs = goldens["runs"].as_array().ok_or("no runs")?;
    let mut matched = 0;
    let (mut worst_trace, mut worst_element) = (0.0_f64, 0.0_f64);
    for run in runs {
        let name = run["name"].as_str().ok_or("a run without a name")?;
        if NOT_OURS.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let (trace, element) = replay(run).map_err(|error| format!("{name}: {error}"))?;
        if let Some((_, reason)) = DIFFERENT.iter().find(|(different, _)| *different == name) {
            assert!(
                trace > TRACE,
                "{name} matches, but is said to differ: {reason}"
            );
            continue;
        }
        let growing =
            name.contains("_robot_") && !name.starts_with("dd") || name == "ddim_sd15_sample_20";
        let bound = if growing { GROWING_ELEMENT } else { ELEMENT };
        let limit = if name.starts_with("deis_order3") {
            COARSE_TRACE
        } else {
            TRACE
        };
        assert!(trace <= limit, "{name}: the trace differs by {trace:e}");
        assert!(
            element <= bound,
            "{name}: an element differs by {element:e}"
        );
        worst_trace = worst_trace.max(trace);
        worst_element = worst_element.max(element);
        matched += 1;
    }
    println!(
        "{matched} of {} runs, trace {worst_trace:.1e}, element {worst_element:.1e}",
        runs.len()
    );
    Ok(matched)
}

fn read(file: &Path) -> Result<Value, Failure> {
    Ok(serde_json::from_reader(std::io::BufReader::new(
        std::fs::File::open(file)?,
    ))?)
}

#[test]
fn tables_match() -> Result<(), Failure> {
    let Some(file) = shared("fixtures/image/scheduler_goldens_0322.json") else {
        return Ok(());
    };
    let goldens: Value =
        serde_json::from_reader(std::io::BufReader::new(std::fs::File::open(file)?))?;
    for (name, golden) in goldens["schedules"].as_object().ok_or("no schedules")? {
        let schedule = table(&golden["config"])?;
        let numbers = |key: &str| {
            golden[key]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_f64)
        };
        for ((index, beta), cumulative) in numbers("idx")
            .zip(numbers("betas"))
            .zip(numbers("alphas_cumprod"))
        {
            let ours = schedule.betas()[index as usize];
            // diffusers' tables are f32, and its product of a thousand factors too.
            assert!(
                (ours - beta).abs() < 3e-8,
                "{name}: beta {index} is {ours}, diffusers' is {beta}"
            );
            let ours = schedule.level(index).alpha.powi(2);
            assert!(
                (ours - cumulative).abs() < 5e-7,
                "{name}: {ours}, diffusers' {cumulative}"
            );
        }
    }
    Ok(())
}

/// The dummy model of the goldens: `x · t / (t + 1)`, with `t` in f32.
struct Dummy;

impl Network<4> for Dummy {
    type Condition = ();
    type Prepared = ();

    fn prepare(&self, (): &()) {}

    fn forward(&self, x: Tensor<4>, points: &[Point], (): &()) -> Tensor<4> {
        let t = points[0].t as f32;
        x.mul_scalar(t).div_scalar(t + 1.0)
    }
}

/// A denoiser with or without clipping, so that one type runs all.
enum Model {
    Plain(Parameterized<Dummy>),
    Clipped(Clip<Parameterized<Dummy>>),
}

impl Denoiser<4> for Model {
    type Condition = ();
    type Prepared = ();

    fn prepare(&self, (): &()) {}

    fn denoise(&self, x: Tensor<4>, points: &[Point], (): &()) -> Estimate<4> {
        match self {
            Self::Plain(model) => model.denoise(x, points, &()),
            Self::Clipped(model) => model.denoise(x, points, &()),
        }
    }
}

/// What a run's class and configuration mean here.
struct Setting {
    schedule: Box<dyn Schedule>,
    grid: Grid,
    solver: Box<dyn Solver>,
    model: Model,
}

/// The largest relative error of the trace, and the largest absolute one of the elements.
fn replay(run: &Value) -> Result<(f64, f64), Failure> {
    let Setting {
        schedule,
        grid,
        solver,
        model,
    } = setting(run)?;
    let stages = solver.plan(schedule.as_ref(), &grid)?;
    let numbers = |key: &str| -> Vec<f64> {
        run[key]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_f64)
            .collect()
    };
    let timesteps = numbers("timesteps");
    assert_eq!(stages.len(), timesteps.len(), "one pass a timestep");
    for (stage, theirs) in stages.iter().zip(&timesteps) {
        // Where they come from sigmas, f32 logarithms of sigmas.
        assert!(
            (stage.at.t - theirs).abs() < 2e-3,
            "t is {}, diffusers' is {theirs}",
            stage.at.t
        );
    }

    let device = Device::flex();
    // (torch.arange(768).reshape(3, 8, 8, 4) / 768).permute(3, 0, 1, 2)
    let start: Vec<f32> = (0..768_usize)
        .map(|i| ((i % 192) * 4 + i / 192) as f32 / 768.0)
        .collect();
    let scale = run["init_noise_sigma"]
        .as_f64()
        .ok_or("no init_noise_sigma")?;
    let start =
        Tensor::<4>::from_data(TensorData::new(start, [4, 3, 8, 8]), &device).mul_scalar(scale);
    let mut noise = Torch::new(0);
    let mut result = Vec::new();
    let mut worst_trace = 0.0_f64;
    let trace = numbers("abs_sum_trace");
    assert_eq!(trace.len(), stages.len());
    let last = stages.len() - 1;
    for (step, golden) in Sampler::new(&model, &(), &stages, start, &mut noise).zip(trace) {
        let values: Vec<f32> = step
            .sample
            .into_data()
            .try_to_vec::<f32>()
            .map_err(|error| format!("{error:?}"))?;
        let sum: f64 = values.iter().map(|value| f64::from(value.abs())).sum();
        worst_trace = worst_trace.max((sum - golden).abs() / golden.abs().max(1.0));
        if step.index == last {
            result = values;
        }
    }
    let ends = result[..8].iter().chain(&result[764..]);
    let goldens = numbers("first8").into_iter().chain(numbers("last4"));
    let worst_element = ends
        .zip(goldens)
        .map(|(ours, theirs)| (f64::from(*ours) - theirs).abs() / theirs.abs().max(1.0))
        .fold(0.0, f64::max);
    Ok((worst_trace, worst_element))
}

fn setting(run: &Value) -> Result<Setting, Failure> {
    let config = &run["config"];
    let steps = run["steps"].as_u64().ok_or("no steps")? as usize;
    let class = run["class"].as_str().ok_or("no class")?;
    let is = |key: &str| config[key].as_bool();
    let number = |key: &str| config[key].as_f64();
    let offset = number("steps_offset").unwrap_or(0.0) as usize;
    let spacing = config["timestep_spacing"].as_str();
    let parameterization = match config["prediction_type"].as_str() {
        None | Some("epsilon") => Parameterization::Noise,
        Some("sample") => Parameterization::Sample,
        Some("v_prediction") => Parameterization::Velocity,
        Some(other) => return Err(format!("prediction type {other}").into()),
    };
    let parameterized = Parameterized::new(Dummy, parameterization);
    let clipped = |default: bool| {
        let threshold = if is("thresholding") == Some(true) {
            Threshold::Dynamic {
                ratio: number("dynamic_thresholding_ratio").unwrap_or(0.995),
                most: number("sample_max_value").unwrap_or(1.0),
            }
        } else if is("clip_sample").unwrap_or(default) {
            Threshold::Static {
                range: number("clip_sample_range").unwrap_or(1.0),
            }
        } else {
            return Model::Plain(Parameterized::new(Dummy, parameterization));
        };
        Model::Clipped(Clip {
            denoiser: Parameterized::new(Dummy, parameterization),
            threshold,
            noise: ClippedNoise::Kept,
        })
    };
    let end = |default: bool| {
        if is("set_alpha_to_one").unwrap_or(default) {
            End::Clean
        } else {
            End::At(0.0)
        }
    };
    let sigma_end = match config["final_sigmas_type"].as_str() {
        Some("sigma_min") => End::At(0.0),
        _ => End::Clean,
    };

    Ok(match class {
        "DDIMScheduler" => {
            let schedule = table(config)?;
            let times = match spacing {
                Some("linspace") => timesteps::linspaced_whole(&schedule, steps)?,
                Some("trailing") => timesteps::trailing(&schedule, steps)?,
                _ => timesteps::leading(&schedule, steps, offset)?,
            };
            Setting {
                grid: Grid::at_times(&schedule, &times, end(true))?,
                schedule: Box::new(schedule),
                solver: Box::new(Ddim {
                    eta: run["step_kwargs"]["eta"].as_f64().unwrap_or(0.0),
                }),
                model: clipped(true),
            }
        }
        "DDPMScheduler" => {
            let schedule = table(config)?;
            let times = timesteps::leading(&schedule, steps, offset)?;
            Setting {
                grid: Grid::at_times(&schedule, &times, End::Clean)?,
                schedule: Box::new(schedule),
                solver: Box::new(Ddpm {
                    variance: match config["variance_type"].as_str() {
                        Some("fixed_large") => Variance::FixedLarge,
                        _ => Variance::FixedSmall,
                    },
                }),
                model: clipped(true),
            }
        }
        "PNDMScheduler" => {
            let schedule = table(config)?;
            let times = timesteps::leading(&schedule, steps, offset)?;
            Setting {
                grid: Grid::at_times(&schedule, &times, end(false))?,
                schedule: Box::new(schedule),
                solver: Box::new(Pndm),
                model: Model::Plain(parameterized),
            }
        }
        "EulerDiscreteScheduler"
        | "EulerAncestralDiscreteScheduler"
        | "HeunDiscreteScheduler"
        | "LMSDiscreteScheduler" => {
            let table = table(config)?;
            let schedule = Exploding(table.clone());
            let grid = if is("use_karras_sigmas") == Some(true) {
                Grid::karras(&schedule, steps, End::Clean)?
            } else if is("use_exponential_sigmas") == Some(true) {
                Grid::exponential(&schedule, steps, End::Clean)?
            } else if is("use_beta_sigmas") == Some(true) {
                // The engine has no beta grid: its ratios are given explicitly.
                let mut ratios: Vec<f64> = run["sigmas"]
                    .as_array()
                    .ok_or("no sigmas")?
                    .iter()
                    .filter_map(Value::as_f64)
                    .collect();
                ratios.pop();
                Grid::at_ratios(&schedule, &ratios, End::Clean)?
            } else {
                let times = match spacing {
                    Some("leading") => timesteps::leading(&table, steps, offset)?,
                    Some("trailing") => timesteps::trailing(&table, steps)?,
                    _ => timesteps::linspaced(&table, steps)?,
                };
                Grid::at_times(&schedule, &times, End::Clean)?
            };
            Setting {
                schedule: Box::new(schedule),
                grid,
                solver: match class {
                    "EulerDiscreteScheduler" => Box::new(Euler),
                    "EulerAncestralDiscreteScheduler" => Box::new(EulerAncestral),
                    "LMSDiscreteScheduler" => Box::new(Lms),
                    _ => Box::new(Heun),
                },
                model: if is("clip_sample") == Some(true) {
                    Model::Clipped(Clip {
                        denoiser: parameterized.trained_on(Line::Preserving),
                        threshold: Threshold::Static {
                            range: number("clip_sample_range").unwrap_or(1.0),
                        },
                        noise: ClippedNoise::Implied,
                    })
                } else {
                    Model::Plain(parameterized.trained_on(Line::Preserving))
                },
            }
        }
        "DPMSolverMultistepScheduler" | "UniPCMultistepScheduler" | "DEISMultistepScheduler" => {
            let sigma_end = match class {
                "DEISMultistepScheduler" => End::At(0.0),
                _ => sigma_end,
            };
            let order = number("solver_order").unwrap_or(2.0) as usize;
            let schedule = table(config)?;
            let grid = if is("use_karras_sigmas") == Some(true) {
                Grid::karras(&schedule, steps, sigma_end)?.with_rounded_times()
            } else if is("use_lu_lambdas") == Some(true) {
                Grid::exponential(&schedule, steps, sigma_end)?.with_rounded_times()
            } else {
                let times = match spacing {
                    // One step more, without its last, as in `multistep`.
                    Some("leading") => {
                        let mut times = timesteps::leading(&schedule, steps + 1, offset)?;
                        times.pop();
                        times
                    }
                    Some("trailing") => timesteps::trailing(&schedule, steps)?,
                    _ => timesteps::multistep(&schedule, steps)?,
                };
                Grid::at_times(&schedule, &times, sigma_end)?
            };
            let midpoint = match config["solver_type"].as_str() {
                Some("heun") => Midpoint::Exact,
                _ => Midpoint::Half,
            };
            Setting {
                schedule: Box::new(schedule),
                grid,
                solver: match config["algorithm_type"].as_str() {
                    _ if class == "UniPCMultistepScheduler" => Box::new(UniPc { order }),
                    _ if class == "DEISMultistepScheduler" => Box::new(Deis {
                        order,
                        ..Deis::default()
                    }),
                    Some("sde-dpmsolver++") => Box::new(SdeDpmSolver2M::default()),
                    _ => Box::new(DpmSolver2M {
                        midpoint,
                        ..DpmSolver2M::default()
                    }),
                },
                model: clipped(false),
            }
        }
        "LCMScheduler" | "TCDScheduler" => {
            let schedule = table(config)?;
            let times = timesteps::distilled(&schedule, 50, steps)?;
            Setting {
                grid: Grid::at_times(&schedule, &times, End::At(0.0))?,
                schedule: Box::new(schedule),
                solver: match run["step_kwargs"]["eta"].as_f64() {
                    Some(gamma) => Box::new(Tcd { gamma }),
                    None => Box::new(Lcm::default()),
                },
                model: Model::Plain(parameterized),
            }
        }
        "EDMEulerScheduler" | "EDMDPMSolverMultistepScheduler" => {
            let schedule = Edm::new(
                number("sigma_min").ok_or("no sigma_min")?,
                number("sigma_max").ok_or("no sigma_max")?,
            )?;
            Setting {
                grid: Grid::karras(&schedule, steps, End::Clean)?,
                schedule: Box::new(schedule),
                solver: match class {
                    "EDMEulerScheduler" => Box::new(Euler),
                    _ => Box::new(DpmSolver2M::default()),
                },
                model: Model::Plain(Parameterized::new(
                    Dummy,
                    Parameterization::Karras { sigma_data: 0.5 },
                )),
            }
        }
        "FlowMatchEulerDiscreteScheduler" | "FlowMatchHeunDiscreteScheduler" => {
            let schedule = FlowMatching::new(1000.0, number("shift").unwrap_or(1.0))?;
            let sigma_min = schedule.shifted(1e-3);
            Setting {
                grid: Grid::flow(&schedule, steps, sigma_min)?,
                schedule: Box::new(schedule),
                solver: match class {
                    "FlowMatchEulerDiscreteScheduler" => Box::new(Euler),
                    _ => Box::new(Heun),
                },
                model: Model::Plain(Parameterized::new(Dummy, Parameterization::Flow)),
            }
        }
        other => return Err(format!("no setting for {other}").into()),
    })
}

fn table(config: &Value) -> Result<Discrete, Failure> {
    let n = config["num_train_timesteps"]
        .as_u64()
        .ok_or("no num_train_timesteps")? as usize;
    let beta = |key: &str| config[key].as_f64().ok_or_else(|| format!("no {key}"));
    let schedule = match config["beta_schedule"].as_str() {
        Some("scaled_linear") => {
            Discrete::scaled_linear(n, beta("beta_start")?, beta("beta_end")?)?
        }
        Some("squaredcos_cap_v2") => Discrete::squared_cosine(n)?,
        _ => Discrete::linear(n, beta("beta_start")?, beta("beta_end")?)?,
    };
    if config["rescale_betas_zero_snr"].as_bool() == Some(true) {
        return Ok(schedule.with_zero_terminal_snr()?);
    }
    Ok(schedule)
}
