//! How a model is sampled: its noise schedule, solvers by name, and the grids that diffusers gives them.

use std::fmt;
use std::str::FromStr;

use clearway_diffusion::{
    Deis, Discrete, End, Exploding, Grid, GridError, Lcm, Line, Method, Parameterization, Schedule,
    ScheduleError, Solver, Stage, Threshold, UniPc, timesteps,
};
use serde_json::{Value, json};

use super::GenerateError;
use crate::LoadError;
use crate::config::{Config, Entry};

/// How a method's levels are spaced in diffusers where a model does not say.
fn usual_spacing(method: Method) -> Spacing {
    match method {
        Method::Ddim | Method::Ddpm | Method::Pndm => Spacing::Leading,
        Method::Lcm | Method::Tcd | Method::Consistency => Spacing::Distilled,
        _ => Spacing::Linspace,
    }
}

/// Whether diffusers writes a method in σ-space, where Karras' grids are told fractional times and the first noise has
/// the deviation σ.
fn is_in_sigma_space(method: Method) -> bool {
    matches!(
        method,
        Method::Euler | Method::EulerAncestral | Method::Heun | Method::Lms
    )
}

fn is_multistep(method: Method) -> bool {
    matches!(
        method,
        Method::DpmSolver2M | Method::SdeDpmSolver2M | Method::UniPc | Method::Deis
    )
}

/// How the levels of a grid are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Spacing {
    /// [`timesteps::leading`].
    Leading,
    /// [`timesteps::linspaced`], as each method has it.
    Linspace,
    /// [`timesteps::trailing`].
    Trailing,
    /// [`Grid::karras`].
    Karras,
    /// [`Grid::exponential`].
    Exponential,
    /// [`timesteps::distilled`].
    Distilled,
}

impl Spacing {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Leading,
        Self::Linspace,
        Self::Trailing,
        Self::Karras,
        Self::Exponential,
        Self::Distilled,
    ];

    /// Its name in commands and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Leading => "leading",
            Self::Linspace => "linspace",
            Self::Trailing => "trailing",
            Self::Karras => "karras",
            Self::Exponential => "exponential",
            Self::Distilled => "distilled",
        }
    }
}

impl fmt::Display for Spacing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no [`Method`] or [`Spacing`] has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no {kind} is called `{name}`; there are {known}")]
pub struct UnknownName {
    /// What was looked for.
    pub kind: &'static str,
    /// The name.
    pub name: String,
    /// Those that there are.
    pub known: String,
}

impl FromStr for Spacing {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let named = Self::ALL.into_iter().find(|spacing| spacing.name() == name);
        named.ok_or_else(|| UnknownName {
            kind: "grid",
            name: name.to_owned(),
            known: Self::ALL.map(Self::name).join(", "),
        })
    }
}

/// What a model says about noise: diffusers' `scheduler_config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerConfig {
    /// The solver that the model was published with; none where the engine has not got it.
    pub method: Option<Method>,
    /// diffusers' name of that solver.
    pub class: String,
    /// How much noise there is at a timestep.
    pub schedule: Discrete,
    /// What the U-Net predicts.
    pub parameterization: Parameterization,
    /// How levels are spaced, where the model says.
    pub spacing: Option<Spacing>,
    /// What is added to the timesteps of a leading grid.
    pub steps_offset: usize,
    /// Whether DDIM and PNDM end at the data, and not at the first timestep.
    pub set_alpha_to_one: bool,
    /// Whether the solvers of σ-space and the multistep ones end at the data, and not at the first timestep.
    pub sigmas_end_at_zero: bool,
    /// The order of UniPC and DEIS.
    pub solver_order: usize,
    /// How clean estimates are bounded, in the solvers that do so in diffusers.
    pub clip: Option<Threshold>,
    /// The strides that a distilled network knows.
    pub original_inference_steps: usize,
    /// What LCM multiplies a timestep by.
    pub timestep_scaling: f64,
}

/// The most timesteps of a table, and steps of a distilled grid.
const MOST: usize = 100_000;

impl SchedulerConfig {
    /// Stable Diffusion 1's, which single files do not hold.
    ///
    /// # Errors
    ///
    /// None: the table is valid.
    pub fn stable_diffusion() -> Result<Self, LoadError> {
        let said = json!({
            "_class_name": "PNDMScheduler",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "clip_sample": false,
            "set_alpha_to_one": false,
            "skip_prk_steps": true,
            "steps_offset": 1,
        });
        Self::read(&Config::new("Stable Diffusion's schedule", said)?)
    }

    /// Reads what diffusers calls a scheduler's configuration. What is not said is the default of its class there.
    ///
    /// # Errors
    ///
    /// If an entry has a value that cannot be, or one that is not supported.
    pub fn read(config: &Config) -> Result<Self, LoadError> {
        let root = config.root();
        root.unsupported(&[
            ("use_beta_sigmas", &[json!(false)]),
            ("use_lu_lambdas", &[json!(false)]),
            ("use_flow_sigmas", &[json!(false)]),
            ("interpolation_type", &[json!("linear")]),
        ])?;
        let class = match root.find("_class_name")? {
            Some(entry) => entry.string()?.to_owned(),
            None => "PNDMScheduler".into(),
        };
        let stochastic = match root.find("algorithm_type")? {
            Some(entry) => entry.word(&[
                ("dpmsolver++", false),
                ("dpmsolver", false),
                ("sde-dpmsolver++", true),
            ])?,
            None => false,
        };
        let solver_order = root.integer_or("solver_order", 2, 1..=3)?;
        let method = method_of(&class, stochastic).filter(|&method| is_usual(&root, method));
        if method == Some(Method::Pndm) {
            root.unsupported(&[("skip_prk_steps", &[json!(true)])])?;
        }
        // Of these classes alone clipping is the default.
        let clips = matches!(
            method,
            Some(Method::Ddim | Method::Ddpm | Method::Lcm | Method::Tcd)
        );
        let is_positive = |v: f64| v > 0.0;
        let clip = if root.boolean_or("thresholding", false)? {
            Some(Threshold::Dynamic {
                ratio: root.number_or(
                    "dynamic_thresholding_ratio",
                    0.995,
                    |v| (0.0..=1.0).contains(&v),
                    "a number from 0 to 1",
                )?,
                most: root.number_or("sample_max_value", 1.0, |v| v >= 1.0, "1 or more")?,
            })
        } else if root.boolean_or("clip_sample", clips)? {
            Some(Threshold::Static {
                range: root.number_or(
                    "clip_sample_range",
                    1.0,
                    is_positive,
                    "a positive number",
                )?,
            })
        } else {
            None
        };
        let mut spacing = match root.find("timestep_spacing")? {
            Some(entry) => Some(entry.word(&[
                ("leading", Spacing::Leading),
                ("linspace", Spacing::Linspace),
                ("trailing", Spacing::Trailing),
            ])?),
            None => None,
        };
        if root.boolean_or("use_karras_sigmas", false)? {
            spacing = Some(Spacing::Karras);
        }
        if root.boolean_or("use_exponential_sigmas", false)? {
            spacing = Some(Spacing::Exponential);
        }
        Ok(Self {
            class,
            schedule: schedule(&root)?,
            parameterization: root.one_of(
                "prediction_type",
                &[
                    ("epsilon", Parameterization::Noise),
                    ("v_prediction", Parameterization::Velocity),
                    ("sample", Parameterization::Sample),
                ],
            )?,
            spacing,
            steps_offset: root.integer_or("steps_offset", 0, 0..=MOST)?,
            set_alpha_to_one: root.boolean_or("set_alpha_to_one", method != Some(Method::Pndm))?,
            sigmas_end_at_zero: root
                .one_of("final_sigmas_type", &[("zero", true), ("sigma_min", false)])?,
            solver_order,
            clip,
            original_inference_steps: root.integer_or("original_inference_steps", 50, 1..=MOST)?,
            timestep_scaling: root.number_or(
                "timestep_scaling",
                10.0,
                is_positive,
                "a positive number",
            )?,
            method,
        })
    }

    /// How clean estimates are bounded by a method: as in diffusers, where some never do.
    pub(crate) fn clip(&self, method: Method) -> Option<Threshold> {
        match method {
            Method::Ddim | Method::Ddpm | Method::Lcm | Method::Tcd => self.clip,
            _ if is_multistep(method) => {
                (self.clip).filter(|clip| matches!(clip, Threshold::Dynamic { .. }))
            }
            _ => None,
        }
    }
}

/// The solver of diffusers' name.
fn method_of(class: &str, stochastic: bool) -> Option<Method> {
    Some(match class {
        "PNDMScheduler" => Method::Pndm,
        "DDIMScheduler" => Method::Ddim,
        "DDPMScheduler" => Method::Ddpm,
        "EulerDiscreteScheduler" => Method::Euler,
        "EulerAncestralDiscreteScheduler" => Method::EulerAncestral,
        "HeunDiscreteScheduler" => Method::Heun,
        "DPMSolverMultistepScheduler" if stochastic => Method::SdeDpmSolver2M,
        "DPMSolverMultistepScheduler" => Method::DpmSolver2M,
        "UniPCMultistepScheduler" => Method::UniPc,
        "DEISMultistepScheduler" => Method::Deis,
        "LMSDiscreteScheduler" => Method::Lms,
        "LCMScheduler" => Method::Lcm,
        "TCDScheduler" => Method::Tcd,
        _ => return None,
    })
}

/// Whether a solver is asked for in the form that the engine has of it.
fn is_usual(root: &Entry<'_>, method: Method) -> bool {
    let usual: &[(&str, &[Value])] = match method {
        Method::UniPc => &[
            ("predict_x0", &[json!(true)]),
            // diffusers takes the names of other solvers' types for this one.
            (
                "solver_type",
                &[
                    json!("bh2"),
                    json!("midpoint"),
                    json!("heun"),
                    json!("logrho"),
                ],
            ),
            ("lower_order_final", &[json!(true)]),
            ("disable_corrector", &[json!([])]),
            ("solver_p", &[]),
        ],
        Method::Deis => &[("lower_order_final", &[json!(true)])],
        Method::DpmSolver2M | Method::SdeDpmSolver2M => &[("solver_order", &[json!(2)])],
        _ => &[],
    };
    root.unsupported(usual).is_ok()
}

/// The table of the noise.
fn schedule(root: &Entry<'_>) -> Result<Discrete, LoadError> {
    let length = root.integer_or("num_train_timesteps", 1000, 2..=MOST)?;
    let is_beta = |v: f64| v > 0.0 && v < 1.0;
    let beta = |name, default| root.number_or(name, default, is_beta, "a number between 0 and 1");
    let (start, end) = (beta("beta_start", 0.0001)?, beta("beta_end", 0.02)?);
    let wrong = |error: ScheduleError| root.wrong(format!("a noise schedule ({error})"));
    let table = match root.find("trained_betas")? {
        Some(list) => {
            let betas = list
                .list()?
                .iter()
                .map(Entry::number)
                .collect::<Result<_, _>>()?;
            Discrete::from_betas(betas).map_err(|error| list.wrong(error.to_string()))?
        }
        None => root.one_of(
            "beta_schedule",
            &[
                (
                    "linear",
                    Discrete::linear as fn(usize, f64, f64) -> Result<Discrete, ScheduleError>,
                ),
                ("scaled_linear", Discrete::scaled_linear),
                ("squaredcos_cap_v2", |n, _, _| Discrete::squared_cosine(n)),
            ],
        )?(length, start, end)
        .map_err(wrong)?,
    };
    if root.boolean_or("rescale_betas_zero_snr", false)? {
        return table.with_zero_terminal_snr().map_err(wrong);
    }
    Ok(table)
}

/// A solver, a number of steps, and how they are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// The solver.
    pub method: Method,
    /// The steps of its grid; a pass each, unless the method says otherwise.
    pub steps: usize,
    /// How the levels are spaced; none leaves it to the model and the method.
    pub spacing: Option<Spacing>,
}

/// The passes of a picture, and where they begin.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// A network pass each.
    pub stages: Vec<Stage>,
    /// The line on which the levels lie, where it is not the network's.
    pub(crate) line: Option<Line>,
    /// What unit noise is multiplied by to be a sample at the first stage.
    pub(crate) start: f64,
}

impl Sampling {
    /// The stages: the grid that diffusers' solver of that name has.
    ///
    /// `strength` is the share of the steps that are done, from the last one back: all without a picture to begin with.
    /// The share is rounded down, as in diffusers.
    ///
    /// # Errors
    ///
    /// If the schedule cannot be sampled so, or no step is left.
    pub fn plan(
        self,
        config: &SchedulerConfig,
        strength: Option<f64>,
    ) -> Result<Plan, GenerateError> {
        let Self { method, steps, .. } = self;
        let table = &config.schedule;
        let sigma_space = Exploding(table.clone());
        // Heun's step is another one on another line; the others take the same steps on both.
        let schedule: &dyn Schedule = if method == Method::Heun {
            &sigma_space
        } else {
            table
        };
        let ends_clean = match method {
            Method::Ddim | Method::Pndm => config.set_alpha_to_one,
            Method::Lcm | Method::Tcd | Method::Deis => false,
            Method::Ddpm | Method::Lms => true,
            _ => config.sigmas_end_at_zero,
        };
        let end = if ends_clean { End::Clean } else { End::At(0.0) };
        let spacing = match usual_spacing(method) {
            Spacing::Distilled => self.spacing.unwrap_or(Spacing::Distilled),
            usual => self.spacing.or(config.spacing).unwrap_or(usual),
        };
        let offset = config.steps_offset;
        let more = || steps.checked_add(1).unwrap_or(steps);
        let times = match spacing {
            Spacing::Leading if is_multistep(method) => {
                let mut times = timesteps::leading(table, more(), offset)?;
                times.pop();
                Some(times)
            }
            Spacing::Leading => Some(timesteps::leading(table, steps, offset)?),
            Spacing::Trailing => Some(timesteps::trailing(table, steps)?),
            Spacing::Linspace if is_multistep(method) => Some(timesteps::multistep(table, steps)?),
            Spacing::Linspace if is_in_sigma_space(method) => {
                Some(timesteps::linspaced(table, steps)?)
            }
            Spacing::Linspace => Some(timesteps::linspaced_whole(table, steps)?),
            Spacing::Distilled => {
                let origin = config.original_inference_steps;
                Some(timesteps::distilled(table, origin, steps)?)
            }
            Spacing::Karras | Spacing::Exponential => None,
        };
        let grid = if let Some(times) = times {
            Grid::at_times(schedule, &times, end)?
        } else {
            if steps > table.len() {
                return Err(GridError::Steps {
                    timesteps: table.len(),
                    steps,
                }
                .into());
            }
            let grid = match spacing {
                Spacing::Exponential => Grid::exponential(schedule, steps, end)?,
                _ => Grid::karras(schedule, steps, end)?,
            };
            if is_in_sigma_space(method) {
                grid
            } else {
                grid.with_rounded_times()
            }
        };
        let grid = match strength {
            Some(strength) => {
                let done = ((steps as f64 * strength) as usize).min(steps);
                if done == 0 {
                    return Err(GenerateError::Strength { strength, steps });
                }
                grid.without_first(steps - done)?
            }
            None => grid,
        };
        let order = config.solver_order;
        let solver: Box<dyn Solver> = match method {
            Method::Lcm => Box::new(Lcm {
                timestep_scaling: config.timestep_scaling,
                ..Lcm::default()
            }),
            Method::UniPc => Box::new(UniPc { order }),
            Method::Deis => Box::new(Deis {
                order,
                ..Deis::default()
            }),
            method => method.solver(),
        };
        let level = grid.start().level;
        // In σ-space diffusers begins with σ · noise, but for a leading grid, which begins with √(σ² + 1) · noise.
        let start = if is_in_sigma_space(method) && spacing != Spacing::Leading {
            level.sigma
        } else {
            level.magnitude()
        };
        Ok(Plan {
            stages: solver.plan(schedule, &grid)?,
            line: (method == Method::Heun).then_some(Line::Preserving),
            start,
        })
    }
}

impl Entry<'_> {
    fn number(&self) -> Result<f64, LoadError> {
        self.float().ok_or_else(|| self.wrong("a number"))
    }
}

/// The configuration of a model's noise: its own, or Stable Diffusion 1's.
pub(super) fn scheduler_config(found: Option<Value>) -> Result<SchedulerConfig, LoadError> {
    match found {
        Some(value) => SchedulerConfig::read(&Config::new("scheduler_config.json", value)?),
        None => SchedulerConfig::stable_diffusion(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(value: Value) -> Result<SchedulerConfig, LoadError> {
        SchedulerConfig::read(&Config::new("scheduler_config.json", value)?)
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for method in Method::ALL {
            assert_eq!(method.name().parse(), Ok(method));
        }
        for spacing in Spacing::ALL {
            assert_eq!(spacing.name().parse(), Ok(spacing));
        }
        let error = "karas".parse::<Spacing>().expect_err("a misspelling");
        assert!(
            error
                .to_string()
                .starts_with("no grid is called `karas`; there are leading, ")
        );
    }

    #[test]
    fn stable_diffusions_schedule_is_that_of_its_reference() {
        let config = SchedulerConfig::stable_diffusion().expect("valid");
        let cumulative = |t: usize| config.schedule.levels()[t].alpha.powi(2);
        assert!((cumulative(0) - 0.999_15).abs() < 1e-6);
        assert!((cumulative(999) - 0.004_660_1).abs() < 1e-6);
        assert_eq!(config.method, Some(Method::Pndm));
        let plan = Sampling {
            method: Method::Ddim,
            steps: 5,
            spacing: None,
        }
        .plan(&config, None)
        .expect("it fits");
        let times: Vec<f64> = plan.stages.iter().map(|stage| stage.at.t).collect();
        assert_eq!(times, [801.0, 601.0, 401.0, 201.0, 1.0]);
    }

    #[test]
    fn every_method_plans_on_every_grid() {
        let config = SchedulerConfig::stable_diffusion().expect("valid");
        for method in Method::ALL {
            for spacing in [None].into_iter().chain(Spacing::ALL.map(Some)) {
                for steps in [1, 2, 10, 20] {
                    let sampling = Sampling {
                        method,
                        steps,
                        spacing,
                    };
                    let plan = sampling.plan(&config, None).expect("it fits");
                    let passes = match method {
                        Method::Heun => 2 * steps - 1,
                        Method::Pndm if steps > 1 => steps + 1,
                        _ => steps,
                    };
                    assert_eq!(plan.stages.len(), passes, "{method}-{steps} {spacing:?}");
                }
                let sampling = Sampling {
                    method,
                    steps: 1001,
                    spacing,
                };
                assert!(sampling.plan(&config, None).is_err());
            }
        }
    }

    #[test]
    fn strength_is_the_share_of_the_steps() {
        let config = SchedulerConfig::stable_diffusion().expect("valid");
        let sampling = Sampling {
            method: Method::Ddim,
            steps: 20,
            spacing: None,
        };
        // 20 · 0.29 is 5.8, of which diffusers takes 5.
        for (strength, left) in [(1.0, 20), (0.75, 15), (0.29, 5), (0.05, 1)] {
            let plan = sampling.plan(&config, Some(strength)).expect("it fits");
            assert_eq!(plan.stages.len(), left);
        }
        let error = sampling.plan(&config, Some(0.04)).expect_err("no step");
        assert_eq!(
            error.to_string(),
            "a strength of 0.04 leaves none of 20 steps; take more of either"
        );
    }

    #[test]
    fn what_is_not_said_is_the_default_of_the_class() {
        let ddim = config(json!({"_class_name": "DDIMScheduler"})).expect("supported");
        assert!(ddim.set_alpha_to_one);
        assert_eq!(ddim.clip, Some(Threshold::Static { range: 1.0 }));
        assert_eq!(ddim.clip(Method::Euler), None);
        let euler = config(json!({
            "_class_name": "EulerDiscreteScheduler",
            "prediction_type": "v_prediction",
            "timestep_spacing": "trailing",
            "rescale_betas_zero_snr": true,
            "beta_schedule": "scaled_linear",
            "use_karras_sigmas": null,
        }))
        .expect("supported");
        assert_eq!(euler.parameterization, Parameterization::Velocity);
        assert_eq!(
            euler.schedule.levels()[999].alpha.to_bits(),
            0.0_f64.to_bits()
        );
        let unipc = |entries: Value| {
            let mut said = json!({"_class_name": "UniPCMultistepScheduler"});
            said.as_object_mut()
                .expect("an object")
                .extend(entries.as_object().expect("an object").clone());
            config(said).expect("the noise is known").method
        };
        let usual = json!({"predict_x0": true, "solver_type": "bh2", "disable_corrector": []});
        assert_eq!(unipc(json!({})), Some(Method::UniPc));
        assert_eq!(unipc(usual), Some(Method::UniPc));
        assert_eq!(unipc(json!({"solver_type": "bh1"})), None);
        assert_eq!(unipc(json!({"disable_corrector": [0]})), None);
        let unknown = config(json!({"_class_name": "KDPM2DiscreteScheduler"}));
        assert_eq!(unknown.expect("the noise is known").method, None);
        for (wrong, named) in [
            (json!({"beta_schedule": "sigmoid"}), "beta_schedule"),
            (json!({"beta_start": -1.0}), "beta_start"),
            (json!({"trained_betas": [0.1, 2.0]}), "trained_betas"),
            (json!({"skip_prk_steps": false}), "skip_prk_steps"),
            (json!({"use_beta_sigmas": true}), "use_beta_sigmas"),
        ] {
            let error = config(wrong).expect_err(named).to_string();
            assert!(error.contains(&format!("`{named}`")), "{error}");
        }
    }
}
