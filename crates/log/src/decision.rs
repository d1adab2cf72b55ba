//! Events as they stand in a log, and back.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clearway_motion::{Check, Checks, Interpolation, Limits, Trajectory, Verified};
use clearway_planner::replanner::log::{Decision, Event, Made, Verdict};
use clearway_planner::{
    Arithmetic, Failure, History, Image, Level, Observation, Outcome, Plan, PlanError, Precision,
    Reason, Sampling, Status,
};
use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::error::{LogError, Wrong};
use crate::number::{Number, Time, digits, numbers, values};

/// What enumerations are called in a log. One that has no name here cannot be written.
const INTERPOLATIONS: [(&str, Interpolation); 4] = [
    ("hold", Interpolation::Hold),
    ("linear", Interpolation::Linear),
    ("cubic", Interpolation::Cubic),
    ("quintic", Interpolation::Quintic),
];
const CHECKS: [(&str, Check); 8] = [
    ("finite", Check::Finite),
    ("age", Check::Age),
    ("start", Check::Start),
    ("position", Check::Position),
    ("velocity", Check::Velocity),
    ("acceleration", Check::Acceleration),
    ("jerk", Check::Jerk),
    ("workspace", Check::Workspace),
];
const REASONS: [(&str, Reason); 11] = [
    ("starting", Reason::Starting),
    ("late", Reason::Late),
    ("stalled", Reason::Stalled),
    ("no plan", Reason::NoPlan),
    ("unsafe", Reason::Unsafe),
    ("diverged", Reason::Diverged),
    ("observation", Reason::Observation),
    ("hung", Reason::Hung),
    ("panicked", Reason::Panicked),
    ("gone", Reason::Gone),
    ("command", Reason::Command),
];

const PRECISIONS: [(&str, Precision); 6] = [
    ("f32", Precision::F32),
    ("bf16", Precision::Bf16),
    ("int8", Precision::Int8),
    ("int4/32", Precision::Int4 { group: 32 }),
    ("int4/64", Precision::Int4 { group: 64 }),
    ("int4/128", Precision::Int4 { group: 128 }),
];
const LEVELS: [(&str, Level); 8] = [
    ("portable", Level::Portable),
    ("neon", Level::Neon),
    ("neon-dot", Level::NeonDot),
    ("neon-bf16", Level::NeonBf16),
    ("avx2", Level::Avx2),
    ("avx512", Level::Avx512),
    ("avx512-vnni", Level::Avx512Vnni),
    ("avx512-bf16", Level::Avx512Bf16),
];

/// The name of a value.
fn name<T: PartialEq + std::fmt::Debug>(
    names: &[(&'static str, T)],
    value: &T,
) -> Result<String, String> {
    let known = names.iter().find(|(_, known)| known == value);
    known
        .map(|(name, _)| (*name).to_owned())
        .ok_or_else(|| format!("{value:?}"))
}

/// The value of a name.
fn named<T: Copy>(names: &[(&'static str, T)], name: &str, field: &str) -> Result<T, Wrong> {
    let known = names.iter().find(|(known, _)| *known == name);
    known.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        Wrong::new(
            field,
            &format_args!("`{name}` is none of {}", names.join(", ")),
        )
    })
}

/// A [`Decision`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DecisionMessage {
    plan: u64,
    step: u64,
    asked: Time,
    age: Time,
    #[serde(with = "digits")]
    seed: u64,
    latency: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    budget: Option<Time>,
    observations: Vec<ObservationMessage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    committed: Option<TrajectoryMessage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<TrajectoryMessage>,
    overlap: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limits: Option<Vec<Bounds>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made: Option<MadeMessage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    elapsed: Time,
}

impl DecisionMessage {
    /// Writes down what was decided.
    pub(crate) fn new(decision: &Decision) -> Result<Self, LogError> {
        Self::of(decision).map_err(|what| LogError::Unwritable {
            event: format!("decision {}", decision.plan),
            what,
        })
    }

    fn of(decision: &Decision) -> Result<Self, String> {
        let (made, failure) = match &decision.result {
            Ok(made) => (Some(MadeMessage::new(made)?), None),
            Err(failure) => (None, Some(failure.to_string())),
        };
        let observations = decision.observations.observations();
        Ok(Self {
            plan: decision.plan,
            step: decision.step,
            asked: decision.asked.into(),
            age: decision.age.into(),
            seed: decision.seed,
            latency: decision.latency,
            budget: decision.budget.map(Time::from),
            observations: observations.iter().map(ObservationMessage::new).collect(),
            committed: decision
                .committed
                .as_ref()
                .map(TrajectoryMessage::new)
                .transpose()?,
            previous: decision
                .previous
                .as_ref()
                .map(TrajectoryMessage::new)
                .transpose()?,
            overlap: decision.overlap,
            limits: decision.limits.as_ref().map(bounds).transpose()?,
            made,
            failure,
            elapsed: decision.elapsed.into(),
        })
    }

    /// The decision as it was; a failure has the words that it had.
    pub(crate) fn restore(self) -> Result<Decision, Wrong> {
        let observations = self
            .observations
            .into_iter()
            .enumerate()
            .map(|(index, observation)| {
                let restored = observation.restore();
                restored.map_err(|wrong| wrong.within(&format!("observations[{index}]")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let observations =
            History::new(observations).map_err(|error| Wrong::new("observations", &error))?;
        let trajectory = |message: Option<TrajectoryMessage>, field| {
            let restored = message.map(TrajectoryMessage::restore).transpose();
            restored.map_err(|wrong| wrong.within(field))
        };
        let result = match (self.made, self.failure) {
            (Some(made), None) => Ok(made.restore().map_err(|wrong| wrong.within("made"))?),
            (None, Some(message)) => Err(Failure::Plan(PlanError::Recorded { message })),
            (Some(_), Some(_)) => {
                return Err(Wrong::new("failure", &"there is a plan all the same"));
            }
            (None, None) => {
                return Err(Wrong::new("made", &"there is neither a plan nor a failure"));
            }
        };
        Ok(Decision {
            plan: self.plan,
            step: self.step,
            asked: self.asked.into(),
            age: self.age.into(),
            seed: self.seed,
            latency: self.latency,
            budget: self.budget.map(Duration::from),
            observations,
            committed: trajectory(self.committed, "committed")?,
            previous: trajectory(self.previous, "previous")?,
            overlap: self.overlap,
            limits: self.limits.map(|bounds| limits(&bounds)).transpose()?,
            result,
            elapsed: self.elapsed.into(),
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ObservationMessage {
    time: Time,
    features: Vec<Feature>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    images: Vec<ImageMessage>,
}

/// A picture: bytes `[height, width, 3]`, or little-endian f32 `[3, height, width]`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageMessage {
    name: String,
    height: usize,
    width: usize,
    encoding: Encoding,
    /// In base64, RFC 4648.
    data: String,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Encoding {
    #[serde(rename = "rgb8")]
    Bytes,
    #[serde(rename = "chw-f32")]
    Floats,
}

impl ImageMessage {
    fn new(name: &str, image: &Image) -> Self {
        let (encoding, data) = if let Some(bytes) = image.rgb8() {
            (Encoding::Bytes, BASE64_STANDARD.encode(bytes))
        } else {
            let values = image.to_chw();
            let bytes = values.iter().flat_map(|value| value.to_le_bytes());
            let bytes: Vec<u8> = bytes.collect();
            (Encoding::Floats, BASE64_STANDARD.encode(bytes))
        };
        Self {
            name: name.to_owned(),
            height: image.height(),
            width: image.width(),
            encoding,
            data,
        }
    }

    fn restore(&self) -> Result<Image, Wrong> {
        let data = BASE64_STANDARD.decode(&self.data);
        let data = data.map_err(|error| Wrong::new("data", &error))?;
        let image = match self.encoding {
            Encoding::Bytes => Image::from_rgb8(self.height, self.width, data),
            Encoding::Floats => {
                let (values, rest) = data.as_chunks::<4>();
                if !rest.is_empty() {
                    let found = data.len();
                    let reason = format_args!("has {found} bytes, which are no whole numbers");
                    return Err(Wrong::new("data", &reason));
                }
                let values: Vec<f32> = values
                    .iter()
                    .map(|&four| f32::from_le_bytes(four))
                    .collect();
                Image::from_chw(self.height, self.width, values)
            }
        };
        image.map_err(|error| Wrong::new("data", &error))
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Feature {
    name: String,
    values: Vec<Number>,
}

impl ObservationMessage {
    fn new(observation: &Observation) -> Self {
        let features = observation.features().map(|(name, values)| Feature {
            name: name.to_owned(),
            values: numbers(values),
        });
        Self {
            time: observation.time().into(),
            features: features.collect(),
            images: observation
                .images()
                .map(|(name, image)| ImageMessage::new(name, image))
                .collect(),
        }
    }

    fn restore(self) -> Result<Observation, Wrong> {
        let mut observation = Observation::new(self.time.into());
        for (index, Feature { name, values: all }) in self.features.into_iter().enumerate() {
            if observation.get(&name).is_some() {
                let field = format!("features[{index}].name");
                return Err(Wrong::new(
                    &field,
                    &format_args!("`{name}` is there already"),
                ));
            }
            observation = observation.with(name, values(&all));
        }
        for (index, message) in self.images.iter().enumerate() {
            if observation.image(&message.name).is_some() {
                let reason = format!("`{}` is there already", message.name);
                return Err(Wrong::new(&format!("images[{index}].name"), &reason));
            }
            let image = message.restore();
            let image = image.map_err(|wrong| wrong.within(&format!("images[{index}]")))?;
            observation = observation.with_image(message.name.clone(), image);
        }
        Ok(observation)
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TrajectoryMessage {
    interpolation: String,
    dof: usize,
    points: Vec<Point>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    time: Time,
    positions: Vec<f64>,
    velocities: Vec<f64>,
    accelerations: Vec<f64>,
}

impl TrajectoryMessage {
    fn new(trajectory: &Trajectory) -> Result<Self, String> {
        let points = trajectory.waypoints().map(|waypoint| Point {
            time: waypoint.time.into(),
            positions: waypoint.position.to_vec(),
            velocities: waypoint.velocity.to_vec(),
            accelerations: waypoint.acceleration.to_vec(),
        });
        Ok(Self {
            interpolation: name(&INTERPOLATIONS, &trajectory.interpolation())
                .map_err(|what| format!("the interpolation {what}"))?,
            dof: trajectory.dof(),
            points: points.collect(),
        })
    }

    fn restore(self) -> Result<Trajectory, Wrong> {
        let interpolation = named(&INTERPOLATIONS, &self.interpolation, "interpolation")?;
        let table = |field, of: fn(&Point) -> &[f64]| {
            let mut all = Vec::new();
            for (index, point) in self.points.iter().enumerate() {
                let row = of(point);
                if row.len() != self.dof {
                    let (field, found) = (format!("points[{index}].{field}"), row.len());
                    let reason = format!("has {found} values; `dof` is {}", self.dof);
                    return Err(Wrong { field, reason });
                }
                all.extend_from_slice(row);
            }
            Array2::from_shape_vec([self.points.len(), self.dof], all)
                .map_err(|error| Wrong::new("dof", &error))
        };
        let times = self.points.iter().map(|point| point.time.into()).collect();
        let positions = table("positions", |point| &point.positions)?;
        let velocities = table("velocities", |point| &point.velocities)?;
        let accelerations = table("accelerations", |point| &point.accelerations)?;
        Trajectory::new(times, positions, interpolation)
            .and_then(|trajectory| trajectory.with_velocities(velocities))
            .and_then(|trajectory| trajectory.with_accelerations(accelerations))
            .map_err(|error| Wrong::new("points", &error))
    }
}

/// What one coordinate must keep; what is not there is no limit.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bounds {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lower: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upper: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    velocity: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    acceleration: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jerk: Option<Number>,
}

fn bounds(limits: &Limits) -> Result<Vec<Bounds>, String> {
    let unless =
        |value: f64, none: f64| (value.to_bits() != none.to_bits()).then_some(Number(value));
    let bounds: Vec<Bounds> = (0..limits.dof())
        .map(|j| Bounds {
            lower: unless(limits.lower()[j], f64::NEG_INFINITY),
            upper: unless(limits.upper()[j], f64::INFINITY),
            velocity: unless(limits.velocity()[j], f64::INFINITY),
            acceleration: unless(limits.acceleration()[j], f64::INFINITY),
            jerk: unless(limits.jerk()[j], f64::INFINITY),
        })
        .collect();
    // A bound of a kind that came later would be lost.
    match self::limits(&bounds) {
        Ok(again) if again == *limits => Ok(bounds),
        _ => Err(format!("the limits {limits:?}")),
    }
}

fn limits(bounds: &[Bounds]) -> Result<Limits, Wrong> {
    let column = |of: fn(&Bounds) -> Option<Number>, none: f64| -> Vec<f64> {
        let values = bounds
            .iter()
            .map(|bounds| of(bounds).map(|Number(value)| value));
        values.map(|value| value.unwrap_or(none)).collect()
    };
    let lower = column(|bounds| bounds.lower, f64::NEG_INFINITY);
    let upper = column(|bounds| bounds.upper, f64::INFINITY);
    Limits::unlimited(bounds.len())
        .with_position(&lower, &upper)
        .and_then(|limits| limits.with_velocity(&column(|bounds| bounds.velocity, f64::INFINITY)))
        .and_then(|limits| {
            limits.with_acceleration(&column(|bounds| bounds.acceleration, f64::INFINITY))
        })
        .and_then(|limits| limits.with_jerk(&column(|bounds| bounds.jerk, f64::INFINITY)))
        .map_err(|error| Wrong::new("limits", &error))
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MadeMessage {
    plan: PlanMessage,
    candidate: usize,
    seam: u64,
    until: u64,
    trajectory: TrajectoryMessage,
    /// What was checked of the trajectory, and what does not apply.
    applied: Vec<String>,
    inapplicable: Vec<String>,
}

/// The names of checks.
fn checks(checks: Checks) -> Result<Vec<String>, String> {
    let names = checks.iter().map(|check| name(&CHECKS, &check));
    let names: Result<_, _> = names.collect();
    names.map_err(|what| format!("the check {what}"))
}

/// The checks of names.
fn restored(names: &[String], field: &str) -> Result<Checks, Wrong> {
    let checks = names.iter().enumerate();
    let checks = checks.map(|(index, check)| named(&CHECKS, check, &format!("{field}[{index}]")));
    checks.collect()
}

impl MadeMessage {
    fn new(made: &Made) -> Result<Self, String> {
        Ok(Self {
            plan: PlanMessage::new(&made.plan)?,
            candidate: made.candidate,
            seam: made.seam,
            until: made.until,
            trajectory: TrajectoryMessage::new(&made.trajectory)?,
            applied: checks(made.verified.applied)?,
            inapplicable: checks(made.verified.inapplicable)?,
        })
    }

    fn restore(self) -> Result<Made, Wrong> {
        let trajectory = self.trajectory.restore();
        Ok(Made {
            plan: self.plan.restore().map_err(|wrong| wrong.within("plan"))?,
            candidate: self.candidate,
            seam: self.seam,
            until: self.until,
            trajectory: trajectory.map_err(|wrong| wrong.within("trajectory"))?,
            verified: Verified {
                applied: restored(&self.applied, "applied")?,
                inapplicable: restored(&self.inapplicable, "inapplicable")?,
            },
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanMessage {
    trajectory: TrajectoryMessage,
    candidates: Vec<TrajectoryMessage>,
    chosen: usize,
    row: usize,
    drawn: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refined: Option<usize>,
    period: Time,
    /// The passes after which the budget ran out; a plan without is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    truncated: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sampling: Option<SamplingMessage>,
    /// A plan without was made with plain weights, as all were before there were others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    arithmetic: Option<ArithmeticMessage>,
    passes: usize,
    longest_pass: Time,
    #[serde(with = "digits")]
    seed: u64,
    checks: Vec<String>,
    elapsed: Time,
    model: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SamplingMessage {
    solver: String,
    steps: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    offset: Option<usize>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ArithmeticMessage {
    precision: String,
    level: String,
}

impl ArithmeticMessage {
    fn new(arithmetic: Arithmetic) -> Result<Self, String> {
        let Arithmetic { precision, level } = arithmetic;
        Ok(Self {
            precision: name(&PRECISIONS, &precision)
                .map_err(|what| format!("the precision {what}"))?,
            level: name(&LEVELS, &level).map_err(|what| format!("the level {what}"))?,
        })
    }

    fn restore(&self) -> Result<Arithmetic, Wrong> {
        Ok(Arithmetic {
            precision: named(&PRECISIONS, &self.precision, "arithmetic.precision")?,
            level: named(&LEVELS, &self.level, "arithmetic.level")?,
        })
    }
}

impl PlanMessage {
    fn new(plan: &Plan) -> Result<Self, String> {
        let candidates = plan.candidates.iter().map(TrajectoryMessage::new);
        Ok(Self {
            trajectory: TrajectoryMessage::new(&plan.trajectory)?,
            candidates: candidates.collect::<Result<_, _>>()?,
            chosen: plan.chosen,
            row: plan.row,
            drawn: plan.drawn,
            refined: plan.refined,
            period: plan.period.into(),
            truncated: match plan.outcome {
                Outcome::Complete => None,
                Outcome::Truncated { passes } => Some(passes),
                other => return Err(format!("the outcome {other:?}")),
            },
            sampling: plan.sampling.map(|sampling| SamplingMessage {
                solver: sampling.method.name().to_owned(),
                steps: sampling.steps,
                offset: sampling.offset,
            }),
            arithmetic: plan.arithmetic.map(ArithmeticMessage::new).transpose()?,
            passes: plan.passes,
            longest_pass: plan.longest_pass.into(),
            seed: plan.seed,
            checks: checks(plan.checks)?,
            elapsed: plan.elapsed.into(),
            model: plan.model.to_string(),
        })
    }

    fn restore(self) -> Result<Plan, Wrong> {
        let candidates = self.candidates.into_iter().enumerate();
        let candidates = candidates.map(|(index, candidate)| {
            let restored = candidate.restore();
            restored.map_err(|wrong| wrong.within(&format!("candidates[{index}]")))
        });
        let candidates: Vec<Trajectory> = candidates.collect::<Result<_, _>>()?;
        if self.chosen >= candidates.len() {
            return Err(Wrong::new(
                "chosen",
                &format_args!("{} of {} candidates", self.chosen, candidates.len()),
            ));
        }
        let sampling = self.sampling.map(|message| {
            let method = message.solver.parse();
            let method = method.map_err(|error| Wrong::new("sampling.solver", &error))?;
            Ok(Sampling::new(method, message.steps).with_offset(message.offset))
        });
        Ok(Plan {
            trajectory: self
                .trajectory
                .restore()
                .map_err(|wrong| wrong.within("trajectory"))?,
            candidates,
            chosen: self.chosen,
            row: self.row,
            drawn: self.drawn,
            refined: self.refined,
            period: self.period.into(),
            outcome: self
                .truncated
                .map_or(Outcome::Complete, |passes| Outcome::Truncated { passes }),
            sampling: sampling.transpose()?,
            arithmetic: self
                .arithmetic
                .as_ref()
                .map(ArithmeticMessage::restore)
                .transpose()?,
            passes: self.passes,
            longest_pass: self.longest_pass.into(),
            seed: self.seed,
            checks: restored(&self.checks, "checks")?,
            elapsed: self.elapsed.into(),
            model: self.model.into(),
        })
    }
}

/// An [`Event::Verdict`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VerdictMessage {
    plan: u64,
    verdict: String,
    /// Of a plan that was adopted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    step: Option<u64>,
    /// Of a plan that was late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<Time>,
    /// The same in words.
    text: String,
}

impl VerdictMessage {
    pub(crate) fn new(plan: u64, verdict: Verdict) -> Result<Self, LogError> {
        let (name, step, by) = match verdict {
            Verdict::Adopted { step } => ("adopted", Some(step), None),
            Verdict::Late { by } => ("late", None, Some(by.into())),
            Verdict::Diverged => ("diverged", None, None),
            Verdict::None => ("none", None, None),
            other => {
                return Err(LogError::Unwritable {
                    event: format!("the verdict on plan {plan}"),
                    what: format!("{other:?}"),
                });
            }
        };
        Ok(Self {
            plan,
            verdict: name.to_owned(),
            step,
            by,
            text: verdict.to_string(),
        })
    }

    pub(crate) fn restore(self) -> Result<Event, Wrong> {
        let missing = |field| move || Wrong::new(field, &"is missing");
        let verdict = match &*self.verdict {
            "adopted" => Verdict::Adopted {
                step: self.step.ok_or_else(missing("step"))?,
            },
            "late" => Verdict::Late {
                by: self.by.ok_or_else(missing("by"))?.into(),
            },
            "diverged" => Verdict::Diverged,
            "none" => Verdict::None,
            other => {
                let reason = format_args!("`{other}` is none of adopted, late, diverged, none");
                return Err(Wrong::new("verdict", &reason));
            }
        };
        Ok(Event::Verdict {
            plan: self.plan,
            verdict,
        })
    }
}

/// An [`Event::Status`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StatusMessage {
    time: Time,
    status: String,
    /// How bad that is, for a plot: 0 fresh, 1 stale, 2 holding, 3 failed.
    level: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The same in words.
    text: String,
}

impl StatusMessage {
    pub(crate) fn new(now: Duration, status: Status) -> Result<Self, LogError> {
        let (name, level) = match status {
            Status::Fresh => ("fresh", 0),
            Status::Stale(_) => ("stale", 1),
            Status::Holding(_) => ("holding", 2),
            Status::Failed(_) => ("failed", 3),
        };
        let reason = status.reason().map(|reason| self::name(&REASONS, &reason));
        Ok(Self {
            time: now.into(),
            status: name.to_owned(),
            level,
            reason: reason.transpose().map_err(|what| LogError::Unwritable {
                event: format!("the status at {now:?}"),
                what: format!("the reason {what}"),
            })?,
            text: status.to_string(),
        })
    }

    pub(crate) fn restore(self) -> Result<Event, Wrong> {
        let reason = self.reason.as_deref();
        let reason = reason.map(|reason| named(&REASONS, reason, "reason"));
        let status = match (&*self.status, reason.transpose()?) {
            ("fresh", None) => Status::Fresh,
            ("stale", Some(reason)) => Status::Stale(reason),
            ("holding", Some(reason)) => Status::Holding(reason),
            ("failed", Some(reason)) => Status::Failed(reason),
            ("fresh", Some(_)) => return Err(Wrong::new("reason", &"a fresh status has none")),
            ("stale" | "holding" | "failed", None) => {
                return Err(Wrong::new("reason", &"is missing"));
            }
            (other, _) => {
                let reason = format_args!("`{other}` is none of fresh, stale, holding, failed");
                return Err(Wrong::new("status", &reason));
            }
        };
        Ok(Event::Status {
            now: self.time.into(),
            status,
        })
    }
}
