//! The search itself: which architectures to look at, given what is known of those before.

use crate::{Point, mix, pareto_order};
use rand::RngExt;
use slimtau_base::{Stream, stream};
use slimtau_space::{Arch, SearchSpace};
use std::collections::BTreeSet;

/// Draws per wanted architecture before a generation is taken as it is: where few architectures are left within
/// the limits, it is smaller, and the last one is empty.
const TRIES: usize = 300;

/// How to search.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Seed of all draws.
    pub seed: u64,
    /// New architectures per generation, and parents of the next.
    pub population: usize,
    /// Generations after the first, random one.
    pub generations: usize,
    /// The probability that a child's choice is drawn anew, 0 to 1.
    pub mutation: f64,
}

/// An architecture that was evaluated.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate<Cost> {
    /// Which one.
    pub arch: Arch,
    /// What the problem said when it admitted it.
    pub cost: Cost,
    /// Top-1, percent.
    pub accuracy: f64,
    /// 0 for the largest, the smallest and random draws; then counts up.
    pub generation: usize,
}

/// What a search asks about architectures.
pub trait Problem {
    /// Whatever is known of an architecture without its accuracy.
    type Cost: Copy;
    /// Why a search may fail.
    type Error;

    /// The cost of an architecture within the limits; `None` for one beyond them.
    ///
    /// # Errors
    /// The problem's own, which end the search.
    fn admit(&mut self, arch: &Arch) -> Result<Option<Self::Cost>, Self::Error>;

    /// The number that is to be small.
    fn objective(&self, cost: &Self::Cost) -> f64;

    /// Top-1 accuracies of a generation in percent, in its order.
    ///
    /// # Errors
    /// The problem's own, which end the search.
    fn accuracies(&mut self, generation: usize, archs: &[Arch]) -> Result<Vec<f64>, Self::Error>;
}

/// Everything that a search looked at, in order: a random generation, then children of the best of all before them
/// ([`pareto_order`]). No network comes twice, and all are in their canonical form. A function of space, settings and the problem's answers: asked again, it
/// goes the same way, so that a problem which remembers its answers makes a search resume.
///
/// # Errors
/// The problem's own.
///
/// # Panics
/// When `settings.mutation` is not a probability, or the problem gives more or fewer accuracies than it was asked for.
pub fn evolve<P: Problem>(
    space: &SearchSpace,
    settings: &Settings,
    problem: &mut P,
) -> Result<Vec<Candidate<P::Cost>>, P::Error> {
    let mut seen = BTreeSet::new();
    let mut all: Vec<Candidate<P::Cost>> = Vec::new();
    for generation in 0..=settings.generations {
        let mut rng = stream(settings.seed, "search", generation as u64);
        let mut parents = pareto_order(&points(problem, &all));
        parents.truncate(settings.population);
        let mut fresh = Vec::new();
        for attempt in 0..TRIES * settings.population {
            if fresh.len() == settings.population {
                break;
            }
            let arch = if generation == 0 {
                random(space, attempt, &mut rng)
            } else {
                child(space, &all, &parents, settings.mutation, &mut rng)
            };
            // Codes of one network are one architecture.
            let arch = space.canonical(&arch);
            if seen.insert(arch.clone())
                && let Some(cost) = problem.admit(&arch)?
            {
                fresh.push((arch, cost));
            }
        }
        if fresh.is_empty() {
            break;
        }
        let (archs, costs): (Vec<Arch>, Vec<P::Cost>) = fresh.into_iter().unzip();
        let accuracies = problem.accuracies(generation, &archs)?;
        assert_eq!(accuracies.len(), archs.len(), "accuracies of a generation");
        for ((arch, cost), accuracy) in archs.into_iter().zip(costs).zip(accuracies) {
            all.push(Candidate { arch, cost, accuracy, generation });
        }
    }
    Ok(all)
}

/// Costs and accuracies of candidates.
pub fn points<P: Problem>(problem: &P, candidates: &[Candidate<P::Cost>]) -> Vec<Point> {
    let point =
        |c: &Candidate<P::Cost>| Point { cost: problem.objective(&c.cost), accuracy: c.accuracy };
    candidates.iter().map(point).collect()
}

/// The largest, the smallest, then draws around levels of depth and width that are uniform: with many choices, uniform
/// draws are all of middling size.
fn random(space: &SearchSpace, attempt: usize, rng: &mut Stream) -> Arch {
    match attempt {
        0 => space.largest(),
        1 => space.smallest(),
        _ => {
            let (depth, width) = (rng.random(), rng.random());
            space.sample_near(rng, depth, width)
        }
    }
}

/// Half of the children have one parent, half two; then some choices are drawn anew. A parent is the better of two.
fn child<Cost>(
    space: &SearchSpace,
    all: &[Candidate<Cost>],
    parents: &[usize],
    mutation: f64,
    rng: &mut Stream,
) -> Arch {
    let parent = |rng: &mut Stream| {
        let place = rng.random_range(0..parents.len()).min(rng.random_range(0..parents.len()));
        &all[parents[place]].arch
    };
    let one = parent(rng);
    let two = if rng.random_bool(0.5) { parent(rng) } else { one };
    let mixed = mix(space, rng, one, two, 0.5);
    let drawn = space.sample_uniform(rng, true);
    mix(space, rng, &mixed, &drawn, mutation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pareto_ranks;
    use slimtau_space::CostModel;

    /// Accuracy is a known function: narrow middles cost little here, and depth pays only in the last stage.
    struct Known {
        costs: CostModel,
        limit: u64,
        asked: usize,
    }

    impl Problem for Known {
        type Cost = u64;
        type Error = std::convert::Infallible;

        fn admit(&mut self, arch: &Arch) -> Result<Option<u64>, Self::Error> {
            let macs = self.costs.costs(arch).macs;
            Ok((macs <= self.limit).then_some(macs))
        }

        fn objective(&self, cost: &u64) -> f64 {
            *cost as f64
        }

        fn accuracies(&mut self, _: usize, archs: &[Arch]) -> Result<Vec<f64>, Self::Error> {
            self.asked += archs.len();
            Ok(archs.iter().map(accuracy).collect())
        }
    }

    fn accuracy(arch: &Arch) -> f64 {
        let last = arch.stages.last().unwrap();
        let mids: u32 = last.iter().map(|b| 8 - u32::from(b.mid)).sum();
        50.0 + f64::from(mids) - f64::from(arch.stem) - 2.0 * arch.stages[0].len() as f64
    }

    fn search(population: usize, generations: usize, limit: u64) -> (Known, Vec<Candidate<u64>>) {
        let space = SearchSpace::preset("mini").unwrap();
        let settings = Settings { seed: 3, population, generations, mutation: 0.1 };
        let mut problem = Known { costs: CostModel::new(&space), limit, asked: 0 };
        let found = evolve(&space, &settings, &mut problem).unwrap();
        assert_eq!(problem.asked, found.len());
        (problem, found)
    }

    /// The best accuracy within a limit.
    fn best(found: &[Candidate<u64>]) -> f64 {
        found.iter().map(|c| c.accuracy).fold(f64::NEG_INFINITY, f64::max)
    }

    #[test]
    fn it_finds_better_ones_than_as_many_random_draws() {
        // A third of the largest network's.
        let limit = 100_000_000;
        let (problem, evolved) = search(40, 10, limit);
        assert_eq!(evolved.len(), 11 * 40);
        assert!(evolved.iter().all(|c| c.cost <= limit && c.accuracy == accuracy(&c.arch)));
        let distinct: BTreeSet<&Arch> = evolved.iter().map(|c| &c.arch).collect();
        assert_eq!(distinct.len(), evolved.len());
        let (_, random) = search(440, 0, limit);
        assert_eq!(random.len(), evolved.len());
        assert!(best(&evolved) > best(&random), "{} {}", best(&evolved), best(&random));
        // Without a limit the best of all is known: the last stage as deep and wide as can be, the first as shallow, the
        // stem wide.
        let (_, free) = search(40, 10, u64::MAX);
        assert!(best(&free) >= 50.0 + 35.0 - 1.0 - 4.0 - 3.0, "{}", best(&free));
        // And few architectures of the front are random ones.
        let ranks = pareto_ranks(&points(&problem, &evolved));
        let front = evolved.iter().zip(&ranks).filter(|(_, rank)| **rank == 0);
        let random = front.clone().filter(|(c, _)| c.generation == 0).count();
        assert!(10 * random < front.count(), "{random}");
    }

    #[test]
    fn it_is_a_function_of_its_seed_and_goes_on_as_it_began() {
        let (_, short) = search(40, 2, u64::MAX);
        let (_, long) = search(40, 4, u64::MAX);
        assert_eq!(short[..], long[..short.len()]);
        assert_eq!(long.len(), 5 * 40);
    }

    #[test]
    fn it_ends_where_nothing_is_within_the_limits() {
        assert!(search(40, 3, 1000).1.is_empty());
        let space = SearchSpace::preset("mini").unwrap();
        let smallest = CostModel::new(&space).costs(&space.smallest()).macs;
        let (_, found) = search(40, 3, smallest);
        assert_eq!(found.len(), 1);
    }
}
