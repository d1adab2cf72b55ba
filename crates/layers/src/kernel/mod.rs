//! What layers compute on a CPU, on slices: the one place with unsafe code, and without burn.
//!
//! | module | what |
//! |---|---|
//! | `level` | which instructions this CPU has |
//! | `lanes` | sixteen numbers at a time, in each instruction set, with a portable twin |
//! | `elementwise` | exp, Mish, SiLU, sigmoid, GELU |
//! | `panels` | weights, laid out once in the order in which they are read |
//! | `peak` | multiply-adds in registers alone, and reading alone: the most that a kernel can reach |
//! | `window` | which inputs an output of a convolution sees |
//! | `product` | weights times inputs, with everything that may follow, in one sweep |
//!
//! Every output is a sum in one fixed order, whatever the number of threads and whatever else is in the batch: bits do
//! not depend on either. They do depend on the instruction set.

mod elementwise;
mod lanes;
mod level;
mod memory;
mod panels;
mod peak;
mod product;
mod window;

pub use elementwise::Activation;
pub(crate) use elementwise::apply;
pub use level::Level;
pub(crate) use panels::Panels;
pub use panels::Precision;
pub use peak::{Memory, multiply_adds};
pub(crate) use product::{Affine, Epilogue, Film, Layout, Normalization, product};
pub(crate) use window::Window;
