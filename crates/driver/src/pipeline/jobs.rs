//! Independent trainings side by side: a small network keeps one core busy, not sixteen.

use anyhow::{Context, Result};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// How many jobs run at once, and on how many threads each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parallel {
    jobs: usize,
    /// Of all jobs together.
    threads: usize,
}

impl Parallel {
    /// `jobs` at once on the ambient threads, which they share evenly; for 0, `own` are.
    pub fn new(jobs: usize, own: usize) -> Self {
        let threads = rayon::current_num_threads();
        let jobs = if jobs == 0 { own } else { jobs };
        Self { jobs, threads }
    }

    /// Calls `work` with every task, in the order given, `jobs` at once, each worker with a state
    /// of its own that `start` makes. After the first error, or once `stop` is set, no further task is
    /// begun; the error is returned.
    pub fn run<T: Sync, S>(
        self,
        tasks: &[T],
        stop: &AtomicBool,
        start: impl Fn() -> Result<S> + Sync,
        work: impl Fn(&mut S, &T) -> Result<()> + Sync,
    ) -> Result<()> {
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let worker = || -> Result<()> {
            let mut state = start()?;
            while !stop.load(Ordering::Relaxed) && !failed.load(Ordering::Relaxed) {
                let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                work(&mut state, task)?;
            }
            Ok(())
        };
        // The last tasks are fewer than the jobs now and then; fewer from the start is common.
        let jobs = self.jobs.min(tasks.len()).max(1);
        let threads = (self.threads / jobs).max(1);
        let on_own_threads = || -> Result<()> {
            // Set by a panic, too: the others should not go on for hours before it is heard of.
            let _guard = SetOnUnwind(&failed);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().context("cannot start threads")?;
            let done = pool.install(worker);
            failed.fetch_or(done.is_err(), Ordering::Relaxed);
            done
        };
        std::thread::scope(|scope| {
            let jobs: Vec<_> = (0..jobs).map(|_| scope.spawn(on_own_threads)).collect();
            let mut first = Ok(());
            for job in jobs {
                let done = job.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                first = first.and(done);
            }
            first
        })
    }
}

/// Sets a flag when it is dropped by a panic.
struct SetOnUnwind<'a>(&'a AtomicBool);

impl Drop for SetOnUnwind<'_> {
    fn drop(&mut self) {
        self.0.fetch_or(std::thread::panicking(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn parallel(jobs: usize) -> Parallel {
        Parallel { jobs, threads: 1 }
    }

    #[test]
    fn every_task_is_done_once_on_threads_of_its_own() {
        let tasks: Vec<u32> = (0..50).collect();
        for (jobs, of) in [(1, 2), (3, 6), (25, 50), (80, 100)] {
            let done = Mutex::new(Vec::new());
            let work = |threads: &mut usize, task: &u32| {
                assert_eq!((*threads, rayon::current_num_threads()), (2, 2));
                done.lock().unwrap().push(*task);
                Ok(())
            };
            let start = || Ok(rayon::current_num_threads());
            Parallel { jobs, threads: of }
                .run(&tasks, &AtomicBool::new(false), start, work)
                .unwrap();
            let mut done = done.into_inner().unwrap();
            done.sort_unstable();
            assert_eq!(done, tasks);
        }
    }

    #[test]
    fn the_first_error_and_the_flag_end_it() {
        let tasks: Vec<u32> = (0..1000).collect();
        let (count, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let failing = |(): &mut (), task: &u32| {
            count.fetch_add(1, Ordering::Relaxed);
            anyhow::ensure!(*task != 5, "task 5 is wrong");
            Ok(())
        };
        let error = parallel(1).run(&tasks, &stop, || Ok(()), failing).unwrap_err();
        assert_eq!(
            (error.to_string().as_str(), count.load(Ordering::Relaxed)),
            ("task 5 is wrong", 6)
        );

        let stopping = |(): &mut (), task: &u32| {
            stop.fetch_or(*task == 7, Ordering::Relaxed);
            assert!(*task <= 7);
            Ok(())
        };
        parallel(1).run(&tasks, &stop, || Ok(()), stopping).unwrap();
        let never = |(): &mut (), _: &u32| anyhow::bail!("a task was begun after the flag");
        parallel(2).run(&tasks, &stop, || Ok(()), never).unwrap();
    }

    #[test]
    fn threads_are_shared_evenly() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(6).build().unwrap();
        pool.install(|| {
            assert_eq!(Parallel::new(0, 6), Parallel { jobs: 6, threads: 6 });
            assert_eq!(Parallel::new(2, 6), Parallel { jobs: 2, threads: 6 });
            // Two tasks are all there is: each has half of the threads, not a sixth.
            let half = |(): &mut (), _: &u32| {
                anyhow::ensure!(rayon::current_num_threads() == 3);
                Ok(())
            };
            Parallel::new(0, 6).run(&[1, 2], &AtomicBool::new(false), || Ok(()), half).unwrap();
        });
    }
}
