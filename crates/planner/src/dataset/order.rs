//! In which order training sees windows.

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// How the windows of a training step are chosen.
///
/// What is chosen depends on the seed and the number of the step alone. The generator is ChaCha with 8 rounds: key = seed,
/// stream = step or epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// All once, in another order each time. A batch may end one round and begin the next; PyTorch's loader makes the last
    /// batch of a round smaller instead.
    #[default]
    Shuffled,
    /// Each drawn from all.
    Replacement,
}

impl Order {
    /// Which of `count` windows are the `batch` of a training step.
    ///
    /// # Panics
    ///
    /// If there is no window.
    pub fn draw(self, seed: u64, step: u64, batch: usize, count: usize) -> Vec<usize> {
        assert!(count > 0, "a batch of nothing");
        let generator = |stream| {
            let mut generator = ChaCha8Rng::seed_from_u64(seed);
            generator.set_stream(stream);
            generator
        };
        match self {
            Self::Replacement => {
                let mut generator = generator(step);
                (0..batch)
                    .map(|_| generator.random_range(0..count))
                    .collect()
            }
            Self::Shuffled => {
                let round = |round: u64| {
                    let mut all: Vec<usize> = (0..count).collect();
                    all.shuffle(&mut generator(round));
                    all
                };
                // A run of 2⁶⁴ windows does not end.
                let mut at = step.wrapping_mul(batch as u64);
                let mut windows = Vec::with_capacity(batch);
                while windows.len() < batch {
                    let start = (at % count as u64) as usize;
                    let taken = (batch - windows.len()).min(count - start);
                    windows.extend(&round(at / count as u64)[start..][..taken]);
                    at += taken as u64;
                }
                windows
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_has_every_window_once() {
        let (batch, count) = (7, 20);
        let windows: Vec<usize> = (0..20)
            .flat_map(|step| Order::Shuffled.draw(3, step, batch, count))
            .collect();
        let mut orders = Vec::new();
        for round in windows.chunks(count) {
            let mut sorted = round.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..count).collect::<Vec<_>>());
            assert!(!orders.contains(&round), "an order came twice");
            orders.push(round);
        }
        // More than a round at once.
        assert_eq!(Order::Shuffled.draw(3, 0, 140, count), windows);
    }

    #[test]
    fn a_draw_depends_on_seed_and_step_alone() {
        for order in [Order::Shuffled, Order::Replacement] {
            assert_eq!(order.draw(1, 5, 10, 1000), order.draw(1, 5, 10, 1000));
            assert_ne!(order.draw(1, 5, 10, 1000), order.draw(1, 6, 10, 1000));
            assert_ne!(order.draw(1, 5, 10, 1000), order.draw(2, 5, 10, 1000));
        }
    }

    #[test]
    fn replacement_takes_each_as_often() {
        let mut counts = [0; 10];
        for step in 0..1000 {
            for window in Order::Replacement.draw(9, step, 10, 10) {
                counts[window] += 1;
            }
        }
        // A thousand of each; five times the thirty that are their deviation.
        assert!(
            counts.iter().all(|count| (850..1150).contains(count)),
            "{counts:?}"
        );
    }
}
