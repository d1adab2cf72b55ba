//! What is written is what is read, and what is broken is said to be.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clearway_motion::{Check, Checks, Interpolation, Limits, Trajectory, Verified};
use clearway_planner::replanner::log::{Decision, Event, Log as _, Made, Verdict};
use clearway_planner::{
    Arithmetic, Failure, History, Image, Level, Method, Observation, Outcome, Plan, PlanError,
    Precision, Reason, Sampling, Status,
};
use ndarray::Array2;
use proptest::prelude::*;
use serde_json::Value;

use crate::message::{JointTrajectory, PosesInFrame};
use crate::schema::Topic;
use crate::{Entry, Events, LogError, McapLog};

const PERIOD: Duration = Duration::from_millis(100);

/// A file that another handle can read.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn bytes(&self) -> Vec<u8> {
        self.0.lock().expect("no panic").clone()
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Actions that no short decimal tells from their neighbours.
fn actions(first: u32, interpolation: Interpolation, shift: f64) -> Trajectory {
    let positions = Array2::from_shape_fn([5, 2], |(i, j)| {
        (i as f64 + shift).sin() / 3.0 + j as f64 * 1e-17
    });
    Trajectory::uniform(PERIOD * first, PERIOD, positions, interpolation).expect("finite")
}

fn plan(outcome: Outcome) -> Plan {
    let trajectory = actions(7, Interpolation::Hold, 0.25);
    Plan {
        candidates: vec![actions(7, Interpolation::Hold, 0.1), trajectory.clone()],
        chosen: 1,
        row: 2,
        drawn: 3,
        refined: matches!(outcome, Outcome::Complete).then_some(4),
        outcome,
        sampling: Some(Sampling::new(Method::DpmSolver2M, 10).with_offset(Some(5))),
        arithmetic: matches!(outcome, Outcome::Complete).then_some(Arithmetic {
            precision: Precision::Bf16,
            level: Level::Avx512Bf16,
        }),
        passes: 4,
        longest_pass: Duration::from_nanos(1_234_567),
        checks: [Check::Finite, Check::Position].into_iter().collect(),
        elapsed: Duration::from_micros(41_003),
        model: "e0cf".into(),
        ..Plan::of(trajectory, u64::MAX - 1)
    }
}

/// A picture of bytes, all of them different.
fn bytes(step: u32) -> Image {
    let pixels: Vec<u8> = (0..2 * 3 * 3).map(|i| (i * 13 + step) as u8).collect();
    Image::from_rgb8(2, 3, pixels).expect("three bytes a pixel")
}

/// A picture of numbers that no byte has.
fn floats(step: u32) -> Image {
    let values: Vec<f32> = (0..3 * 4).map(|i| (i + step) as f32 / 97.0).collect();
    Image::from_chw(2, 2, values).expect("three values a pixel")
}

fn decision(number: u64, result: Result<Made, Failure>) -> Event {
    let observation = |step: u32| {
        Observation::new(PERIOD * step)
            .with("observation.state", [1.0 / 3.0, -0.0])
            .with(
                "observation.wild",
                [f64::INFINITY, f64::MIN_POSITIVE, 1e300],
            )
            .with_image("observation.images.top", bytes(step))
            .with_image("observation.images.wrist", floats(step))
    };
    Event::Decision(Box::new(Decision {
        plan: number,
        step: 7,
        asked: Duration::new(number, 123_456_789),
        age: Duration::from_nanos(17),
        // Beyond what a double holds.
        seed: (1 << 53) + 1,
        latency: 2,
        budget: (number > 1).then(|| Duration::from_millis(180)),
        observations: History::new(vec![observation(6), observation(7)]).expect("in order"),
        committed: Some(actions(6, Interpolation::Cubic, 0.5)),
        previous: (number > 1).then(|| actions(0, Interpolation::Linear, 0.75)),
        overlap: 3,
        limits: Some(
            Limits::unlimited(2)
                .with_position(&[-1.0, f64::NEG_INFINITY], &[f64::INFINITY, 0.1 + 0.2])
                .and_then(|limits| limits.with_velocity(&[3.0, 1.0 / 3.0]))
                .and_then(|limits| limits.with_jerk(&[f64::INFINITY, 1e3]))
                .expect("numbers"),
        ),
        result,
        elapsed: Duration::from_micros(41_002),
    }))
}

fn made(outcome: Outcome) -> Made {
    Made {
        plan: plan(outcome),
        candidate: 0,
        seam: 9,
        until: 11,
        trajectory: actions(7, Interpolation::Quintic, 0.25),
        verified: Verified {
            applied: [Check::Finite, Check::Jerk].into_iter().collect(),
            inapplicable: Checks::all(),
        },
    }
}

fn recorded(message: &str) -> Failure {
    Failure::Plan(PlanError::Recorded {
        message: message.to_owned(),
    })
}

/// One event of every kind.
fn all() -> Vec<Event> {
    let truncated = Outcome::Truncated { passes: 4 };
    let mut events = vec![
        decision(1, Ok(made(Outcome::Complete))),
        decision(2, Ok(made(truncated))),
        decision(3, Err(recorded("there is no observation"))),
    ];
    let verdicts = [
        Verdict::Adopted { step: 8 },
        Verdict::Late {
            by: Duration::from_nanos(5),
        },
        Verdict::Diverged,
        Verdict::None,
    ];
    events.extend(verdicts.map(|verdict| Event::Verdict { plan: 3, verdict }));
    let reasons = [
        Reason::Starting,
        Reason::Late,
        Reason::NoPlan,
        Reason::Unsafe,
        Reason::Diverged,
        Reason::Observation,
        Reason::Hung,
        Reason::Panicked,
        Reason::Gone,
        Reason::Command,
    ];
    let statuses = reasons.into_iter().flat_map(|reason| {
        [
            Status::Fresh,
            Status::Stale(reason),
            Status::Holding(reason),
            Status::Failed(reason),
        ]
    });
    events.extend(statuses.map(|status| Event::Status {
        now: Duration::from_secs(4),
        status,
    }));
    events.push(decision(4, Ok(made(Outcome::Complete))));
    events
}

fn written(events: &[Event]) -> Vec<u8> {
    let memory = Memory::default();
    let mut log = McapLog::new(memory.clone()).expect("memory can be written");
    for event in events {
        log.note(event);
    }
    log.finish().expect("everything can be written");
    memory.bytes()
}

fn read(bytes: Vec<u8>) -> (Vec<Event>, Vec<LogError>) {
    let (mut events, mut errors) = (Vec::new(), Vec::new());
    for entry in Events::of(bytes) {
        match entry {
            Ok(Entry { event, .. }) => events.push(event),
            Err(error) => errors.push(error),
        }
    }
    (events, errors)
}

/// The messages of a file, and their topics.
fn messages(bytes: &[u8]) -> Vec<(Topic, u64, Value)> {
    let messages = mcap::MessageStream::new(bytes).expect("a file");
    let message = |message: mcap::McapResult<mcap::Message<'_>>| {
        let message = message.expect("whole");
        let mut topics = Topic::ALL.into_iter();
        let topic = topics.find(|topic| topic.name() == message.channel.topic);
        let value = serde_json::from_slice(&message.data).expect("JSON");
        (topic.expect("known"), message.log_time, value)
    };
    messages.map(message).collect()
}

#[test]
fn events_come_back_as_they_were() {
    let (events, errors) = read(written(&all()));
    assert!(errors.is_empty(), "{errors:?}");
    // Equal, and to the bit: a Debug of an f64 has all of its digits, and its sign.
    assert_eq!(events, all());
    assert_eq!(format!("{events:?}"), format!("{:?}", all()));
}

#[test]
fn a_failure_comes_back_in_its_words() {
    let failure = Failure::Unsafe(clearway_motion::Unsafe::Empty);
    let (events, errors) = read(written(&[decision(1, Err(failure.clone()))]));
    assert!(errors.is_empty(), "{errors:?}");
    let Event::Decision(decision) = &events[0] else {
        panic!("{events:?}");
    };
    let words = decision.result.as_ref().expect_err("a failure").to_string();
    assert_eq!(words, failure.to_string());
}

#[test]
fn what_is_not_a_number_comes_back_to_the_bit() {
    let odd = f64::from_bits(0xfff8_0000_0000_0123);
    let Event::Decision(mut decision) = decision(1, Err(recorded("nothing can be seen"))) else {
        unreachable!("it is one");
    };
    let seen = Observation::new(PERIOD).with("observation.state", [f64::NAN, odd]);
    decision.observations = History::new(vec![seen]).expect("one");
    let (events, errors) = read(written(&[Event::Decision(decision)]));
    assert!(errors.is_empty(), "{errors:?}");
    let Event::Decision(decision) = &events[0] else {
        panic!("{events:?}");
    };
    let newest = decision.observations.newest().expect("one");
    let bits = |values: &[f64]| {
        values
            .iter()
            .map(|value| value.to_bits())
            .collect::<Vec<_>>()
    };
    let values = newest.get("observation.state").expect("it was written");
    assert_eq!(bits(values), bits(&[f64::NAN, odd]));
}

/// A schema of ours, of which each says one type.
fn conforms(value: &Value, schema: &Value, at: &str) {
    match schema["type"].as_str().expect("one type") {
        "object" => {
            let object = value.as_object().unwrap_or_else(|| panic!("{at}: {value}"));
            for name in schema["required"].as_array().expect("a list") {
                let name = name.as_str().expect("a name");
                assert!(object.contains_key(name), "{at} lacks {name}");
            }
            for (name, value) in object {
                let schema = &schema["properties"][name];
                assert!(schema.is_object(), "{at}.{name} is in no schema");
                conforms(value, schema, &format!("{at}.{name}"));
            }
        }
        "array" => {
            let items = &schema["items"];
            assert_ne!(
                items["type"], "array",
                "{at}: viewers read no lists of lists"
            );
            for value in value.as_array().unwrap_or_else(|| panic!("{at}: {value}")) {
                conforms(value, items, &format!("{at}[]"));
            }
        }
        "number" if !schema["description"].is_null() => {
            assert!(value.is_number() || value.is_string(), "{at}: {value}");
        }
        "number" => assert!(value.is_number(), "{at}: {value}"),
        "integer" => assert!(value.is_u64(), "{at}: {value}"),
        "string" => assert!(value.is_string(), "{at}: {value}"),
        other => panic!("{at}: viewers do not know {other}"),
    }
}

#[test]
fn every_message_is_as_its_schema_says() {
    let messages = messages(&written(&all()));
    for topic in Topic::ALL {
        let mut of_topic = messages.iter().filter(|(of, ..)| *of == topic).peekable();
        assert!(of_topic.peek().is_some(), "{}", topic.name());
        for (_, _, message) in of_topic {
            conforms(message, &topic.schema(), topic.name());
        }
    }
}

#[test]
fn seeds_are_digits_and_times_the_robots() {
    let messages = messages(&written(&all()));
    let (_, time, decision) = &messages[0];
    assert_eq!(*time, 1_123_456_789);
    assert_eq!(decision["seed"], "9007199254740993");
    assert_eq!(decision["made"]["plan"]["seed"], "18446744073709551614");
    assert_eq!(decision["limits"][0].get("upper"), None);
    // Verdicts and statuses before the next decision have times in order.
    assert!(messages.windows(2).all(|pair| pair[0].1 <= pair[1].1));
}

#[test]
fn the_plan_is_a_trajectory_from_its_stamp_on() {
    let messages = messages(&written(&[decision(2, Ok(made(Outcome::Complete)))]));
    let of = |topic| {
        let (.., message) = messages.iter().find(|(of, ..)| *of == topic).expect("one");
        message.clone()
    };
    let plan: JointTrajectory = serde_json::from_value(of(Topic::Plan)).expect("its fields");
    let executed = actions(7, Interpolation::Hold, 0.25);
    assert_eq!(
        Duration::from(plan.header.stamp),
        Duration::new(2, 123_456_789)
    );
    assert_eq!(plan.joint_names, ["q0", "q1"]);
    for (point, waypoint) in plan.points.iter().zip(executed.waypoints()) {
        let from_start = waypoint.time.saturating_sub(PERIOD * 7);
        assert_eq!(Duration::from(point.time_from_start), from_start);
        assert_eq!(point.positions, waypoint.position.to_vec());
        assert_eq!(point.velocities, waypoint.velocity.to_vec());
        assert_eq!(point.accelerations, waypoint.acceleration.to_vec());
    }
    let path: PosesInFrame = serde_json::from_value(of(Topic::Path)).expect("its fields");
    assert_eq!((plan.points.len(), path.poses.len()), (5, 5));
    assert!((path.poses[4].position.x - executed.positions()[[4, 0]]).abs() <= 0.0);
}

#[test]
fn a_log_that_is_cut_off_is_read_up_to_there() {
    let events = all();
    let memory = Memory::default();
    let mut log = McapLog::new(memory.clone()).expect("memory can be written");
    let mut whole = Vec::new();
    for event in &events {
        log.note(event);
        // With a decision everything is out.
        if matches!(event, Event::Decision(_)) {
            whole.push(memory.bytes().len());
            let (read, errors) = read(memory.bytes());
            let noted = events.iter().position(|other| std::ptr::eq(other, event));
            assert_eq!(read, events[..=noted.expect("it is one of them")]);
            assert!(
                matches!(errors[..], [LogError::Truncated { .. }]),
                "{errors:?}"
            );
        }
    }
    log.finish().expect("everything can be written");
    let bytes = memory.bytes();
    // And wherever else it is cut: the decisions before are there, and something is said.
    for length in (0..bytes.len()).step_by(97) {
        let (read, errors) = read(bytes[..length].to_vec());
        assert_eq!(read, events[..read.len()]);
        let decided = read
            .iter()
            .filter(|event| matches!(event, Event::Decision(_)));
        assert!(decided.count() >= whole.iter().filter(|end| **end <= length).count());
        assert_eq!(errors.len(), 1, "{length}: {errors:?}");
    }
}

#[test]
fn errors_name_the_message_and_the_field() {
    let bytes = written(&[decision(1, Ok(made(Outcome::Complete)))]);
    let with = |topic: &str, schema: Topic, edit: &dyn Fn(&mut Value)| {
        let mut message = messages(&bytes)[0].2.clone();
        edit(&mut message);
        let mut writer = mcap::WriteOptions::new()
            .compression(None)
            .create(io::Cursor::new(Vec::new()))
            .expect("memory");
        let schema = writer
            .add_schema(schema.schema_name(), "jsonschema", b"{}")
            .expect("memory");
        let channel = writer
            .add_channel(schema, topic, "json", &std::collections::BTreeMap::new())
            .expect("memory");
        let header = mcap::records::MessageHeader {
            channel_id: channel,
            sequence: 0,
            log_time: 0,
            publish_time: 0,
        };
        writer
            .write_to_known_channel(&header, message.to_string().as_bytes())
            .expect("memory");
        writer.finish().expect("memory");
        let (_, errors) = read(writer.into_inner().into_inner());
        let [error] = &errors[..] else {
            panic!("{errors:?}");
        };
        error.to_string()
    };
    let decision = |edit: &dyn Fn(&mut Value)| with("/decision", Topic::Decision, edit);
    let errors = [
        (
            decision(&|it| it["made"]["plan"]["seed"] = 5.into()),
            "message 1 on /decision: `made.plan.seed`: invalid type: integer `5`, expected a string",
        ),
        (
            decision(&|it| {
                it["observations"][1]["features"][0]["name"] = "observation.wild".into();
            }),
            "`observations[1].features[1].name`: `observation.wild` is there already",
        ),
        (
            decision(&|it| it["made"]["trajectory"]["points"][3]["velocities"] = vec![1.0].into()),
            "`made.trajectory.points[3].velocities`: has 1 values; `dof` is 2",
        ),
        (
            decision(&|it| it["made"]["plan"]["sampling"]["solver"] = "ddmi".into()),
            "`made.plan.sampling.solver`: no solver is called `ddmi`",
        ),
        (
            decision(&|it| it["made"]["plan"]["chosen"] = 2.into()),
            "`made.plan.chosen`: 2 of 2 candidates",
        ),
        (
            decision(&|it| it["committed"]["interpolation"] = "wobbly".into()),
            "`committed.interpolation`: `wobbly` is none of hold, linear, cubic",
        ),
        (
            decision(&|it| it["failure"] = "it failed".into()),
            "`failure`: there is a plan all the same",
        ),
        (
            decision(&|it| it["limits"][1]["lower"] = 7.into()),
            "`limits`: ",
        ),
        (
            decision(&|it| it["surprise"] = 1.into()),
            "`surprise`: unknown field `surprise`",
        ),
        (
            with("/elsewhere", Topic::Status, &|it| *it = Value::Null),
            "message 1 on /elsewhere: `.`: ",
        ),
    ];
    for (error, expected) in errors {
        assert!(error.contains(expected), "{error}\n{expected}");
    }
    assert!(
        decision(&|it| it["observations"].as_array_mut().expect("a list").reverse())
            .contains("`observations`: an observation at")
    );
}

#[test]
fn what_cannot_be_written_is_said_and_not_lost_silently() {
    /// A disk that becomes full.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(bytes.len())
                .ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut log = McapLog::new(Full(40_000)).expect("there is room at first");
    let events: Vec<Event> = (1..=20)
        .map(|number| decision(number, Ok(made(Outcome::Complete))))
        .collect();
    for event in &events {
        log.note(event);
    }
    let error = log.finish().expect_err("the disk is full");
    let LogError::Lost { events, first } = &error else {
        panic!("{error}");
    };
    assert!((10..20).contains(events), "{error}");
    assert!(matches!(**first, LogError::Write(_)), "{error}");
    assert!(error.to_string().contains("storage"), "{error}");
    // After the end nothing is written, and that is said too.
    log.note(&all()[0]);
    let error = log.finish().expect_err("it was finished");
    assert_eq!(
        error.to_string(),
        "1 of the events are not in the log; the first because the log is finished"
    );
    assert!(log.finish().is_ok());
}

#[test]
fn other_topics_and_files_without_a_log_are_no_decisions() {
    let writer = mcap::WriteOptions::new().compression(None);
    let mut writer = writer.create(io::Cursor::new(Vec::new())).expect("memory");
    writer.finish().expect("memory");
    let (events, errors) = read(writer.into_inner().into_inner());
    assert!(events.is_empty() && errors.is_empty(), "{errors:?}");
    for foreign in [&b"no mcap at all, but a text"[..], b"", b"\x89MCAP0\r\n"] {
        let (events, errors) = read(foreign.to_vec());
        assert!(events.is_empty(), "{events:?}");
        assert_eq!(errors.len(), 1, "{errors:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn what_was_changed_is_never_taken_for_what_was_written(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = sample().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let (events, errors) = read(bytes);
        let (original, _) = read(sample().to_vec());
        // What is read is what was written, and where something is missing that is said.
        for event in &events {
            prop_assert!(original.contains(event), "{:?}", event);
        }
        prop_assert!(events == original || !errors.is_empty());
    }

    #[test]
    fn bytes_that_are_no_file_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let mut file = mcap::MAGIC.to_vec();
        file.extend(&bytes);
        for bytes in [bytes, file] {
            let (events, errors) = read(bytes);
            prop_assert!(events.is_empty());
            prop_assert_eq!(errors.len(), 1);
        }
    }
}

/// A short log, written once.
fn sample() -> &'static [u8] {
    static BYTES: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    BYTES.get_or_init(|| {
        let events = all();
        written(&[events[0].clone(), events[4].clone(), events[2].clone()])
    })
}
