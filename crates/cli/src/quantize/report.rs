//! What became of a model.

use clearway_diffusion::Drift;
use clearway_layers::{PackedWeight, RoundedWeight};
use serde::Serialize;

use crate::output::say;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) model: String,
    pub(super) precision: String,
    /// What the errors were measured on.
    pub(super) measured_on: String,
    pub(super) networks: Vec<NetworkReport>,
}

#[derive(Debug, Serialize)]
pub(super) struct NetworkReport {
    pub(super) name: &'static str,
    /// Of a policy's file; of other networks, of their weights.
    pub(super) bytes_before: u64,
    pub(super) bytes_after: u64,
    pub(super) layers: Vec<Layer>,
    /// The error of the whole network, by how much noise there is.
    pub(super) drift: Vec<DriftRow>,
    /// The error of the whole network's output, where there is no noise to speak of.
    pub(super) output_error: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Layer {
    name: String,
    shape: Vec<usize>,
    precision: String,
    bytes: usize,
    /// `‖Ŵ − W‖ / ‖W‖`.
    weight_error: f64,
    /// The same of what the layer makes of the inputs that it was calibrated with, as codes alone cause it.
    output_error: Option<f64>,
    /// The same if each weight had been rounded to the nearest.
    output_error_of_nearest: Option<f64>,
    /// Whether the layer's inputs are multiplied by factors before they are rounded.
    is_balanced: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct DriftRow {
    pub(super) t: f64,
    alpha: f64,
    sigma: f64,
    pub(super) clean: f64,
    pub(super) noise: f64,
}

impl From<Drift> for DriftRow {
    fn from(drift: Drift) -> Self {
        Self {
            t: drift.point.t,
            alpha: drift.point.level.alpha,
            sigma: drift.point.level.sigma,
            clean: drift.clean,
            noise: drift.noise,
        }
    }
}

impl Layer {
    /// What became of a weight, which may be one of those that were rounded with their inputs in mind.
    pub(super) fn new(weight: PackedWeight, rounded: &[RoundedWeight]) -> Self {
        let rounded = rounded.iter().find(|it| it.name == weight.name);
        Self {
            output_error: rounded.map(|it| it.error),
            output_error_of_nearest: rounded.map(|it| it.error_of_nearest),
            is_balanced: rounded.is_some_and(|it| it.is_balanced),
            name: weight.name,
            shape: weight.shape,
            precision: weight.precision.to_string(),
            bytes: weight.bytes,
            weight_error: weight.error,
        }
    }
}

impl Report {
    pub(super) fn say(&self) {
        say!("{} -> {}", self.model, self.precision);
        for network in &self.networks {
            network.say();
        }
        say!("errors measured on {}", self.measured_on);
    }
}

impl NetworkReport {
    fn say(&self) {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let (before, after) = (mb(self.bytes_before), mb(self.bytes_after));
        say!("{}: {before:.2} MB -> {after:.2} MB", self.name);
        say!(
            "  {:<56} {:>8} {:>10} {:>9} {:>9}",
            "weight",
            "stored",
            "bytes",
            "weights",
            "outputs"
        );
        for layer in &self.layers {
            let outputs = layer
                .output_error
                .map_or_else(String::new, |it| format!("{it:.1e}"));
            let Layer {
                name,
                precision,
                bytes,
                weight_error,
                ..
            } = layer;
            say!("  {name:<56} {precision:>8} {bytes:>10} {weight_error:>9.1e} {outputs:>9}");
        }
        if !self.drift.is_empty() {
            say!(
                "  {:>8} {:>8} {:>8} {:>10} {:>10}",
                "t",
                "alpha",
                "sigma",
                "clean",
                "noise"
            );
            for row in &self.drift {
                let DriftRow {
                    t,
                    alpha,
                    sigma,
                    clean,
                    noise,
                } = row;
                say!("  {t:>8.1} {alpha:>8.4} {sigma:>8.4} {clean:>10.2e} {noise:>10.2e}");
            }
        }
        if let Some(error) = self.output_error {
            say!("  output: {error:.2e}");
        }
    }
}
