//! Threads that stay awake for each other's next piece of work.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::yield_now;

use rayon::prelude::*;

use super::ahead::{Fetching, Start};

/// How often a thread looks for work before it lets others have its core, too: some 100 µs on a Xeon of 2023, less where a
/// pause is shorter.
const LOOKS: u32 = 2_000;
/// What [`Team::open`] holds when no work will come any more.
const CLOSED: u64 = u64::MAX;

/// Threads of a pool that share out one call after another.
///
/// The leader publishes the tasks of a call; it takes them from the first on, the others from the last. So with two
/// threads each meets about the same tasks, and their weights in its cache, in every pass. A task that no other thread took
/// the leader does itself: it never waits for a thread that is not awake, only for one that has begun a task.
struct Team {
    /// The tasks of a call that no one has begun: its number, the first of them, and their end, in 32, 16, and 16 bits.
    open: Line<AtomicU64>,
    /// How many tasks of the call are done.
    done: Line<AtomicUsize>,
    /// What a task does. Written before a call is published; read by who has begun one of its tasks, which is not done.
    call: UnsafeCell<Task>,
    /// What is fetched where there is no task. It is written with `call`, but may be read at any time.
    next: Line<[AtomicUsize; 3]>,
    /// What the first task that panicked did so with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

type Task = *const (dyn Fn(usize) + Sync);

// SAFETY: `call` is written by the leader alone, while no task is open or begun; what it points to is `Sync`, and lives until
// all tasks are done.
unsafe impl Sync for Team {}
// SAFETY: as above.
unsafe impl Send for Team {}

/// A line of the cache of its own, and the one that is fetched beside it.
#[derive(Default)]
#[repr(align(128))]
struct Line<T>(T);

/// Which of the open tasks a thread takes.
#[derive(Clone, Copy)]
enum End {
    First,
    Last,
}

enum Claim {
    Task(usize),
    Nothing,
    Closed,
}

thread_local! {
    /// The team that this thread leads.
    static LEADS: Cell<*const Team> = const { Cell::new(ptr::null()) };
    /// Whether this thread leads or attends a team. It must not begin to attend another meanwhile: who waits for it would
    /// wait until that one's leader leaves.
    static BUSY: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread attends a team.
    static ATTENDS: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` on a thread of rayon's pool, and lets the pool's other threads wait, awake, for what [`for_each`] shares out
/// meanwhile.
pub(crate) fn in_team<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    let threads = rayon::current_num_threads();
    if threads == 1 || BUSY.get() {
        return f();
    }
    let lead = || {
        let team = Arc::new(Team {
            open: Line(AtomicU64::new(0)),
            done: Line(AtomicUsize::new(0)),
            call: UnsafeCell::new(ptr::from_ref::<dyn Fn(usize) + Sync>(&|_| {})),
            next: Line::default(),
            panic: Mutex::new(None),
        });
        // No one waits for them at the end: a thread that waits in a pool begins other work there.
        for _ in 1..threads {
            let team = Arc::clone(&team);
            rayon::spawn(move || team.attend());
        }
        let _leading = Leading::of(&team);
        f()
    };
    if rayon::current_thread_index().is_some() {
        lead()
    } else {
        rayon::scope(|_| lead())
    }
}

/// Whether this thread leads a team, so that [`for_each`] wakes no one.
pub(super) fn leads() -> bool {
    !LEADS.get().is_null()
}

/// Whether this thread takes the last of a call's tasks, and then the one before.
pub(super) fn takes_last() -> bool {
    ATTENDS.get()
}

/// Runs `task` for every number below `tasks`, on the threads of the team that this thread leads; where it leads none, on
/// those of rayon's pool.
pub(super) fn for_each(tasks: usize, task: impl Fn(usize) + Sync) {
    for_each_before(Start::default(), tasks, task);
}

/// As [`for_each`]; threads that find no task fetch what is read next.
pub(super) fn for_each_before(next: Start, tasks: usize, task: impl Fn(usize) + Sync) {
    let team = LEADS.get();
    // A task that shares out work itself does it itself.
    if tasks < 2 || (team.is_null() && BUSY.get()) {
        (0..tasks).for_each(task);
    } else if team.is_null() || tasks > usize::from(u16::MAX) {
        (0..tasks).into_par_iter().with_max_len(1).for_each(&task);
    } else {
        LEADS.set(ptr::null());
        let _again = Again(team);
        // SAFETY: `in_team` is running on this thread, and its team outlives what it calls.
        unsafe { &*team }.share_out(next, tasks, &task);
    }
}

/// Runs `f` on every chunk of `size` values, and on what is left of them, as [`for_each`].
pub(super) fn for_each_chunk<T: Send>(
    values: &mut [T],
    size: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    struct Start<T>(*mut T);
    // SAFETY: each task makes a reference to a chunk of its own, and `T` can be sent.
    unsafe impl<T: Send> Sync for Start<T> {}

    let (len, start) = (values.len(), Start(values.as_mut_ptr()));
    for_each(len.div_ceil(size), |index| {
        let start = &start;
        let first = index * size;
        // SAFETY: chunks do not overlap and end within the values, whose only reference this function holds.
        let chunk =
            unsafe { std::slice::from_raw_parts_mut(start.0.add(first), size.min(len - first)) };
        f(index, chunk);
    });
}

/// Leads again when a call is over.
struct Again(*const Team);

impl Drop for Again {
    fn drop(&mut self) {
        LEADS.set(self.0);
    }
}

/// Leads, and sends the others home at the end.
struct Leading<'a>(&'a Team);

impl<'a> Leading<'a> {
    fn of(team: &'a Team) -> Self {
        LEADS.set(ptr::from_ref(team));
        BUSY.set(true);
        Self(team)
    }
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        LEADS.set(ptr::null());
        BUSY.set(false);
        self.0.open.0.store(CLOSED, Ordering::Release);
    }
}

impl Team {
    fn share_out(&self, next: Start, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        // SAFETY: the lifetime alone changes. All tasks are done before this function returns, and no one calls it later.
        let task: Task = unsafe { std::mem::transmute(task) };
        // SAFETY: the tasks of the call before are all done, so that no one reads it.
        unsafe { *self.call.get() = task };
        self.done.0.store(0, Ordering::Relaxed);
        for (to, from) in (self.next.0.iter()).zip([next.first, next.last, next.panel]) {
            to.store(from, Ordering::Relaxed);
        }
        let call = (self.open.0.load(Ordering::Relaxed) >> 32) as u32;
        self.open.0.store(
            u64::from(call.wrapping_add(1) & 0x7fff_ffff) << 32 | tasks as u64,
            Ordering::Release,
        );
        while let Claim::Task(index) = self.claim(End::First) {
            self.run(index);
        }
        let (mut looks, mut fetching) = (0, Fetching::default());
        while self.done.0.load(Ordering::Acquire) < tasks {
            if !fetching.step(next.first, next.panel) {
                wait(&mut looks);
            }
        }
        let panic = self
            .panic
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Does what is shared out until the leader leaves.
    fn attend(&self) {
        // A leader that waits for something else in the pool may find this job, and so may a task.
        if BUSY.replace(true) {
            return;
        }
        let _free = Free;
        ATTENDS.set(true);
        let (mut looks, mut fetching) = (0, Fetching::default());
        let [_, last, panel] = &self.next.0;
        loop {
            match self.claim(End::Last) {
                Claim::Task(index) => {
                    self.run(index);
                    (looks, fetching) = (0, Fetching::default());
                }
                Claim::Nothing => {
                    let (last, panel) =
                        (last.load(Ordering::Relaxed), panel.load(Ordering::Relaxed));
                    if !fetching.step(last, panel) {
                        wait(&mut looks);
                    }
                }
                Claim::Closed => return,
            }
        }
    }

    /// Takes the first or the last of the open tasks.
    fn claim(&self, from: End) -> Claim {
        let mut open = self.open.0.load(Ordering::Acquire);
        loop {
            if open == CLOSED {
                return Claim::Closed;
            }
            let (start, end) = (open >> 16 & 0xffff, open & 0xffff);
            if start >= end {
                return Claim::Nothing;
            }
            let (task, left) = match from {
                End::First => (start, open + (1 << 16)),
                End::Last => (end - 1, open - 1),
            };
            match self
                .open
                .0
                .compare_exchange_weak(open, left, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Claim::Task(task as usize),
                Err(found) => open = found,
            }
        }
    }

    fn run(&self, index: usize) {
        let _done = Done(&self.done.0);
        // SAFETY: this thread has begun a task of the call, which is not done, so that no one writes and it still lives.
        let task = unsafe { &**self.call.get() };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| task(index))) {
            let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            if first.is_none() {
                *first = Some(panic);
            } else {
                // What it holds may panic itself when it is dropped.
                std::mem::forget(panic);
            }
        }
    }
}

/// Counts a task, however it ends.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// Attends no longer.
struct Free;

impl Drop for Free {
    fn drop(&mut self) {
        ATTENDS.set(false);
        BUSY.set(false);
    }
}

fn wait(looks: &mut u32) {
    if *looks < LOOKS {
        *looks += 1;
        spin_loop();
    } else {
        yield_now();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    fn pool(threads: usize) -> rayon::ThreadPool {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("a pool")
    }

    /// How often each task of many calls ran, whose numbers of tasks differ.
    fn counted(calls: usize) -> Vec<u32> {
        let counts: Vec<AtomicU32> = (0..17).map(|_| AtomicU32::new(0)).collect();
        for call in 0..calls {
            for_each(call % 18, |index| {
                counts[index].fetch_add(1, Ordering::Relaxed);
            });
        }
        counts.into_iter().map(AtomicU32::into_inner).collect()
    }

    #[test]
    fn every_task_runs_once() {
        let calls = 18 * 500;
        let expected: Vec<u32> = (0..17).map(|index| 500 * (17 - index)).collect();
        for threads in [1, 2, 5] {
            pool(threads).install(|| assert_eq!(counted(calls), expected));
            let found = pool(threads).install(|| in_team(|| counted(calls)));
            assert_eq!(found, expected, "{threads} threads");
        }
    }

    #[test]
    fn others_take_part() {
        // Each of two tasks waits for the other: one thread alone would wait for ever.
        let there = AtomicU32::new(0);
        pool(2).install(|| {
            in_team(|| {
                for _ in 0..100 {
                    there.store(0, Ordering::Relaxed);
                    for_each(2, |_| {
                        there.fetch_add(1, Ordering::AcqRel);
                        while there.load(Ordering::Acquire) < 2 {
                            yield_now();
                        }
                    });
                }
            });
        });
    }

    #[test]
    fn chunks_are_written_once() {
        for threads in [1, 3] {
            let mut values = vec![0_u32; 1001];
            pool(threads).install(|| {
                in_team(|| {
                    for_each_chunk(&mut values, 10, |index, chunk| {
                        for value in chunk {
                            *value += index as u32 + 1;
                        }
                    });
                });
            });
            let expected: Vec<u32> = (0..1001).map(|i| i / 10 + 1).collect();
            assert_eq!(values, expected);
        }
    }

    #[test]
    fn calls_may_lie_within_tasks_and_teams_within_teams() {
        let sum = AtomicU32::new(0);
        pool(3).install(|| {
            in_team(|| {
                for_each(5, |_| {
                    for_each(7, |index| {
                        sum.fetch_add(index as u32, Ordering::Relaxed);
                    });
                });
                in_team(|| assert_eq!(counted(18)[0], 17));
                // What rayon is given is done, too: by this thread, if need be.
                let (a, b) = rayon::join(|| 1, || 2);
                sum.fetch_add(a + b, Ordering::Relaxed);
            });
        });
        assert_eq!(sum.into_inner(), 5 * 21 + 3);
    }

    #[test]
    fn a_task_in_a_task_waits_for_no_one() {
        // All threads are in a task before any shares out more.
        let inside = AtomicU32::new(0);
        let sum = AtomicU32::new(0);
        pool(3).install(|| {
            in_team(|| {
                for _ in 0..200 {
                    inside.store(0, Ordering::Relaxed);
                    for_each(3, |_| {
                        inside.fetch_add(1, Ordering::AcqRel);
                        while inside.load(Ordering::Acquire) < 3 {
                            yield_now();
                        }
                        in_team(|| {
                            for_each(4, |_| {
                                sum.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    });
                }
            });
        });
        assert_eq!(sum.into_inner(), 200 * 3 * 4);
    }

    #[test]
    fn who_has_finished_waits_for_no_other_team() {
        let pool = pool(2);
        let long = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                pool.install(|| {
                    in_team(|| {
                        long.store(1, Ordering::Release);
                        while long.load(Ordering::Acquire) < 2 {
                            yield_now();
                        }
                    });
                });
            });
            while long.load(Ordering::Acquire) < 1 {
                yield_now();
            }
            // The other thread of the pool attends that team; this one must get to its end once it is free.
            scope.spawn(|| pool.install(|| in_team(|| counted(18))));
            long.store(2, Ordering::Release);
        });
    }

    #[test]
    fn several_teams_share_a_pool() {
        let pool = pool(3);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        pool.install(|| in_team(|| assert_eq!(counted(36)[0], 34)));
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        pool(2).install(|| {
            in_team(|| {
                for _ in 0..20 {
                    let all = catch_unwind(|| {
                        for_each(8, |index| assert_ne!(index, 6, "of a task"));
                    });
                    let message = *all
                        .expect_err("it panicked")
                        .downcast::<String>()
                        .expect("text");
                    assert!(message.contains("of a task"), "{message}");
                    assert_eq!(counted(18)[0], 17);
                }
            });
            // And one that leaves the team.
            let whole = catch_unwind(|| in_team(|| panic!("of the leader")));
            assert!(whole.is_err());
            assert_eq!(in_team(|| counted(18))[0], 17);
        });
    }
}
