//! A few colours, one a meaning, for the viewer's dark background.
//!
//! What is there is cool and dull (walls, block), what is wanted is green (goal, coverage), who acts is blue (agent and
//! its trail, what is committed), and what is planned is amber (plan, candidates, latency). A plan that is still noise is
//! violet; red is left to what fails.

use rerun::Color;

/// Walls, thresholds and other things to read others against: a grey that steps back.
pub const REFERENCE: Color = rgb(0x5B_64_70);
/// The block that is pushed: slate.
pub const BLOCK: Color = rgb(0x8F_A3_B8);
/// Where the block should be: a green that lies behind the block.
pub const GOAL: Color = rgb(0x1E_5B_3C);
/// The edge of the goal, and how much of it is covered: the same green, awake.
pub const COVERAGE: Color = rgb(0x4F_D1_8B);
/// The agent: blue.
pub const AGENT: Color = rgb(0x5B_9D_FF);
/// Where the agent was: the same blue, receding.
pub const TRAIL: Color = rgb(0x2F_52_88);
/// The plan that was chosen, and what it cost: amber.
pub const PLAN: Color = rgb(0xFF_B8_47);
/// The plans that were not chosen: the same amber, faint.
pub const CANDIDATE: Color = rgb(0x7A_5A_2A);
/// An estimate made from pure noise: violet.
pub const NOISE: Color = rgb(0x4C_3F_8F);

/// What a plan begins with because the robot does it anyway: the agent's blue, awake.
pub const COMMITTED: Color = rgb(0x8F_C7_FF);
/// Where one plan takes over from another: nearly white.
pub const HAND_OVER: Color = rgb(0xF2_F4_F8);
/// All is as it should be: the green of what is wanted.
pub const FRESH: Color = COVERAGE;
/// It goes on, but not as it should: orange.
pub const STALE: Color = rgb(0xE8_8A_3A);
/// Standing still: slate.
pub const HOLDING: Color = rgb(0x6B_7A_90);
/// It does not go on: red.
pub const FAILED: Color = rgb(0xE0_4F_4F);

/// Between noise and plan: rose, so that the way does not lead through grey.
const HALFWAY: Color = rgb(0xC4_4F_7E);

/// The colour of an estimate at `progress` of its denoising: 0 is [`NOISE`], 1 is [`PLAN`].
///
/// Values outside are clamped, NaN counts as noise.
pub fn denoising(progress: f64) -> Color {
    let progress = if progress.is_nan() {
        0.0
    } else {
        progress.clamp(0.0, 1.0)
    };
    let (from, to, u) = if progress < 0.5 {
        (NOISE, HALFWAY, 2.0 * progress)
    } else {
        (HALFWAY, PLAN, 2.0 * progress - 1.0)
    };
    let (from, to) = (from.to_array(), to.to_array());
    let mix =
        |i: usize| (f64::from(from[i]) + u * (f64::from(to[i]) - f64::from(from[i]))).round() as u8;
    Color::from_rgb(mix(0), mix(1), mix(2))
}

const fn rgb(code: u32) -> Color {
    // Behind red, green and blue comes the opacity: all.
    Color(rerun::Rgba32(code << 8 | 0xFF))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denoising_leads_from_noise_to_plan() {
        assert_eq!(denoising(0.0), NOISE);
        assert_eq!(denoising(0.5), HALFWAY);
        assert_eq!(denoising(1.0), PLAN);
        assert_eq!(denoising(7.0), PLAN);
        assert_eq!(denoising(f64::NAN), NOISE);
    }
}
