//! Where layers compute.

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
