//! What a picture shall be.

use super::{GenerateError, Method, Sampling, SchedulerConfig, Spacing};
use crate::{Picture, Prompt};

/// What the text encoder reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Text {
    /// A prompt with [weights](crate::Part), of any length.
    Prompt(String),
    /// A prompt in which brackets are characters.
    Literal(String),
    /// Tokens, in chunks as long as the encoder's context, with start, end and padding.
    Tokens(Vec<Vec<u32>>),
}

impl Default for Text {
    fn default() -> Self {
        Self::Prompt(String::new())
    }
}

impl From<&str> for Text {
    fn from(prompt: &str) -> Self {
        Self::Prompt(prompt.to_owned())
    }
}

impl Text {
    /// The prompt, read; none for tokens.
    pub(super) fn prompt(&self) -> Option<Prompt> {
        match self {
            Self::Prompt(text) => Some(Prompt::parse(text)),
            Self::Literal(text) => Some(Prompt::literal(text)),
            Self::Tokens(_) => None,
        }
    }

    /// What is written into the picture.
    pub(super) fn written(&self) -> String {
        match self {
            Self::Prompt(text) | Self::Literal(text) => text.clone(),
            Self::Tokens(_) => String::new(),
        }
    }
}

/// A picture to begin with.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The picture.
    pub picture: Picture,
    /// Where there is to be something new: white is painted, black stays. None is everywhere.
    ///
    /// What stays is to the byte as it was.
    pub mask: Option<Picture>,
    /// The share of the steps that are done, from 0 to 1: how far the picture may go from this one.
    pub strength: f64,
}

/// A picture for a ControlNet.
#[derive(Clone, Debug, PartialEq)]
pub struct Control {
    /// What it sees: edges, depth, a pose.
    pub picture: Picture,
    /// How much it is obeyed; 1 is what it was trained for.
    pub scale: f64,
}

/// What a picture shall be: with the model it says every pixel.
///
/// ```
/// use clearway_stable_diffusion::Request;
///
/// let request = Request {
///     prompt: "a (red:1.3) car".into(),
///     seeds: vec![1, 2],
///     ..Request::default()
/// };
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What to show.
    pub prompt: Text,
    /// What not to show; without guidance it has no effect.
    pub negative: Text,
    /// A seed a picture; all are made at once. A seed means the numbers of torch's generator on the CPU, as in diffusers
    /// given a generator a picture.
    pub seeds: Vec<u64>,
    /// Width and height, in pixels; none is those of the source, or else those that the model was trained on.
    pub size: Option<[u32; 2]>,
    /// Denoising steps.
    pub steps: usize,
    /// The solver; none is the model's own.
    pub method: Option<Method>,
    /// How levels are spaced; none is what the model and the solver say.
    pub spacing: Option<Spacing>,
    /// Of classifier-free guidance, at least 1, which is without; a guidance-conditioned network is told it.
    pub scale: f64,
    /// How far guidance's spread is [brought back](clearway_diffusion::Rescaled), from 0 to 1.
    pub rescale: f64,
    /// How many of the text encoder's last layers are left out.
    pub clip_skip: usize,
    /// A picture to begin with.
    pub source: Option<Source>,
    /// A picture for each ControlNet of the model.
    pub controls: Vec<Control>,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            prompt: Text::default(),
            negative: Text::default(),
            seeds: vec![0],
            size: None,
            steps: 20,
            method: None,
            spacing: None,
            scale: 7.5,
            rescale: 0.0,
            clip_skip: 0,
            source: None,
            controls: Vec::new(),
        }
    }
}

/// The most pictures that are made at once.
const MOST_PICTURES: usize = 64;

impl Request {
    /// Says whether the numbers can be.
    pub(super) fn check(&self) -> Result<(), GenerateError> {
        let wrong = |name, expected, found: &dyn ToString| {
            Err(GenerateError::Argument {
                name,
                expected,
                found: found.to_string(),
            })
        };
        if !(self.scale >= 1.0 && self.scale.is_finite()) {
            return wrong(
                "guidance scale",
                "a number from 1, which is without guidance,",
                &self.scale,
            );
        }
        if !(0.0..=1.0).contains(&self.rescale) {
            return wrong("guidance rescale", "a number from 0 to 1", &self.rescale);
        }
        if !(1..=MOST_PICTURES).contains(&self.seeds.len()) {
            return wrong(
                "number of seeds",
                "one a picture, for 1 to 64 pictures,",
                &self.seeds.len(),
            );
        }
        if let Some(source) = &self.source
            && !(source.strength > 0.0 && source.strength <= 1.0)
        {
            return wrong("strength", "a number above 0, up to 1,", &source.strength);
        }
        for control in &self.controls {
            if !control.scale.is_finite() {
                return wrong("scale of a ControlNet", "a number", &control.scale);
            }
        }
        Ok(())
    }

    /// How it is sampled, with the model's own solver where none is asked for.
    pub(super) fn sampling(&self, scheduler: &SchedulerConfig) -> Result<Sampling, GenerateError> {
        let method = self.method.or(scheduler.method);
        Ok(Sampling {
            method: method.ok_or_else(|| GenerateError::Solver {
                class: scheduler.class.clone(),
            })?,
            steps: self.steps,
            spacing: self.spacing,
        })
    }
}
