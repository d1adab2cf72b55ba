//! Where layers compute.

use crate::kernel;

/// Runs `f` on a thread of rayon's pool, the one whose work it will share out.
///
/// A network calls it once around a pass: each packed layer shares its rows out to the pool, and from outside the pool
/// every time costs waking a thread and waiting for it. In the pool already, or with a single thread, it just calls `f`.
///
/// A thread that waits for its share in one call may begin another call: where two networks compute in a process at the same
/// time, and one of them has a deadline, give it a `rayon::ThreadPool` of its own and call it within `install`.
pub fn in_pool<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    if rayon::current_thread_index().is_some() || rayon::current_num_threads() == 1 {
        f()
    } else {
        rayon::scope(|_| f())
    }
}

/// As [`in_pool`], and the pool's other threads wait, awake, for what layers over time and linear layers share out
/// meanwhile. A pass of a policy is some thirty products; those of a small one take a few microseconds, less than waking a
/// thread.
///
/// A plan calls it once, around all of its passes, and a pass within does not begin another.
///
/// Awake means that each thread of the pool keeps a core busy until `f` returns, also while `f` computes alone; a thread that
/// finds no work for some time offers its core to others again and again, but does not sleep. So
///
/// - where other threads have deadlines, a control loop for one, give plans a pool with fewer threads than there are cores:
///   `rayon::ThreadPool::install`, `clearway --threads`, `RAYON_NUM_THREADS`;
/// - whoever else needs the pool, another planner or an encoder of pictures, waits for the whole plan;
/// - what `f` calls that shares its work out to rayon itself, such as convolutions over pictures or attention, has one
///   thread, and `f` must not wait for what only another thread of the pool could do;
/// - the pool's threads should have one priority: each may wait for a task that another has begun.
pub fn in_team<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    kernel::in_team(f)
}
