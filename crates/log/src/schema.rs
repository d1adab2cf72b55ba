//! The JSON schemas of the messages, as viewers read them: one type a field, and no lists of lists.

use serde_json::{Map, Value, json};

/// A topic of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topic {
    Decision,
    Plan,
    Path,
    Status,
    Verdict,
}

impl Topic {
    pub(crate) const ALL: [Self; 5] = [
        Self::Decision,
        Self::Plan,
        Self::Path,
        Self::Status,
        Self::Verdict,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Decision => "/decision",
            Self::Plan => "/plan",
            Self::Path => "/path",
            Self::Status => "/status",
            Self::Verdict => "/verdict",
        }
    }

    /// The name of its schema, by which it is found again.
    pub(crate) fn schema_name(self) -> &'static str {
        match self {
            Self::Decision => "clearway.Decision",
            Self::Plan => "trajectory_msgs/msg/JointTrajectory",
            Self::Path => "foxglove.PosesInFrame",
            Self::Status => "clearway.Status",
            Self::Verdict => "clearway.Verdict",
        }
    }

    pub(crate) fn schema(self) -> Value {
        match self {
            Self::Decision => decision(),
            Self::Plan => joint_trajectory(),
            Self::Path => poses_in_frame(),
            Self::Status => status(),
            Self::Verdict => verdict(),
        }
    }
}

type Field = (&'static str, Value);

fn object(required: Vec<Field>, optional: Vec<Field>) -> Value {
    let names: Vec<&str> = required.iter().map(|(name, _)| *name).collect();
    let fields = required.into_iter().chain(optional);
    let properties: Map<String, Value> = fields
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect();
    json!({"type": "object", "properties": properties, "required": names, "additionalProperties": false})
}

fn array(items: &Value) -> Value {
    json!({"type": "array", "items": items})
}

fn number() -> Value {
    json!({"type": "number"})
}

/// One that may be NaN or infinite.
fn any_number() -> Value {
    json!({"type": "number", "description": "the strings Infinity, -Infinity and NaN stand for what JSON has no digits for"})
}

fn integer() -> Value {
    json!({"type": "integer"})
}

fn text() -> Value {
    json!({"type": "string"})
}

fn described(mut schema: Value, description: &str) -> Value {
    schema["description"] = description.into();
    schema
}

fn time() -> Value {
    object(vec![("sec", integer()), ("nanosec", integer())], vec![])
}

fn digits() -> Value {
    described(text(), "64 bits, in digits")
}

fn trajectory() -> Value {
    let point = object(
        vec![
            ("time", time()),
            ("positions", array(&number())),
            ("velocities", array(&number())),
            ("accelerations", array(&number())),
        ],
        vec![],
    );
    object(
        vec![
            ("interpolation", text()),
            ("dof", integer()),
            ("points", array(&point)),
        ],
        vec![],
    )
}

fn plan() -> Value {
    let sampling = object(
        vec![("solver", text()), ("steps", integer())],
        vec![("offset", integer())],
    );
    let arithmetic = object(vec![("precision", text()), ("level", text())], vec![]);
    object(
        vec![
            ("trajectory", trajectory()),
            ("candidates", array(&trajectory())),
            ("chosen", integer()),
            ("row", integer()),
            ("drawn", integer()),
            ("period", time()),
            ("passes", integer()),
            ("longest_pass", time()),
            ("seed", digits()),
            ("checks", array(&text())),
            ("elapsed", time()),
            (
                "model",
                described(text(), "the SHA-256 of the weights file"),
            ),
        ],
        vec![
            (
                "refined",
                described(integer(), "the steps that refined the last plan"),
            ),
            (
                "truncated",
                described(integer(), "the passes after which the budget ran out"),
            ),
            ("sampling", sampling),
            (
                "arithmetic",
                described(
                    arithmetic,
                    "what the weights are stored in, and the instructions; plain weights have none",
                ),
            ),
        ],
    )
}

fn decision() -> Value {
    let feature = object(
        vec![("name", text()), ("values", array(&any_number()))],
        vec![],
    );
    let image = object(
        vec![
            ("name", text()),
            ("height", integer()),
            ("width", integer()),
            (
                "encoding",
                described(
                    text(),
                    "rgb8, rows of pixels, or chw-f32, little-endian planes",
                ),
            ),
            ("data", described(text(), "in base64")),
        ],
        vec![],
    );
    let observation = object(
        vec![("time", time()), ("features", array(&feature))],
        vec![("images", array(&image))],
    );
    let bounds = object(
        vec![],
        vec![
            ("lower", any_number()),
            ("upper", any_number()),
            ("velocity", any_number()),
            ("acceleration", any_number()),
            ("jerk", any_number()),
        ],
    );
    let made = object(
        vec![
            ("plan", plan()),
            ("candidate", described(integer(), "that is executed")),
            ("seam", described(integer(), "the step of the hand-over")),
            (
                "until",
                described(
                    integer(),
                    "the step at which the next plan should take over",
                ),
            ),
            ("trajectory", described(trajectory(), "what is executed")),
            (
                "applied",
                described(array(&text()), "what was checked of it"),
            ),
            (
                "inapplicable",
                described(array(&text()), "what does not apply to these coordinates"),
            ),
        ],
        vec![],
    );
    object(
        vec![
            (
                "plan",
                described(integer(), "the number of the plan, from 1"),
            ),
            (
                "step",
                described(integer(), "that of the newest observation"),
            ),
            ("asked", described(time(), "on the robot's clock")),
            ("age", described(time(), "of the newest observation")),
            ("seed", digits()),
            (
                "latency",
                described(integer(), "actions executed while it was made"),
            ),
            ("observations", array(&observation)),
            ("overlap", integer()),
            ("elapsed", time()),
        ],
        vec![
            ("budget", described(time(), "that it had")),
            ("committed", trajectory()),
            ("previous", trajectory()),
            ("limits", described(array(&bounds), "of each coordinate")),
            ("made", made),
            ("failure", described(text(), "why there is no plan")),
        ],
    )
}

fn joint_trajectory() -> Value {
    let header = object(vec![("stamp", time()), ("frame_id", text())], vec![]);
    let point = object(
        vec![
            ("positions", array(&number())),
            ("velocities", array(&number())),
            ("accelerations", array(&number())),
            ("effort", array(&number())),
            ("time_from_start", time()),
        ],
        vec![],
    );
    object(
        vec![
            ("header", header),
            ("joint_names", array(&text())),
            ("points", array(&point)),
        ],
        vec![],
    )
}

fn poses_in_frame() -> Value {
    let axes = |names: &[&'static str]| {
        object(names.iter().map(|name| (*name, number())).collect(), vec![])
    };
    let pose = object(
        vec![
            ("position", axes(&["x", "y", "z"])),
            ("orientation", axes(&["x", "y", "z", "w"])),
        ],
        vec![],
    );
    let timestamp = object(vec![("sec", integer()), ("nsec", integer())], vec![]);
    object(
        vec![
            ("timestamp", timestamp),
            ("frame_id", text()),
            ("poses", array(&pose)),
        ],
        vec![],
    )
}

fn status() -> Value {
    object(
        vec![
            ("time", time()),
            ("status", text()),
            (
                "level",
                described(integer(), "0 fresh, 1 stale, 2 holding, 3 failed"),
            ),
            ("text", text()),
        ],
        vec![("reason", text())],
    )
}

fn verdict() -> Value {
    object(
        vec![("plan", integer()), ("verdict", text()), ("text", text())],
        vec![
            (
                "step",
                described(integer(), "in which a plan came that was adopted"),
            ),
            (
                "by",
                described(time(), "how long after its hand-over a plan came"),
            ),
        ],
    )
}
