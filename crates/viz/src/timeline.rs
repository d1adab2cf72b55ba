//! The names of the timelines that an episode is told on.
//!
//! A time stays set on a stream until it is set again. So set all three before the first log, and what is logged later
//! can be looked up on each of them.

/// Simulated time since the start of the episode, a duration in seconds: `rec.set_duration_secs(CONTROL, ..)`.
///
/// The timeline to watch an episode on.
pub const CONTROL: &str = "control";

/// The index of the control step, a sequence from 0: `rec.set_time_sequence(STEP, ..)`.
///
/// The timeline to compare two episodes on, whatever their control rates.
pub const STEP: &str = "step";

/// The denoising steps of all plans of the episode, one after the other, a sequence from 0:
/// `rec.set_time_sequence(DENOISING, ..)`.
///
/// While a plan is made, the two others stand still and this one runs: the timeline to watch a plan emerge on. It does
/// not start again with the next plan, which would draw the plans on top of each other.
pub const DENOISING: &str = "denoising";
