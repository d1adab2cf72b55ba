//! Weights that are fetched before they are asked for, while a thread has nothing else to do.
//!
//! Between two products memory would idle: one thread lays out the inputs of the next, the others wait. Networks are computed
//! in the same order in every pass, so that what followed last time is a good guess of what follows now. A wrong one costs
//! nothing but the fetching: results do not depend on it.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The size of a cache line, in bytes.
const LINE: usize = 64;
/// How many lines of a panel are fetched before the next one's.
const LINES: usize = 8;
/// How many panels are read at the same time.
const PANELS: usize = 4;
/// The most bytes that a thread fetches: a part of a second cache.
const MOST: usize = 192 << 10;

/// Where the first weights lie that the threads of a team read in a call: addresses, at which there may be nothing any more.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Start {
    /// Those of the first task, which the leader takes.
    pub(super) first: usize,
    /// Those of the last task.
    pub(super) last: usize,
    /// The bytes between two panels.
    pub(super) panel: usize,
}

/// What follows some weights, as far as is known.
#[derive(Debug, Default)]
pub(super) struct Follower {
    first: AtomicUsize,
    last: AtomicUsize,
    panel: AtomicUsize,
}

impl Follower {
    fn set(&self, start: Start) {
        // The numbers of two threads may mix, and then something else is fetched.
        self.first.store(start.first, Ordering::Relaxed);
        self.last.store(start.last, Ordering::Relaxed);
        self.panel.store(start.panel, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> Start {
        Start {
            first: self.first.load(Ordering::Relaxed),
            last: self.last.load(Ordering::Relaxed),
            panel: self.panel.load(Ordering::Relaxed),
        }
    }
}

thread_local! {
    /// What keeps the follower of the weights that this thread, as a leader, read last.
    static LATEST: RefCell<Option<Arc<Follower>>> = const { RefCell::new(None) };
}

/// Says that weights are read which begin there, and returns what followed them last time.
pub(super) fn follow(start: Start, follower: &Arc<Follower>) -> Start {
    let before = LATEST.replace(Some(Arc::clone(follower)));
    if let Some(before) = before {
        before.set(start);
    }
    follower.get()
}

/// What one thread fetches between two calls.
#[derive(Debug, Default)]
pub(super) struct Fetching {
    /// How many lines it fetched.
    lines: usize,
}

impl Fetching {
    /// Fetches a few lines of the weights that begin at `from`. Returns whether there were any left.
    pub(super) fn step(&mut self, from: usize, panel: usize) -> bool {
        let most = MOST.min(PANELS * panel) / LINE;
        if from == 0 || self.lines >= most {
            return false;
        }
        let (block, of_panel) = (self.lines / LINES, panel / LINE);
        let (at, first) = (block % PANELS, block / PANELS * LINES);
        for line in first..(first + LINES).min(of_panel) {
            fetch(from + at * panel + line * LINE);
        }
        self.lines += LINES;
        true
    }
}

/// Fetches a line into the second cache. Any address will do.
#[cfg(target_arch = "x86_64")]
fn fetch(address: usize) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // SAFETY: every x86-64 CPU has the instruction, which reads nothing.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::without_provenance(address)) }
}

#[cfg(not(target_arch = "x86_64"))]
fn fetch(_: usize) {}
