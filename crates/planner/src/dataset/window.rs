//! What a policy saw and did around a frame.

use std::ops::Range;

use super::Dataset;

/// Which frames around one are looked at, as steps from it: the observations of a policy, or its actions.
///
/// ```text
/// observations   1 - past .. 1
/// actions        1 - past .. 1 - past + horizon
/// ```
///
/// Before an episode's first frame the first is repeated, behind its last the last; LeRobot says the same with
/// `delta_timestamps`, and calls what is repeated `action_is_pad`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// How many frames before the one.
    before: usize,
    len: usize,
}

impl Window {
    /// The `past` newest observations, the frame's own last.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn observations(past: usize) -> Self {
        Self::actions(past, past)
    }

    /// `horizon` actions, the first for the oldest of `past` observations.
    ///
    /// # Panics
    ///
    /// If there is no observation.
    pub fn actions(past: usize, horizon: usize) -> Self {
        assert!(past > 0, "a policy that sees nothing");
        Self {
            before: past - 1,
            len: horizon,
        }
    }

    /// The frames that are looked at, and of each whether it is repeated.
    ///
    /// # Panics
    ///
    /// If the dataset has no such frame.
    pub fn around(
        &self,
        dataset: &Dataset,
        frame: usize,
    ) -> impl Iterator<Item = (usize, bool)> + use<> {
        let episode = dataset.episode_of(frame);
        // All later by as many frames as are looked at before, so that no number is negative.
        let before = self.before;
        let (first, end) = (episode.start + before, episode.end + before);
        (frame..frame + self.len)
            .map(move |at| (at.clamp(first, end - 1) - before, at < first || at >= end))
    }
}

impl Dataset {
    /// The frames of the episode that a frame is of.
    ///
    /// # Panics
    ///
    /// If there is no such frame.
    pub fn episode_of(&self, frame: usize) -> Range<usize> {
        assert!(frame < self.len(), "{frame} of {} frames", self.len());
        let index = self.episodes.partition_point(|it| it.end <= frame);
        self.episodes[index].clone()
    }

    /// The frames of some episodes that training begins windows at: all but the last `dropped` of each.
    ///
    /// The last frames are followed by little but repetitions. LeRobot drops `horizon - n_action_steps - n_obs_steps + 1`
    /// (`drop_n_last_frames`).
    ///
    /// # Panics
    ///
    /// If there is no such episode.
    pub fn frames(&self, episodes: &[usize], dropped: usize) -> Vec<usize> {
        let frames = episodes.iter().flat_map(|&episode| {
            let frames = self.episodes[episode].clone();
            frames.start..frames.end.saturating_sub(dropped).max(frames.start)
        });
        frames.collect()
    }
}
