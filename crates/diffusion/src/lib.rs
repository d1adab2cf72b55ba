//! The diffusion engine of Clearway: from noise to a sample in a few steps. Tensors; no robots, no images.
//!
//! A sample at time `t` is `x_t = alpha · x₀ + sigma · ε`. Everything is made of that line:
//!
//! ```text
//! Schedule --Grid--> points --Solver--> stages (data, f64)
//!                                          |
//! Network + Parameterization = Denoiser -> Sampler -> sample
//!            wrappers: ClassifierFree, Guided, Inpaint, Clip
//! ```
//!
//! | question | answer |
//! |---|---|
//! | how much noise is there at a time? | [`Schedule`]: [`Discrete`], [`Cosine`], [`FlowMatching`], [`Edm`], [`Exploding`] |
//! | which levels are visited? | [`Grid`], [`timesteps`] |
//! | what does the network predict? | [`Parameterization`] |
//! | how is a step made? | [`Solver`]: a list of [`Stage`]s that can be printed and tested without a network |
//! | what shall the sample be? | [`ClassifierFree`], [`Rescaled`], [`Guided`], [`Inpaint`], [`Clip`] |
//! | in which order? | `Inpaint<Guided<Clip<ClassifierFree<Parameterized<Network>>>>>` |
//! | who draws the noise? | [`Seeded`], [`Torch`], on the host |
//! | who runs it? | [`Sampler`], an iterator over steps |
//! | what did a faster network lose? | [`drift`] |
//! | how is a network trained? | `train`, with the feature of that name |
//! | how does one learn from another? | `distill`, with the same feature |
//!
//! Arithmetic on levels is f64 on the host; tensors are f32.

mod denoiser;
#[cfg(feature = "train")]
pub mod distill;
mod drift;
mod gaussian;
mod grid;
mod level;
mod noise;
mod parameterization;
mod sampler;
mod schedule;
mod solver;
#[cfg(feature = "train")]
pub mod train;
mod wrapper;

pub use denoiser::{Denoiser, Estimate, Network};
pub use drift::{Drift, drift};
pub use gaussian::Gaussian;
pub use grid::{End, Grid, GridError, timesteps};
pub use level::{Level, Point};
pub use noise::{Noise, Seeded, Torch, normal};
pub use parameterization::{
    Parameterization, ParameterizationError, Parameterized, Scalings, Target,
};
pub use sampler::{Sampler, Step};
pub use schedule::{Cosine, Discrete, Edm, Exploding, FlowMatching, Line, Schedule, ScheduleError};
pub use solver::{
    Consistency, Ddim, Ddpm, Deis, DpmSolver2M, Euler, EulerAncestral, Heun, Lcm, Lms, Method,
    Midpoint, Pndm, SdeDpmSolver2M, Solver, SolverError, Stage, Tcd, UniPc, UnknownMethod,
    Variance,
};
pub use wrapper::{
    Bounded, ClassifierFree, Clip, ClippedNoise, Cost, Guidance, Guided, Inpaint, Pins, Rescaled,
    Stack, Threshold,
};
