//! Why a picture could not be made.

use clearway_diffusion::{GridError, ParameterizationError, SolverError};

use crate::lora::LoraError;
use crate::weights::Component;
use crate::{EncodeError, LoadError, PictureError, PromptError, TokenizerError};

/// Why a picture could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The model cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A low-rank update cannot be used.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// The model's tokenizer cannot be loaded.
    #[error("the tokenizer's {0}")]
    Tokenizer(#[from] TokenizerError),
    /// A prompt cannot become tokens.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// Tokens cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// Two networks of the model, or a network and what it is given, do not go together.
    #[error("{what} {expected} where there are {found}")]
    Mismatch {
        /// What does not fit, and its verb.
        what: &'static str,
        /// What is needed.
        expected: usize,
        /// What there is.
        found: usize,
    },
    /// A size that the autoencoder cannot divide.
    #[error(
        "a picture of {width} × {height} pixels cannot be made: both must be multiples of {multiple}, such as {} × {}",
        nearest(*width, *multiple), nearest(*height, *multiple)
    )]
    Size {
        /// The width, in pixels.
        width: u32,
        /// The height, in pixels.
        height: u32,
        /// What they must be multiples of.
        multiple: u32,
    },
    /// A given picture or mask is of another size than the picture that is to be made.
    #[error("the {what} has {} × {} pixels where the picture has {} × {}", found[0], found[1], expected[0], expected[1])]
    OtherSize {
        /// Which.
        what: &'static str,
        /// Width and height of the picture.
        expected: [u32; 2],
        /// Its own.
        found: [u32; 2],
    },
    /// A parameter is not what it may be.
    #[error("the {name} is {found}; {expected} is needed")]
    Argument {
        /// Which.
        name: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A strength that leaves no step.
    #[error("a strength of {strength} leaves none of {steps} steps; take more of either")]
    Strength {
        /// The strength.
        strength: f64,
        /// The steps.
        steps: usize,
    },
    /// The model names a solver that the engine has not got.
    #[error("the model's own solver, {class}, is not among those that there are: choose one")]
    Solver {
        /// diffusers' name of the solver.
        class: String,
    },
    /// The noise schedule cannot be cut so.
    #[error(transparent)]
    Grid(#[from] GridError),
    /// The solver does not work on that grid.
    #[error(transparent)]
    Plan(#[from] SolverError),
    /// The network says nothing at a level of the grid.
    #[error(transparent)]
    Parameterization(#[from] ParameterizationError),
    /// A ControlNet was given no picture, or a picture no ControlNet.
    #[error("{networks} ControlNets need as many pictures; {pictures} are given")]
    Controls {
        /// How many ControlNets there are.
        networks: usize,
        /// How many pictures.
        pictures: usize,
    },
    /// A ControlNet is of another model than the U-Net.
    #[error("ControlNet {index} is of another model: its {error}")]
    ControlNet {
        /// Which, from 0.
        index: usize,
        /// What differs.
        error: String,
    },
    /// A network gave NaN or infinity.
    #[error("the {} gives values that are not finite{}: a broken model, or too large a scale", component.name(), in_step(step.as_ref()))]
    NonFinite {
        /// Which network.
        component: Component,
        /// The step from 1, and the number of steps, where the network is asked in steps.
        step: Option<(usize, usize)>,
    },
    /// A ControlNet gave NaN or infinity.
    #[error("ControlNet {index} gives values that are not finite in step {} of {}: a broken model, or too large a scale", step.0, step.1)]
    NonFiniteControl {
        /// Which, from 0.
        index: usize,
        /// The step from 1, and the number of steps.
        step: (usize, usize),
    },
    /// The steps were not all taken.
    #[error("the picture was stopped after {done} of {steps} steps")]
    Stopped {
        /// The steps that were done.
        done: usize,
        /// The steps that it takes.
        steps: usize,
    },
    /// A picture cannot be used or made.
    #[error("the picture {0}")]
    Picture(#[from] PictureError),
}

fn nearest(side: u32, multiple: u32) -> u32 {
    let multiple = multiple.max(1);
    (side.saturating_add(multiple / 2) / multiple).max(1) * multiple
}

fn in_step(step: Option<&(usize, usize)>) -> String {
    step.map_or_else(String::new, |(step, steps)| {
        format!(" in step {step} of {steps}")
    })
}
