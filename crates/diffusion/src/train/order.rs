//! In which order training sees its examples.

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// How the examples of a training step are chosen: windows of demonstrations, or pictures.
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
    /// The batches of `count` examples that a seed gives.
    ///
    /// # Panics
    ///
    /// If there is no example.
    pub fn of(self, seed: u64, count: usize) -> Batches {
        assert!(count > 0, "batches of nothing");
        Batches {
            order: self,
            seed,
            count,
            round: None,
        }
    }
}

/// Examples in an order, batch by batch.
#[derive(Clone, Debug)]
pub struct Batches {
    order: Order,
    seed: u64,
    count: usize,
    /// The round that was looked at last: to shuffle a large dataset takes as long as many steps.
    round: Option<(u64, Vec<usize>)>,
}

impl Batches {
    /// Which examples are the `batch` of a training step.
    pub fn draw(&mut self, step: u64, batch: usize) -> Vec<usize> {
        let count = self.count;
        if self.order == Order::Replacement {
            let mut generator = generator(self.seed, step);
            return (0..batch)
                .map(|_| generator.random_range(0..count))
                .collect();
        }
        // A run of 2⁶⁴ examples does not end.
        let mut at = step.wrapping_mul(batch as u64);
        let mut examples = Vec::with_capacity(batch);
        while examples.len() < batch {
            let start = (at % count as u64) as usize;
            let taken = (batch - examples.len()).min(count - start);
            examples.extend(&self.round(at / count as u64)[start..][..taken]);
            at += taken as u64;
        }
        examples
    }

    /// All examples, as a round has them.
    fn round(&mut self, round: u64) -> &[usize] {
        if self.round.as_ref().is_none_or(|(last, _)| *last != round) {
            let mut all: Vec<usize> = (0..self.count).collect();
            all.shuffle(&mut generator(self.seed, round));
            self.round = Some((round, all));
        }
        self.round.as_ref().map_or(&[], |(_, all)| all)
    }
}

fn generator(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(stream);
    generator
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_has_every_window_once() {
        let (batch, count) = (7, 20);
        let mut batches = Order::Shuffled.of(3, count);
        let windows: Vec<usize> = (0..20).flat_map(|step| batches.draw(step, batch)).collect();
        let mut orders = Vec::new();
        for round in windows.chunks(count) {
            let mut sorted = round.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..count).collect::<Vec<_>>());
            assert!(!orders.contains(&round), "an order came twice");
            orders.push(round);
        }
        // More than a round at once.
        assert_eq!(batches.draw(0, 140), windows);
    }

    #[test]
    fn a_draw_depends_on_seed_and_step_alone() {
        for order in [Order::Shuffled, Order::Replacement] {
            let mut batches = order.of(1, 37);
            let drawn: Vec<_> = (0..12).map(|step| batches.draw(step, 10)).collect();
            // In whatever order steps are asked for.
            for step in [7, 0, 11, 3, 4] {
                assert_eq!(batches.draw(step, 10), drawn[step as usize]);
                assert_eq!(order.of(1, 37).draw(step, 10), drawn[step as usize]);
            }
            assert_ne!(drawn[5], drawn[6]);
            assert_ne!(drawn[5], order.of(2, 37).draw(5, 10));
        }
    }

    #[test]
    fn replacement_takes_each_as_often() {
        let mut counts = [0; 10];
        let mut batches = Order::Replacement.of(9, 10);
        for step in 0..1000 {
            for window in batches.draw(step, 10) {
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
