//! What layers compute on a CPU, on slices: the one place with unsafe code, and without burn.
//!
//! | module | what |
//! |---|---|
//! | `level` | which instructions this CPU has |
//! | `lanes` | sixteen numbers at a time, in each instruction set, with a portable twin |
//! | `elementwise` | exp, Mish, SiLU, sigmoid, GELU |
//! | `codes` | numbers as whole codes, for products of whole numbers |
//! | `panels` | weights, laid out once in the order in which they are read |
//! | `groups` | the statistics of groups of channels |
//! | `picture` | convolutions over pictures |
//! | `pixels` | those whose weights are codes |
//! | `winograd` | those of three by three, with a quarter of the products |
//! | `peak` | multiply-adds in registers alone, and reading alone: the most that a kernel can reach |
//! | `window` | which inputs an output of a convolution sees |
//! | `tile` | the innermost loop: weights times inputs, with all sums in registers |
//! | `inputs` | inputs of a product, laid out as it reads them |
//! | `product` | weights times inputs, with everything that may follow, in one sweep |
//! | `team` | threads that stay awake for the next product |
//! | `ahead` | weights that are fetched before they are asked for |
//! | `memory` | memory that vectors like to read |
//! | `training` | what a training step computes, with feature `train` |
//! | `positions` | the same at many positions, where arithmetic takes the time |
//! | `attention` | every query reads a mean of values, and no score is stored; of numbers or of codes |
//! | `rows` | layer normalization |
//!
//! Every output is a sum in one fixed order, whatever the number of threads and whatever else is in the batch: bits do
//! not depend on either. They do depend on the instruction set.
//!
//! Every kernel is tested against f64 on every level that the CPU has, the portable one among them. `.ci/sanitize` runs
//! these tests under AddressSanitizer, and `.ci/arm` on emulated CPUs of Arm's.

mod ahead;
mod attention;
mod codes;
mod elementwise;
mod groups;
mod inputs;
mod lanes;
mod level;
mod memory;
mod panels;
mod peak;
mod picture;
mod pixels;
mod positions;
mod product;
mod rows;
mod team;
mod tile;
#[cfg(feature = "train")]
pub(crate) mod training;
mod window;
mod winograd;

pub(crate) use attention::{Heads, attention, attention_in_codes};
#[cfg(test)]
pub(crate) use codes::tests::rounded;
pub(crate) use codes::{Codes, round_inputs, round_weights};
pub use elementwise::Activation;
pub(crate) use elementwise::apply;
pub(crate) use groups::{modulate, statistics};
pub(crate) use inputs::Layout;
pub(crate) use lanes::LANES;
pub use level::Level;
pub(crate) use panels::Panels;
pub use panels::Precision;
pub use peak::{Memory, multiply_adds};
pub(crate) use picture::{Frame, Prologue, convolve};
pub(crate) use positions::linear;
pub(crate) use product::{Affine, Epilogue, Film, Normalization, product, side_by_side};
pub(crate) use rows::normalize_rows;
pub(crate) use team::in_team;
pub(crate) use window::Window;
