//! What a policy computes with: the argument that commands share.

use std::path::Path;

use burn::tensor::Device;
use clap::ValueEnum;
use clearway_layers::PackReport;
use clearway_planner::{Level, Planner, Policy};

use crate::error::{Error, load_policy};

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What the weights are kept in [default: as they are stored, f32 where that is no codes]
    #[arg(long, value_enum, value_name = "NAME")]
    precision: Option<Precision>,
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
    /// Packed as codes of 8 bits, but for the layers that a network keeps
    Int8,
    /// Packed as codes of 4 bits with a scale for 64 of them, but for the layers that a network keeps
    Int4,
}

impl Precision {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// The bytes of so many weights of a network that was packed so. Where some layers are kept in f32, all weights count as
    /// the network's do on average.
    pub(crate) fn bytes(self, weights: u64, packed: Option<PackReport>) -> u64 {
        match (self, packed) {
            (Self::Int8 | Self::Int4, Some(packed)) => {
                (weights as f64 * packed.bytes as f64 / packed.parameters as f64) as u64
            }
            (Self::Bf16, _) => 2 * weights,
            _ => 4 * weights,
        }
    }

    /// What the weights are packed in.
    pub(crate) fn packed(self) -> Option<clearway_planner::Precision> {
        match self {
            Self::Plain => None,
            Self::F32 => Some(clearway_planner::Precision::F32),
            Self::Bf16 => Some(clearway_planner::Precision::Bf16),
            Self::Int8 => Some(clearway_planner::Precision::Int8),
            Self::Int4 => Some(clearway_planner::Precision::INT4),
        }
    }
}

impl Arguments {
    /// What was asked for; nothing where weights are to be kept as they are stored.
    pub(crate) fn chosen(self) -> Option<Precision> {
        self.precision
    }

    /// The policy in a folder, its weights kept so.
    pub(crate) fn load(self, path: &Path, device: &Device) -> Result<Policy, Error> {
        match self.precision {
            Some(precision) => load_packed(path, device, precision.packed()),
            None => load_stored(path, device),
        }
    }
}

/// The policy in a folder, packed as its weights are stored, or in f32.
pub(crate) fn load_stored(path: &Path, device: &Device) -> Result<Policy, Error> {
    let mut policy = load_policy(path, device)?;
    let stored = policy.stored().cloned();
    let packed = policy.pack(stored.unwrap_or_else(|| clearway_planner::Precision::F32.into()));
    tracing::info!(?packed, "packed");
    Ok(policy)
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
