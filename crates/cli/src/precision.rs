//! What a policy computes with: the argument that commands share.

use std::path::Path;

use burn::tensor::Device;
use clap::ValueEnum;
use clearway_planner::{Level, Planner, Policy};

use crate::error::{Error, load_policy};

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What the weights are kept in
    #[arg(long, value_enum, value_name = "NAME", default_value_t = Precision::F32)]
    precision: Precision,
}

/// What the weights of a network are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Precision {
    /// As they are loaded, computed by burn
    Plain,
    /// Packed, in 32 bits
    F32,
    /// Packed, in 16 bits
    Bf16,
}

impl Precision {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// The bytes of a weight.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::Bf16 => 2,
            Self::F32 | Self::Plain => 4,
        }
    }

    /// What the weights are packed in.
    pub(crate) fn packed(self) -> Option<clearway_planner::Precision> {
        match self {
            Self::Plain => None,
            Self::F32 => Some(clearway_planner::Precision::F32),
            Self::Bf16 => Some(clearway_planner::Precision::Bf16),
        }
    }
}

impl Arguments {
    /// What the weights are packed in.
    pub(crate) fn packed(self) -> Option<clearway_planner::Precision> {
        self.precision.packed()
    }

    /// The policy in a folder, its weights stored so.
    pub(crate) fn load(self, path: &Path, device: &Device) -> Result<Policy, Error> {
        load_packed(path, device, self.precision.packed())
    }
}

/// The policy in a folder, packed in a precision, or plain.
pub(crate) fn load_packed(
    path: &Path,
    device: &Device,
    precision: Option<clearway_planner::Precision>,
) -> Result<Policy, Error> {
    let mut policy = load_policy(path, device)?;
    if let Some(precision) = precision {
        let packed = policy.pack(precision);
        tracing::info!(?packed, "packed");
    }
    Ok(policy)
}

/// What a policy computes with, in two words for reports: `bf16` and `AVX-512`, or `plain` and nothing.
pub(crate) fn of(policy: &Policy) -> (String, Option<String>) {
    match policy.precision() {
        Some(precision) => (precision.to_string(), Some(Level::detected().to_string())),
        None => ("plain".to_owned(), None),
    }
}

/// The same in a line.
pub(crate) fn words(planner: &Planner) -> String {
    let arithmetic = planner.arithmetic();
    arithmetic.map_or_else(|| "plain f32".to_owned(), |it| it.to_string())
}
