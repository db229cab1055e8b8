//! What is best at its cost: Pareto fronts of cost and accuracy, and the order in which an evolutionary search keeps
//! architectures (NSGA-II: Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm", 2002).

/// What something costs, and how good it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// In any unit; finite.
    pub cost: f64,
    /// In any unit; finite.
    pub accuracy: f64,
}

/// The Pareto rank of every point. One dominates another when it costs no more and is no less accurate, and better in
/// one of the two. Rank 0 is the front, which nothing dominates; rank k is the front of what is left without the ranks
/// below it. Equal points share a rank. O(n log n).
pub fn pareto_ranks(points: &[Point]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|&a, &b| by_cost(&points[a], &points[b]));
    let mut ranks = vec![0; points.len()];
    // The best accuracy of every rank so far. Costs only rise from here on, so a rank dominates the next point unless its
    // best is less accurate; these bests fall from rank to rank.
    let mut bests: Vec<f64> = Vec::new();
    let mut before: Option<usize> = None;
    for place in order {
        let Point { accuracy, .. } = points[place];
        ranks[place] = match before.filter(|twin| points[*twin] == points[place]) {
            Some(twin) => ranks[twin],
            None => bests.partition_point(|best| *best >= accuracy),
        };
        match bests.get_mut(ranks[place]) {
            Some(best) => *best = accuracy,
            None => bests.push(accuracy),
        }
        before = Some(place);
    }
    ranks
}

/// The places of all points, first those that an evolutionary search should keep: by Pareto rank, and within a rank by their
/// crowding distance, the largest first. That distance is the size of the gap which a point's removal would leave in
/// its rank (in cost and accuracy, each over the rank's range); at the ends of a rank it is infinite. So a cut
/// anywhere leaves every cost represented. Ties keep the order of the list.
pub fn pareto_order(points: &[Point]) -> Vec<usize> {
    let ranks = pareto_ranks(points);
    let mut order: Vec<usize> = (0..ranks.len()).collect();
    order.sort_by(|&a, &b| ranks[a].cmp(&ranks[b]).then(by_cost(&points[a], &points[b])));
    let mut distances = vec![0.0; ranks.len()];
    for members in order.chunk_by(|a, b| ranks[*a] == ranks[*b]) {
        crowding(members, points, &mut distances);
    }
    order.sort_by(|&a, &b| {
        ranks[a].cmp(&ranks[b]).then(distances[b].total_cmp(&distances[a])).then(a.cmp(&b))
    });
    order
}

/// The cheapest first; of equal cost, the most accurate.
fn by_cost(a: &Point, b: &Point) -> std::cmp::Ordering {
    a.cost.total_cmp(&b.cost).then(b.accuracy.total_cmp(&a.accuracy))
}

/// Crowding distances of a rank's members, which stand in the order of cost, hence of accuracy, too.
fn crowding(members: &[usize], points: &[Point], distances: &mut [f64]) {
    let (first, last) = (members[0], members[members.len() - 1]);
    let gap = |a: usize, b: usize, value: fn(&Point) -> f64| {
        let range = value(&points[last]) - value(&points[first]);
        if range > 0.0 { (value(&points[b]) - value(&points[a])) / range } else { 0.0 }
    };
    for window in members.windows(3) {
        let (before, after) = (window[0], window[2]);
        distances[window[1]] = gap(before, after, |p| p.cost) + gap(before, after, |p| p.accuracy);
    }
    distances[first] = f64::INFINITY;
    distances[last] = f64::INFINITY;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Ranks by the definition.
    fn peeled(points: &[Point]) -> Vec<usize> {
        let mut ranks = vec![usize::MAX; points.len()];
        for rank in 0.. {
            let left: Vec<usize> = (0..points.len()).filter(|i| ranks[*i] == usize::MAX).collect();
            let dominates = |a: usize, b: usize| {
                let (a, b) = (points[a], points[b]);
                a.cost <= b.cost && a.accuracy >= b.accuracy && a != b
            };
            let front: Vec<usize> =
                left.iter().copied().filter(|&b| !left.iter().any(|&a| dominates(a, b))).collect();
            if front.is_empty() {
                return ranks;
            }
            front.into_iter().for_each(|i| ranks[i] = rank);
        }
        unreachable!("every round ranks something")
    }

    proptest! {
        #[test]
        fn ranks_are_those_of_the_definition(
            points in prop::collection::vec((0u8..12, 0u8..12), 0..60)
        ) {
            let point = |&(c, a): &(u8, u8)| Point { cost: c.into(), accuracy: a.into() };
            let points: Vec<Point> = points.iter().map(point).collect();
            let ranks = pareto_ranks(&points);
            prop_assert_eq!(&ranks, &peeled(&points));
            let order = pareto_order(&points);
            prop_assert!(order.iter().map(|i| ranks[*i]).is_sorted());
            let mut all = order.clone();
            all.sort_unstable();
            prop_assert_eq!(all, (0..points.len()).collect::<Vec<_>>());
            // The ends of the front are kept first.
            if let Some(best) = points.iter().map(|p| p.accuracy).reduce(f64::max) {
                let kept = &order[..order.len().min(2)];
                prop_assert!(kept.iter().any(|i| points[*i].accuracy == best));
            }
        }
    }

    #[test]
    fn a_cut_keeps_what_stands_alone() {
        // One front: dense at the left, one at 10; then something dominated.
        let points = [
            (1.0, 10.0),
            (1.1, 10.1),
            (1.2, 10.2),
            (1.3, 10.3),
            (10.0, 50.0),
            (20.0, 60.0),
            (20.0, 9.0),
        ]
        .map(|(cost, accuracy)| Point { cost, accuracy });
        let order = pareto_order(&points);
        assert_eq!(&order[..4], [0, 5, 4, 3]);
        assert_eq!(order[6], 6);
    }
}
