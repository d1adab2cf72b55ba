//! What a world refuses.

/// Why a world did not take a state or an action. The world is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SimError {
    /// A number that is not finite, or too large for the physics to stay finite.
    #[error("{quantity} must be finite and within ±{limit}, but is {value}")]
    OutOfRange {
        /// Which number.
        quantity: &'static str,
        /// What it was.
        value: f64,
        /// The largest magnitude that is accepted.
        limit: f64,
    },
}
