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
    steps: Range<isize>,
}

impl Window {
    /// The `past` newest observations, the frame's own last.
    pub fn observations(past: usize) -> Self {
        Self {
            steps: 1 - past as isize..1,
        }
    }

    /// `horizon` actions, the first for the oldest of `past` observations.
    pub fn actions(past: usize, horizon: usize) -> Self {
        let first = 1 - past as isize;
        Self {
            steps: first..first + horizon as isize,
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
        let (first, end) = (episode.start as isize, episode.end as isize);
        self.steps.clone().map(move |step| {
            let at = frame as isize + step;
            (at.clamp(first, end - 1) as usize, at < first || at >= end)
        })
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
