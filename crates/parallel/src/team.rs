//! One thread with work and others that wait for it awake.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Rounds of waiting, some 40 to 140 cycles each, before a thread offers its core to others: longer
/// than threads that share out a kernel evenly wait for each other.
const SPINS: u32 = 2_000;

/// Most threads of a team.
const MOST_THREADS: usize = 1 << 10;

/// How long a helper waits for a job before it goes. In a team that is used as it should be there is
/// one every millisecond.
const PATIENCE: Duration = Duration::from_secs(1);

thread_local! {
    /// The team that this thread leads, while it is not in one of its jobs.
    static TEAM: Cell<Option<*const Team>> = const { Cell::new(None) };
    /// Whether this thread is leading or helping a team, further down its stack.
    static ENGAGED: Cell<bool> = const { Cell::new(false) };
}

/// Marks this thread as engaged until it is dropped.
struct Engagement;

impl Engagement {
    /// None if the thread is already.
    fn begin() -> Option<Self> {
        (!ENGAGED.replace(true)).then_some(Self)
    }
}

impl Drop for Engagement {
    fn drop(&mut self) {
        TEAM.set(None);
        ENGAGED.set(false);
    }
}

/// What a team is doing, in one word: the number of the job, whether helpers may still join it, and how many
/// are at it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State(u64);

impl State {
    const INSIDE: u64 = 1;
    const OPEN: u64 = 1 << 31;
    const JOB: u64 = 1 << 32;
    /// No job will follow.
    const OVER: State = State(u64::MAX);

    fn inside(self) -> u64 {
        self.0 % Self::OPEN
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
    /// Threads that it has room for.
    threads: usize,
}

/// On lines of its own: all of its threads look at it all the time.
#[repr(align(128))]
struct Team {
    state: AtomicU64,
    /// Written by the leader while no helper can read it.
    work: UnsafeCell<Work>,
    /// A panic of a helper in this job.
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
        let work = Work { call: nothing, data: std::ptr::null(), threads: 0 };
        Self { state: AtomicU64::new(0), work: UnsafeCell::new(work), panic: Mutex::new(None) }
    }

    /// Joins the team's jobs, one after the other, until it is over. As `thread` in all of them, so that
    /// it finds in its cache what it left there.
    fn help(&self, thread: usize) {
        // A thread that waits for a part of some rayon job takes up whatever else there is to do. This must
        // not keep it from what lies further down its stack: of this team, it may be the leader.
        let Some(_engagement) = Engagement::begin() else { return };
        let (mut last, mut rounds, mut idle_since) = (0, 0, None);
        loop {
            let state = State(self.state.load(Ordering::Acquire));
            if state == State::OVER {
                return;
            }
            if state.job() == last || !state.is_open() {
                pause(&mut rounds);
                if rounds == SPINS
                    && idle_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE
                {
                    return;
                }
                continue;
            }
            let joined = state.0 + State::INSIDE;
            let join = self.state.compare_exchange_weak(
                state.0,
                joined,
                Ordering::Acquire,
                Ordering::Relaxed,
            );
            if join.is_err() {
                continue;
            }
            (last, rounds, idle_since) = (state.job(), 0, None);
            // SAFETY: the job was open and counts this thread now, so `work` is its work and stays so
            // until this thread leaves.
            let work = unsafe { *self.work.get() };
            if thread < work.threads {
                // SAFETY: `data` is what `call` takes, and lives until this thread leaves.
                let run = AssertUnwindSafe(|| unsafe { (work.call)(work.data, thread) });
                if let Err(panic) = catch_unwind(run) {
                    let mut place = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
                    // What the last one holds might panic in turn when it is dropped.
                    std::mem::forget(place.replace(panic));
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
                if std::thread::panicking() {
                    // One panic is enough, and the next job is not to begin with this one's.
                    std::mem::forget(self.0.take_panic());
                }
            }
        }
        let data: *const F = body;
        let work = Work { call: call::<F>, data: data.cast(), threads };
        // SAFETY: no job is open, and nobody is inside the last one.
        unsafe { *self.work.get() = work };
        let last = State(self.state.load(Ordering::Relaxed)).job();
        self.state.store(((last + 1) * State::JOB) | State::OPEN, Ordering::Release);
        let join = Join(self);
        body(0);
        drop(join);
        if let Some(panic) = self.take_panic() {
            resume_unwind(panic);
        }
    }

    fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Runs `body` with the other threads of the ambient rayon pool at hand: what it calls of this crate
/// finds them awake. They spin meanwhile, and yield after a tenth of a millisecond, but do not sleep before `body`
/// returns; so it should be made of kernels, as a training step or a forward pass is, without input and
/// output. They do nothing else: rayon's own parallel iterators in `body` find no other threads, or wait up to a
/// second for them; use this crate's there.
///
/// It changes nothing but speed: whatever of this crate is called outside of it holds the threads for
/// itself. Threads of the pool that are busy help when that is over, or not at all. Within another
/// `hold` or one of its jobs it only calls `body`. Called on a thread of the pool, `body` runs on that
/// thread, and nothing is allocated; otherwise it runs on one of the pool.
pub fn hold<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    /// Lets the helpers go, on unwinding too.
    struct Over<'a>(&'a Team);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.state.store(State::OVER.0, Ordering::Release);
        }
    }
    /// Helpers `thread` to `threads - 1`, who come as the pool's threads take up their halves of the
    /// joins; the first to come has the lowest number, since small jobs have room for few.
    fn help(team: &Team, thread: usize, threads: usize) {
        if thread + 1 < threads {
            rayon::join(|| team.help(thread), || help(team, thread + 1, threads));
        } else {
            team.help(thread);
        }
    }
    let threads = rayon::current_num_threads().min(MOST_THREADS);
    if threads == 1 || ENGAGED.get() {
        return body();
    }
    let team = Team::new();
    let lead = || {
        let _over = Over(&team);
        // It may run on another thread than it was called on, which may be engaged.
        let Some(_engagement) = Engagement::begin() else { return body() };
        TEAM.set(Some(&raw const team));
        body()
    };
    rayon::join(lead, || help(&team, 1, threads)).0
}

/// Runs `body(0)` here and `body(1)` to `body(threads - 1)`, each at most once, on other threads of the ambient
/// pool as they come free. One that comes late finds the work done, or does not come: `body` must do all
/// of it even if it runs alone. As for [`hold`], which thread is "here".
///
/// # Panics
/// When `body` does, on whichever thread.
pub fn run(threads: usize, body: impl Fn(usize) + Sync) {
    let threads = threads.min(rayon::current_num_threads()).min(MOST_THREADS);
    if threads <= 1 {
        return body(0);
    }
    /// Gives the team back to its thread. In a job it is away: a job within the job is its thread's alone.
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
    if ENGAGED.get() { lead() } else { hold(lead) }
}
