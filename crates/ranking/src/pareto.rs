//! What is best at its cost: Pareto fronts of cost and accuracy, and the order in which an evolutionary search keeps
//! architectures (NSGA-II: Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm", 2002).

use crate::correlation::{StatisticsError, check_list};

/// The Pareto rank of every architecture. One dominates another when it costs no more and is no less accurate, and better in
/// one of the two. Rank 0 is the front, which nothing dominates; rank k is the front of what is left without the ranks
/// below it. Equal pairs share a rank. O(n log n).
///
/// # Errors
/// When the lists differ in length or are not finite.
pub fn pareto_ranks(costs: &[f64], accuracies: &[f64]) -> Result<Vec<usize>, StatisticsError> {
    check_list("the costs", costs, accuracies.len())?;
    check_list("the accuracies", accuracies, costs.len())?;
    let mut order: Vec<usize> = (0..costs.len()).collect();
    let by_cost = |&a: &usize, &b: &usize| {
        costs[a].total_cmp(&costs[b]).then(accuracies[b].total_cmp(&accuracies[a]))
    };
    order.sort_by(by_cost);
    let mut ranks = vec![0; costs.len()];
    // The best accuracy of every rank so far. Costs only rise from here on, so a rank dominates the next architecture
    // unless its best is less accurate; these bests fall from rank to rank.
    let mut bests: Vec<f64> = Vec::new();
    let mut before: Option<usize> = None;
    for place in order {
        let same = |&b: &usize| costs[b] == costs[place] && accuracies[b] == accuracies[place];
        ranks[place] = match before.filter(same) {
            Some(twin) => ranks[twin],
            None => {
                let rank = bests.partition_point(|best| *best >= accuracies[place]);
                match bests.get_mut(rank) {
                    Some(best) => *best = accuracies[place],
                    None => bests.push(accuracies[place]),
                }
                rank
            }
        };
        before = Some(place);
    }
    Ok(ranks)
}

/// All architectures, first those that an evolutionary search should keep: by Pareto rank, and within a rank by their
/// crowding distance, the largest first. That distance is the size of the gap which an architecture's removal would leave in
/// its rank (in cost and accuracy, each over the rank's range); at the ends of a rank it is infinite. So a cut
/// anywhere leaves every cost represented. Places in the lists; ties keep the lists' order.
///
/// # Errors
/// When the lists differ in length or are not finite.
pub fn pareto_order(costs: &[f64], accuracies: &[f64]) -> Result<Vec<usize>, StatisticsError> {
    let ranks = pareto_ranks(costs, accuracies)?;
    let mut order: Vec<usize> = (0..ranks.len()).collect();
    order.sort_by(|&a, &b| ranks[a].cmp(&ranks[b]).then(costs[a].total_cmp(&costs[b])));
    let mut distances = vec![0.0; ranks.len()];
    for members in order.chunk_by(|a, b| ranks[*a] == ranks[*b]) {
        crowding(members, costs, accuracies, &mut distances);
    }
    order.sort_by(|&a, &b| {
        ranks[a].cmp(&ranks[b]).then(distances[b].total_cmp(&distances[a])).then(a.cmp(&b))
    });
    Ok(order)
}

/// Crowding distances of a rank's members, which stand in the order of cost, hence of accuracy, too.
fn crowding(members: &[usize], costs: &[f64], accuracies: &[f64], distances: &mut [f64]) {
    let (first, last) = (members[0], members[members.len() - 1]);
    let gap = |values: &[f64], a: usize, b: usize| {
        let range = (values[last] - values[first]).abs();
        if range > 0.0 { (values[b] - values[a]).abs() / range } else { 0.0 }
    };
    distances[first] = f64::INFINITY;
    distances[last] = f64::INFINITY;
    for window in members.windows(3) {
        let [before, this, after] = window else { unreachable!("windows of three") };
        distances[*this] = gap(costs, *before, *after) + gap(accuracies, *before, *after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Ranks by the definition.
    fn peeled(costs: &[f64], accuracies: &[f64]) -> Vec<usize> {
        let mut ranks = vec![usize::MAX; costs.len()];
        for rank in 0.. {
            let left: Vec<usize> = (0..costs.len()).filter(|i| ranks[*i] == usize::MAX).collect();
            let dominates = |a: usize, b: usize| {
                costs[a] <= costs[b]
                    && accuracies[a] >= accuracies[b]
                    && (costs[a] < costs[b] || accuracies[a] > accuracies[b])
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
            let costs: Vec<f64> = points.iter().map(|p| f64::from(p.0)).collect();
            let accuracies: Vec<f64> = points.iter().map(|p| f64::from(p.1)).collect();
            let ranks = pareto_ranks(&costs, &accuracies).unwrap();
            prop_assert_eq!(&ranks, &peeled(&costs, &accuracies));
            let order = pareto_order(&costs, &accuracies).unwrap();
            prop_assert!(order.iter().map(|i| ranks[*i]).is_sorted());
            let mut all = order.clone();
            all.sort_unstable();
            prop_assert_eq!(all, (0..points.len()).collect::<Vec<_>>());
            // The ends of the front are kept first.
            if let Some(best) = accuracies.iter().copied().reduce(f64::max) {
                let kept = &order[..order.len().min(2)];
                prop_assert!(kept.iter().any(|i| accuracies[*i] == best));
            }
        }
    }

    #[test]
    fn a_cut_keeps_what_stands_alone() {
        // One front: dense at the left, one at 10; then something dominated.
        let costs = [1.0, 1.1, 1.2, 1.3, 10.0, 20.0, 20.0];
        let accuracies = [10.0, 10.1, 10.2, 10.3, 50.0, 60.0, 9.0];
        let order = pareto_order(&costs, &accuracies).unwrap();
        assert_eq!(&order[..2], [0, 5]);
        assert_eq!(&order[2..4], [4, 3]);
        assert_eq!(order[6], 6);
        assert!(pareto_ranks(&[1.0], &[]).is_err());
        assert!(pareto_order(&[f64::NAN], &[1.0]).is_err());
    }
}
