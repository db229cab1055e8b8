//! Threads, chunks and panics.

use slimtau_parallel::{
    Stretches, chunks, chunks_mut, for_each, for_each_chunk, hold, run, sum_over_chunks,
};
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

fn on<R: Send>(threads: usize, body: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool").install(body)
}

/// Every task once, on any number of threads, held or not.
fn each_once(threads: usize, tasks: usize) {
    let runs: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
    for_each(tasks, |i| {
        runs[i].fetch_add(1, Ordering::Relaxed);
    });
    let runs: Vec<_> = runs.iter().map(|n| n.load(Ordering::Relaxed)).collect();
    assert!(runs.iter().all(|&n| n == 1), "{threads} threads: {runs:?}");
}

#[test]
fn every_task_runs_once() {
    for threads in [1, 2, 3, 5, 20] {
        on(threads, || {
            for tasks in [0, 1, 2, 7, 100] {
                each_once(threads, tasks);
            }
            hold(|| (0..300).for_each(|tasks| each_once(threads, tasks)));
            hold(|| hold(|| each_once(threads, 9)));
        });
    }
    // Without a pool of one's own.
    each_once(0, 50);
    hold(|| each_once(0, 50));
}

#[test]
fn stretches_hand_out_every_task_of_every_list_once() {
    for (threads, lists, len) in
        [(1, 1, 0), (1, 1, 5), (2, 1, 7), (3, 2, 4), (2, 3, 5), (8, 3, 2), (40, 16, 3), (1, 4, 6)]
    {
        let stretches = Stretches::new(threads, lists, len);
        let mut walks: Vec<_> = (0..threads).map(|thread| stretches.walk(thread)).collect();
        let mut seen = Vec::new();
        // Threads in turn, one of them far ahead of the others.
        for turn in 0.. {
            let before = seen.len();
            seen.extend(walks[0].next());
            if turn % 2 == 0 {
                walks.iter_mut().for_each(|walk| seen.extend(walk.next()));
            }
            if seen.len() == before && turn % 2 == 0 {
                break;
            }
        }
        seen.sort_unstable();
        let all: Vec<_> = (0..lists).flat_map(|list| (0..len).map(move |i| (list, i))).collect();
        assert_eq!(seen, all, "{threads} threads, {lists} lists of {len}");
        assert!((1..=threads).contains(&stretches.threads()));
    }
}

#[test]
fn a_thread_starts_with_a_stretch_of_its_own() {
    let stretches = Stretches::new(2, 1, 10);
    assert_eq!(stretches.walk(1).take(3).collect::<Vec<_>>(), [(0, 5), (0, 6), (0, 7)]);
    assert_eq!(stretches.walk(0).take(2).collect::<Vec<_>>(), [(0, 0), (0, 1)]);
    // With as many lists as threads, each has its own list.
    let lists = Stretches::new(2, 2, 3);
    assert_eq!(lists.walk(1).next(), Some((1, 0)));
}

/// Runs jobs until two threads have been seen in one, and gives up after a while.
fn two_threads_meet() -> bool {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(20) {
        let seen: Mutex<HashSet<ThreadId>> = Mutex::default();
        run(2, |_| {
            let enough = || seen.lock().unwrap().len() == 2;
            seen.lock().unwrap().insert(std::thread::current().id());
            let begin = Instant::now();
            while !enough() && begin.elapsed() < Duration::from_millis(50) {
                std::thread::yield_now();
            }
        });
        if seen.into_inner().unwrap().len() == 2 {
            return true;
        }
    }
    false
}

#[test]
fn other_threads_do_help() {
    on(2, || {
        assert!(two_threads_meet());
        assert!(hold(two_threads_meet));
    });
}

#[test]
fn a_pool_whose_threads_are_busy_does_not_stop_a_job() {
    on(2, || {
        let (release, started) = (AtomicUsize::new(0), AtomicUsize::new(0));
        rayon::scope(|scope| {
            scope.spawn(|_| {
                started.store(1, Ordering::Release);
                while release.load(Ordering::Acquire) == 0 {
                    std::thread::yield_now();
                }
            });
            while started.load(Ordering::Acquire) == 0 {
                std::thread::yield_now();
            }
            hold(|| each_once(2, 20));
            each_once(2, 20);
            release.store(1, Ordering::Release);
        });
    });
}

#[test]
fn jobs_within_jobs_are_done() {
    for held in [false, true] {
        let jobs = || for_each(10, |_| each_once(3, 40));
        on(3, || if held { hold(jobs) } else { jobs() });
    }
}

#[test]
fn a_thread_that_waits_for_rayon_is_not_caught_in_its_own_team() {
    let other = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool");
    for threads in [2, 3] {
        on(threads, || {
            for _ in 0..2 {
                hold(|| {
                    other.install(|| std::thread::sleep(Duration::from_millis(1)));
                    rayon::join(|| each_once(threads, 9), || each_once(threads, 7));
                    each_once(threads, 30);
                });
            }
        });
    }
}

#[test]
fn the_panic_of_one_job_does_not_end_the_next() {
    on(3, || {
        hold(|| {
            for _ in 0..50 {
                let all_fail = AssertUnwindSafe(|| for_each(100, |i| panic!("task {i} fails")));
                assert!(catch_unwind(all_fail).is_err());
                each_once(3, 50);
            }
        });
    });
}

#[test]
fn a_panic_on_any_thread_reaches_the_caller_and_the_pool_goes_on() {
    on(3, || {
        for held in [false, true] {
            for wrong in [0, 49, 99] {
                let job = || {
                    for_each(100, |i| assert!(i != wrong, "task {i} fails"));
                };
                let job = AssertUnwindSafe(|| if held { hold(job) } else { job() });
                let panic = catch_unwind(job).expect_err("it fails");
                let message = panic.downcast_ref::<String>().expect("a message");
                assert_eq!(message, &format!("task {wrong} fails"));
                each_once(3, 30);
            }
        }
    });
}

#[test]
fn sums_have_the_same_bits_on_any_number_of_threads() {
    let x: Vec<f32> = (0..1000).map(|i| 1.0 / (1.0 + i as f32)).collect();
    let sum = |threads| {
        on(threads, || {
            sum_over_chunks(chunks(&x, 4), |i, x| i as f64 * f64::from(x.iter().sum::<f32>()))
        })
    };
    let expected =
        x.chunks(4).enumerate().map(|(i, x)| i as f64 * f64::from(x.iter().sum::<f32>()));
    let expected: f64 = expected.sum();
    for threads in [1, 2, 5] {
        assert_eq!(sum(threads).to_bits(), expected.to_bits(), "{threads} threads");
    }
}

#[test]
#[should_panic(expected = "1000 sums, of at most 256")]
fn more_sums_than_there_is_room_for_are_refused() {
    sum_over_chunks(chunks(&[0.0; 1000], 1), |_, x| x[0]);
}

#[test]
fn chunks_side_by_side_end_with_the_shortest() {
    let x: Vec<u32> = (0..10).collect();
    let (mut sums, mut seen) = ([0; 3], vec![0; 10]);
    on(2, || {
        let parts = (chunks_mut(&mut sums, 1), chunks(&x, 4), chunks_mut(&mut seen, 4));
        for_each_chunk(parts, |i, (sum, x, seen)| {
            sum[0] = x.iter().sum::<u32>() + 100 * i as u32;
            seen.fill(1 + i);
        });
        for_each_chunk((chunks_mut(&mut [0; 5], 5), chunks(&x, 1)), |i, _| assert_eq!(i, 0));
        for_each_chunk(chunks(&x[..0], 3), |_, _| unreachable!("no chunks"));
    });
    assert_eq!(sums, [6, 122, 217]);
    assert_eq!(seen, [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]);
}
