//! Where a sample is between data and noise.

/// A point on the noise schedule: `x_t = alpha · x₀ + sigma · ε`, with `ε ~ N(0, I)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// The share of the signal.
    pub alpha: f64,
    /// The standard deviation of the noise.
    pub sigma: f64,
}

impl Level {
    /// Data without noise.
    pub const CLEAN: Self = Self {
        alpha: 1.0,
        sigma: 0.0,
    };

    /// The noise-to-signal ratio `S = sigma / alpha`, infinite for pure noise.
    pub fn ratio(self) -> f64 {
        self.sigma / self.alpha
    }

    /// Half the logarithm of the signal-to-noise ratio, `λ = ln(alpha / sigma)`.
    pub fn half_log_snr(self) -> f64 {
        (self.alpha / self.sigma).ln()
    }

    /// The standard deviation of `x_t` where the data has variance one, `√(alpha² + sigma²)`.
    ///
    /// Unit noise times this is a sample to start from.
    pub fn magnitude(self) -> f64 {
        self.alpha.hypot(self.sigma)
    }
}

/// Where a sample is, and what the network is told: `t` is the schedule's own time.
///
/// The two are kept apart because some grids tell the network a rounded time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// What the network is told.
    pub t: f64,
    /// Where the sample is.
    pub level: Level,
}
