//! One thread with work and others that wait for it awake.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Rounds of waiting, some 40 to 140 cycles each, before a thread offers its core to others: longer
/// than threads that share out a kernel evenly wait for each other.
const SPINS: u32 = 2_000;

/// Most threads of a team.
const MOST_THREADS: usize = 1 << 10;

thread_local! {
    /// The team that this thread leads.
    static TEAM: Cell<Option<*const Team>> = const { Cell::new(None) };
}

/// What a team is doing, in one word: the number of the job, whether helpers may still join it, how
/// many have, and how many of these are at it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State(u64);

impl State {
    const INSIDE: u64 = 1;
    const JOINED: u64 = 1 << 16;
    const OPEN: u64 = 1 << 31;
    const JOB: u64 = 1 << 32;
    /// No job will follow.
    const OVER: State = State(u64::MAX);

    fn inside(self) -> u64 {
        self.0 % Self::JOINED
    }

    fn joined(self) -> usize {
        (self.0 % Self::OPEN / Self::JOINED) as usize
    }

    fn is_open(self) -> bool {
        self.0 & Self::OPEN != 0
    }

    fn job(self) -> u64 {
        self.0 / Self::JOB
    }
}

/// What a job's threads call: `call(data, thread)`.
#[derive(Clone, Copy)]
struct Work {
    call: unsafe fn(*const (), usize),
    data: *const (),
    /// Helpers that it has room for.
    helpers: usize,
}

/// On lines of its own: all of its threads look at it all the time.
#[repr(align(128))]
struct Team {
    state: AtomicU64,
    /// Written by the leader while no helper can read it.
    work: UnsafeCell<Work>,
    /// The first panic of a helper in this job.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: the leader writes `work` before it opens a job and after all that joined the last one have
// left it; helpers read it between joining and leaving; `state` orders these. What `data` points to is
// `Sync`.
unsafe impl Sync for Team {}

/// Waits a moment. Another thread may need the core if it has been many.
fn pause(rounds: &mut u32) {
    if *rounds < SPINS {
        *rounds += 1;
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

impl Team {
    fn new() -> Self {
        unsafe fn nothing(_: *const (), _: usize) {}
        let work = Work { call: nothing, data: std::ptr::null(), helpers: 0 };
        Self { state: AtomicU64::new(0), work: UnsafeCell::new(work), panic: Mutex::new(None) }
    }

    /// Joins the team's jobs, one after the other, until it is over.
    fn help(&self) {
        let (mut last, mut rounds) = (0, 0);
        loop {
            let state = State(self.state.load(Ordering::Acquire));
            if state == State::OVER {
                return;
            }
            if state.job() == last || !state.is_open() {
                pause(&mut rounds);
                continue;
            }
            let joined = state.0 + State::JOINED + State::INSIDE;
            let join = self.state.compare_exchange_weak(
                state.0,
                joined,
                Ordering::Acquire,
                Ordering::Relaxed,
            );
            if join.is_err() {
                continue;
            }
            (last, rounds) = (state.job(), 0);
            // SAFETY: the job was open and counts this thread now, so `work` is its work and stays so
            // until this thread leaves.
            let work = unsafe { *self.work.get() };
            if state.joined() < work.helpers {
                let thread = state.joined() + 1;
                // SAFETY: `data` is what `call` takes, and lives until this thread leaves.
                let run = AssertUnwindSafe(|| unsafe { (work.call)(work.data, thread) });
                if let Err(panic) = catch_unwind(run) {
                    self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
                }
            }
            self.state.fetch_sub(State::INSIDE, Ordering::Release);
        }
    }

    /// Runs `body(0)` here and `body(1)` to `body(threads - 1)` on helpers as they come.
    fn run<F: Fn(usize) + Sync>(&self, threads: usize, body: &F) {
        unsafe fn call<F: Fn(usize)>(data: *const (), thread: usize) {
            // SAFETY: `run` passes its body's address, and does not return while it is in use.
            unsafe { (*data.cast::<F>())(thread) }
        }
        /// Waits for those who joined, on unwinding too: they use what lies on the leader's stack.
        struct Join<'a>(&'a Team);
        impl Drop for Join<'_> {
            fn drop(&mut self) {
                self.0.state.fetch_and(!State::OPEN, Ordering::Relaxed);
                let mut rounds = 0;
                while State(self.0.state.load(Ordering::Acquire)).inside() > 0 {
                    pause(&mut rounds);
                }
            }
        }
        let data: *const F = body;
        let work = Work { call: call::<F>, data: data.cast(), helpers: threads - 1 };
        // SAFETY: no job is open, and nobody is inside the last one.
        unsafe { *self.work.get() = work };
        let last = State(self.state.load(Ordering::Relaxed)).job();
        self.state.store(((last + 1) * State::JOB) | State::OPEN, Ordering::Release);
        let join = Join(self);
        body(0);
        drop(join);
        if let Some(panic) = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take() {
            resume_unwind(panic);
        }
    }
}

/// Runs `body` with the other threads of the ambient rayon pool at hand: what it calls of this crate on
/// this thread finds them awake. They spin meanwhile, so `body` should be made of kernels, as a
/// training step or a forward pass is, and they do nothing else: rayon's own parallel iterators in `body` run on this
/// thread alone. Within another `hold` it only calls `body`.
///
/// It changes nothing but speed: whatever of this crate is called outside of it holds the threads for
/// itself. Threads of the pool that are busy help when that is over, or not at all. Allocates nothing
/// on a thread of the pool.
pub fn hold<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    /// Lets the helpers go, on unwinding too.
    struct Over<'a>(&'a Team);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            TEAM.set(None);
            self.0.state.store(State::OVER.0, Ordering::Release);
        }
    }
    /// `count` helpers, who come as the pool's threads take up their halves of the joins.
    fn help(team: &Team, count: usize) {
        if count > 1 {
            rayon::join(|| team.help(), || help(team, count - 1));
        } else {
            team.help();
        }
    }
    let threads = rayon::current_num_threads().min(MOST_THREADS);
    if threads == 1 || TEAM.get().is_some() {
        return body();
    }
    let team = Team::new();
    let lead = || {
        TEAM.set(Some(&raw const team));
        let _over = Over(&team);
        body()
    };
    rayon::join(lead, || help(&team, threads - 1)).0
}

/// Runs `body(0)` on this thread and `body(1)` to `body(threads - 1)` on others of the ambient pool as
/// they come free. One that comes late finds the work done, or does not come: `body` must do all of it
/// even if it runs alone. Allocates nothing on a thread of the pool.
///
/// # Panics
/// When `body` does, on whichever thread.
pub fn run(threads: usize, body: impl Fn(usize) + Sync) {
    let threads = threads.min(rayon::current_num_threads()).min(MOST_THREADS);
    if threads <= 1 {
        return body(0);
    }
    /// Gives the team back to its thread. In a job it is away: a job within the job has none.
    struct Back(*const Team);
    impl Drop for Back {
        fn drop(&mut self) {
            TEAM.set(Some(self.0));
        }
    }
    let lead = || match TEAM.take() {
        Some(team) => {
            let _back = Back(team);
            // SAFETY: `hold` puts it there and takes it away before the team goes; it is this thread's
            // own, and not in a job.
            unsafe { (*team).run(threads, &body) }
        }
        None => body(0),
    };
    if TEAM.get().is_some() { lead() } else { hold(lead) }
}
