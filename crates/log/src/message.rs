//! Plain messages, for readers that know nothing of Clearway.

use std::time::Duration;

use clearway_motion::Trajectory;
use serde::{Deserialize, Serialize};

use crate::number::Time;

/// When and where a message is valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// When, on the robot's clock.
    pub stamp: Time,
    /// The frame of the coordinates.
    pub frame_id: String,
}

/// A trajectory with the fields of ROS's `trajectory_msgs/msg/JointTrajectory`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JointTrajectory {
    /// When it begins.
    pub header: Header,
    /// One name a coordinate.
    pub joint_names: Vec<String>,
    /// Its waypoints.
    pub points: Vec<JointTrajectoryPoint>,
}

/// A waypoint with the fields of ROS's `trajectory_msgs/msg/JointTrajectoryPoint`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JointTrajectoryPoint {
    /// In the unit of each coordinate.
    pub positions: Vec<f64>,
    /// Per second.
    pub velocities: Vec<f64>,
    /// Per second squared.
    pub accelerations: Vec<f64>,
    /// Forces or torques: none.
    pub effort: Vec<f64>,
    /// From the header's stamp.
    pub time_from_start: Time,
}

impl JointTrajectory {
    /// A trajectory whose first waypoint is at `header.stamp`.
    pub fn new(header: Header, joint_names: Vec<String>, trajectory: &Trajectory) -> Self {
        let start = trajectory.times().first().copied().unwrap_or_default();
        let points = trajectory.waypoints().map(|waypoint| JointTrajectoryPoint {
            positions: waypoint.position.to_vec(),
            velocities: waypoint.velocity.to_vec(),
            accelerations: waypoint.acceleration.to_vec(),
            effort: Vec::new(),
            time_from_start: waypoint.time.saturating_sub(start).into(),
        });
        Self {
            points: points.collect(),
            header,
            joint_names,
        }
    }
}

/// Where a path leads, with the fields of `foxglove.PosesInFrame`, which its viewer draws: what `nav_msgs/msg/Path` is
/// in ROS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PosesInFrame {
    /// When it begins.
    pub timestamp: Stamp,
    /// The frame of the coordinates.
    pub frame_id: String,
    /// Its waypoints.
    pub poses: Vec<Pose>,
}

/// A time as Foxglove's own messages write one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Whole seconds.
    pub sec: u64,
    /// Nanoseconds beyond them.
    pub nsec: u32,
}

impl From<Duration> for Stamp {
    fn from(time: Duration) -> Self {
        Self {
            sec: time.as_secs(),
            nsec: time.subsec_nanos(),
        }
    }
}

/// A place and a direction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pose {
    /// The place.
    pub position: Vector3,
    /// The direction, a unit quaternion.
    pub orientation: Quaternion,
}

/// Coordinates in space.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "axes")]
pub struct Vector3 {
    pub x: f64,
    pub y: f64,
    pub z: f64,
}

/// A rotation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "axes")]
pub struct Quaternion {
    pub x: f64,
    pub y: f64,
    pub z: f64,
    pub w: f64,
}

impl PosesInFrame {
    /// The first two coordinates of a trajectory in the plane, all poses unturned; nothing of one with another number
    /// of coordinates.
    pub fn new(time: Duration, frame_id: String, trajectory: &Trajectory) -> Option<Self> {
        if trajectory.dof() != 2 {
            return None;
        }
        let poses = trajectory.waypoints().map(|waypoint| Pose {
            position: Vector3 {
                x: waypoint.position[0],
                y: waypoint.position[1],
                z: 0.0,
            },
            orientation: Quaternion {
                x: 0.0,
                y: 0.0,
                z: 0.0,
                w: 1.0,
            },
        });
        Some(Self {
            timestamp: time.into(),
            frame_id,
            poses: poses.collect(),
        })
    }
}
