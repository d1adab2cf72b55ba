//! What the machine can do: reading memory, and multiplying.

use std::time::{Duration, Instant};

use clearway_layers::{Level, Memory, Precision, multiply_adds};
use serde::Serialize;

use super::{Spread, digits};
use crate::output::say;
use crate::precision;

const GIB: usize = 1 << 30;
/// How long the arithmetic units are measured in a round.
const ARITHMETIC: Duration = Duration::from_millis(50);

/// Measures itself, in the same rounds as the networks: neighbours on the same machine come and go.
pub(super) struct Machine {
    precision: Precision,
    /// 1 GiB, while it is needed.
    memory: Option<Memory>,
    memory_gb_s: Vec<f64>,
    arithmetic_gflop_s: Vec<f64>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Report {
    threads: usize,
    /// Reading 1 GiB.
    memory_gb_s: Spread,
    /// Multiply-adds in registers, two operations each.
    pub(super) arithmetic_gflop_s: Spread,
}

impl Machine {
    pub(super) fn new(storage: precision::Precision) -> Self {
        Self {
            precision: storage.packed().unwrap_or(Precision::F32),
            memory: None,
            memory_gb_s: Vec::new(),
            arithmetic_gflop_s: Vec::new(),
        }
    }

    /// What is read; laid out if it is not there.
    fn memory(&mut self) -> &Memory {
        self.memory.get_or_insert_with(|| Memory::new(GIB))
    }

    /// Gives back what is read.
    pub(super) fn release(&mut self) {
        self.memory = None;
    }

    /// A round.
    pub(super) fn measure(&mut self) {
        let memory = self.memory();
        let begun = Instant::now();
        memory.read(GIB);
        let rate = GIB as f64 / begun.elapsed().as_secs_f64() / 1e9;
        self.memory_gb_s.push(rate);
        let precision = self.precision;
        let rates = rayon::broadcast(|_| {
            let begun = Instant::now();
            let mut products = 0;
            while begun.elapsed() < ARITHMETIC {
                products += multiply_adds(precision);
            }
            2.0 * products as f64 / begun.elapsed().as_secs_f64() / 1e9
        });
        self.arithmetic_gflop_s.push(rates.iter().sum());
    }

    /// Reads so many bytes, from where as many lie that are read over and over: a cache, if they fit. More than there is
    /// memory for are read in turns.
    pub(super) fn read_bytes(&mut self, bytes: u64) {
        let memory = self.memory();
        let mut left = bytes as usize;
        while left > 0 {
            let now = left.min(GIB);
            memory.read(now);
            left -= now;
        }
    }

    pub(super) fn report(&self) -> Report {
        Report {
            threads: rayon::current_num_threads(),
            memory_gb_s: Spread::of(&self.memory_gb_s),
            arithmetic_gflop_s: Spread::of(&self.arithmetic_gflop_s),
        }
    }

    pub(super) fn say(&self) {
        let Report {
            threads,
            memory_gb_s,
            arithmetic_gflop_s,
        } = self.report();
        let plural = if threads == 1 { "" } else { "s" };
        say!(
            "this machine   {threads} thread{plural}, {}: reads {} GB/s, computes {} GFLOP/s",
            Level::detected(),
            digits(memory_gb_s.median),
            digits(arithmetic_gflop_s.median)
        );
    }
}
