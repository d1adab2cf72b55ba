//! What a robot saw, and when.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::image::Image;

/// Named values that were measured at one time, in physical units, and named images of that time.
#[derive(Debug, Default, PartialEq)]
pub struct Observation {
    time: Duration,
    values: BTreeMap<String, Vec<f64>>,
    images: BTreeMap<String, Image>,
}

impl Clone for Observation {
    fn clone(&self) -> Self {
        Self {
            time: self.time,
            values: self.values.clone(),
            images: self.images.clone(),
        }
    }

    /// Copies into the memory that is there: nothing is allocated or freed where features, images and sizes are the
    /// same, and images are not shared but copied.
    fn clone_from(&mut self, other: &Self) {
        self.time = other.time;
        if self.values.keys().eq(other.values.keys()) {
            for (to, from) in self.values.values_mut().zip(other.values.values()) {
                to.clone_from(from);
            }
        } else {
            self.values.clone_from(&other.values);
        }
        if self.images.keys().eq(other.images.keys()) {
            for (to, from) in self.images.values_mut().zip(other.images.values()) {
                to.copy_from(from);
            }
        } else {
            self.images = other.images.clone();
            self.images.values_mut().for_each(Image::detach);
        }
    }
}

impl Observation {
    /// An observation of nothing, at a time since a start that the caller chooses.
    pub fn new(time: Duration) -> Self {
        Self {
            time,
            values: BTreeMap::new(),
            images: BTreeMap::new(),
        }
    }

    /// Adds the values of a feature; a feature that is there already is replaced.
    #[must_use]
    pub fn with(mut self, feature: impl Into<String>, values: impl Into<Vec<f64>>) -> Self {
        self.values.insert(feature.into(), values.into());
        self
    }

    /// Adds what a camera saw; an image of that name that is there already is replaced.
    #[must_use]
    pub fn with_image(mut self, camera: impl Into<String>, image: Image) -> Self {
        self.images.insert(camera.into(), image);
        self
    }

    /// The same, sharing no pixels with it.
    pub(crate) fn detached(&self) -> Self {
        let mut detached = self.clone();
        detached.images.values_mut().for_each(Image::detach);
        detached
    }

    /// When it was measured.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// The same values, as if they had been measured at another time.
    pub(crate) fn set_time(&mut self, time: Duration) {
        self.time = time;
    }

    /// The values of a feature.
    pub fn get(&self, feature: &str) -> Option<&[f64]> {
        self.values.get(feature).map(Vec::as_slice)
    }

    /// The features and their values, by name.
    pub fn features(&self) -> impl Iterator<Item = (&str, &[f64])> {
        self.values
            .iter()
            .map(|(name, values)| (name.as_str(), values.as_slice()))
    }

    /// What a camera saw.
    pub fn image(&self, camera: &str) -> Option<&Image> {
        self.images.get(camera)
    }

    /// The cameras and what they saw, by name.
    pub fn images(&self) -> impl Iterator<Item = (&str, &Image)> {
        self.images
            .iter()
            .map(|(name, image)| (name.as_str(), image))
    }
}

/// Why observations are no [`History`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// An observation is not newer than the one before it.
    #[error("an observation at {time:?} cannot follow one at {newest:?}")]
    Order {
        /// The time of the observation that was refused.
        time: Duration,
        /// The time of the newest observation.
        newest: Duration,
    },
}

/// Observations in the order of their times, the newest last.
///
/// It is guaranteed that times increase strictly. The caller owns the history: a policy keeps none of its own, so that
/// a plan depends on its arguments alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    observations: Vec<Observation>,
}

impl History {
    /// A history of observations, the oldest first.
    ///
    /// # Errors
    ///
    /// If the times do not increase strictly.
    pub fn new(observations: Vec<Observation>) -> Result<Self, HistoryError> {
        for pair in observations.windows(2) {
            in_order(&pair[0], &pair[1])?;
        }
        Ok(Self { observations })
    }

    /// Adds the newest observation.
    ///
    /// # Errors
    ///
    /// If it is not newer than the newest one; the history stays as it was.
    pub fn push(&mut self, observation: Observation) -> Result<(), HistoryError> {
        if let Some(newest) = self.newest() {
            in_order(newest, &observation)?;
        }
        self.observations.push(observation);
        Ok(())
    }

    /// Forgets all but the `n` newest observations.
    pub fn keep_newest(&mut self, n: usize) {
        let old = self.observations.len().saturating_sub(n);
        self.observations.drain(..old);
    }

    /// The newest observation.
    pub fn newest(&self) -> Option<&Observation> {
        self.observations.last()
    }

    /// All observations, the oldest first.
    pub fn observations(&self) -> &[Observation] {
        &self.observations
    }

    /// The observations nearest to the times `newest − k · period`, `k = n−1 .. 0`.
    ///
    /// A policy looks back in steps of its own period, whatever the rate at which observations come. Where they come at
    /// that rate, these are the newest ones; before the first of them it is repeated, as LeRobot does at the start of an
    /// episode; and where none was taken about a time, the nearest stands in. Nothing comes from an empty history.
    pub fn every(&self, period: Duration, n: usize) -> impl Iterator<Item = &Observation> {
        let newest = self.newest();
        (0..n).rev().filter_map(move |k| {
            let back = period.saturating_mul(u32::try_from(k).unwrap_or(u32::MAX));
            let time = newest?.time.saturating_sub(back);
            let after = self
                .observations
                .partition_point(|observation| observation.time < time);
            let (before, after) = (
                after.checked_sub(1).map(|i| &self.observations[i]),
                self.observations.get(after),
            );
            match (before, after) {
                // Of two that are as near, the newer.
                (Some(before), Some(after))
                    if time.saturating_sub(before.time) < after.time.saturating_sub(time) =>
                {
                    Some(before)
                }
                (_, Some(after)) => Some(after),
                (before, None) => before,
            }
        })
    }

    /// The `n` newest observations, the oldest first; where there are fewer, the oldest is repeated in front.
    ///
    /// That is how LeRobot fills its queues at the start of an episode. Nothing comes from an empty history.
    pub fn newest_or_repeated(&self, n: usize) -> impl Iterator<Item = &Observation> {
        let missing = n.saturating_sub(self.observations.len());
        let old = self.observations.len().saturating_sub(n);
        let repeated = self.observations.first().into_iter().cycle().take(missing);
        repeated.chain(&self.observations[old..])
    }
}

fn in_order(before: &Observation, after: &Observation) -> Result<(), HistoryError> {
    if after.time > before.time {
        Ok(())
    } else {
        Err(HistoryError::Order {
            time: after.time,
            newest: before.time,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Observation {
        Observation::new(Duration::from_secs(seconds))
    }

    #[test]
    fn times_increase_strictly() {
        assert!(History::new(vec![at(1), at(2)]).is_ok());
        for times in [[2, 1], [1, 1]] {
            assert!(History::new(times.map(at).to_vec()).is_err());
            let mut history = History::default();
            history.push(at(times[0])).expect("the first is newest");
            let before = history.clone();
            assert!(history.push(at(times[1])).is_err());
            assert_eq!(history, before);
        }
    }

    #[test]
    fn the_oldest_is_repeated_where_observations_are_missing() {
        let seconds = |history: &[u64], n| -> Vec<u64> {
            let history = History::new(history.iter().copied().map(at).collect()).expect("ordered");
            history
                .newest_or_repeated(n)
                .map(|o| o.time().as_secs())
                .collect()
        };
        assert!(seconds(&[], 2).is_empty());
        assert_eq!(seconds(&[5], 3), [5, 5, 5]);
        assert_eq!(seconds(&[5, 7], 3), [5, 5, 7]);
        assert_eq!(seconds(&[5, 7, 8, 9], 2), [8, 9]);
    }

    #[test]
    fn a_policy_looks_back_in_steps_of_its_period() {
        let millis = |history: &[u64], period, n| -> Vec<u64> {
            let at = |&millis: &u64| Observation::new(Duration::from_millis(millis));
            let history = History::new(history.iter().map(at).collect()).expect("ordered");
            let every = history.every(Duration::from_millis(period), n);
            every
                .map(|o| u64::try_from(o.time().as_millis()).expect("short"))
                .collect()
        };
        assert_eq!(millis(&[], 100, 2), [0_u64; 0]);
        assert_eq!(millis(&[700, 800], 100, 2), [700, 800]);
        assert_eq!(millis(&[600, 700, 800], 100, 2), [700, 800]);
        // Ten times as fast as the policy, with jitter.
        assert_eq!(
            millis(&[698, 709, 720, 731, 742, 790, 801], 100, 2),
            [698, 801]
        );
        // At the start, and after a gap.
        assert_eq!(millis(&[800], 100, 3), [800, 800, 800]);
        assert_eq!(millis(&[50], 100, 3), [50, 50, 50]);
        assert_eq!(millis(&[0, 800], 100, 2), [800, 800]);
    }
}
