//! What a training step computes on a CPU: forward, backward and update, on slices.
//!
//! | module | what |
//! |---|---|
//! | `correlation` | convolutions over time and over pictures, transposed ones and linear layers, and their gradients |
//! | `norm` | group normalization with what follows, and its gradients |
//! | `gradient` | the slopes of activations |
//! | `update` | AdamW |
//!
//! Features lie as `[time, sample, channel]`. A convolution over time is then a sum of matrix products, one for each tap,
//! whose operands are slices: nothing is unfolded, and what a tap would read beyond the ends is not computed. The pixels of a
//! picture are such times, row by row.
//!
//! Every output is a sum in one fixed order, whatever the number of threads.

mod correlation;
mod gradient;
mod norm;
mod update;

pub(crate) use correlation::{Correlation, Links, Order, column_sums};
pub(crate) use gradient::{has_slope, slope};
pub(crate) use norm::{Normalized, Shape};
pub(crate) use update::{Moments, Step, adamw};

/// A slice of which tasks write disjoint parts.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: whoever makes one says why its tasks write disjoint parts, and holds the only reference until all are done.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// The pointer: a method, so that closures hold all of `self` and not its field.
    fn get(self) -> *mut f32 {
        self.0
    }
}
