//! From a prompt to a picture, on the engine that plans trajectories.
//!
//! | where | what |
//! |---|---|
//! | [`Prompt`] | a prompt and the weights in it |
//! | [`Tokenizer`] | from prompts to [`Chunk`]s of what CLIP reads |
//! | [`Picture`] | pixels, and their files |
//! | [`Parameters`] | how a picture was made, inside of it |

mod parameters;
mod picture;
mod prompt;
mod tokenizer;

pub use parameters::{Lora, Parameters, ParametersError};
pub use picture::{MAX_PIXELS, MULTIPLE, Picture, PictureError};
pub use prompt::{Chunk, Cut, Part, Prompt, PromptError, emphasize};
pub use tokenizer::{Tokenizer, TokenizerError, VocabularyError};
