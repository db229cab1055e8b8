//! Sorting a block's inner channels by how much the next convolution makes of them.

use crate::layout::{ConvSlot, Layout};
use crate::weights::Weights;
use std::ops::Range;

/// Sorts the channels between two convolutions of a block by the L1 norm of the weights that the next convolution
/// reads them with, largest first; equal ones keep their order.
///
/// Subnets keep a layer's leading channels, so after this they keep those that matter most to the next
/// layer. The full network's function is the same but for rounding. Channels between blocks keep their
/// order: residual connections tie them over a whole stage.
pub fn reorder_middle_channels(layout: &Layout, weights: &mut Weights) {
    for block in &layout.blocks {
        for pair in block.convs.windows(2) {
            let (conv, next) = (&pair[0], &pair[1]);
            let order = descending(&input_norms(next, weights));
            let full = conv.full_out;
            permute_rows(&mut weights.params[conv.weight.clone()], 1, full, &order);
            for range in [&conv.gamma, &conv.beta] {
                permute_rows(&mut weights.params[Range::clone(range)], 1, full, &order);
            }
            for range in [&conv.mean, &conv.var] {
                permute_rows(&mut weights.buffers[Range::clone(range)], 1, full, &order);
            }
            permute_rows(&mut weights.params[next.weight.clone()], next.full_out, full, &order);
        }
    }
}

/// L1 norm of a convolution's weights per input channel, `[full_in]`.
fn input_norms(conv: &ConvSlot, weights: &Weights) -> Vec<f64> {
    let mut norms = vec![0.0; conv.full_in];
    // HWIO: a row of `full_out` weights per tap and input channel.
    let rows = weights.params[conv.weight.clone()].chunks_exact(conv.full_out);
    for (i, row) in rows.enumerate() {
        norms[i % conv.full_in] += row.iter().map(|w| f64::from(w.abs())).sum::<f64>();
    }
    norms
}

fn descending(norms: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..norms.len()).collect();
    // A stable sort.
    order.sort_by(|a, b| norms[*b].total_cmp(&norms[*a]));
    order
}

/// In each group of `n` rows of `width` values, puts row `order[i]` at place i.
fn permute_rows(values: &mut [f32], width: usize, n: usize, order: &[usize]) {
    let mut old = vec![0.0; n * width];
    for group in values.chunks_exact_mut(n * width) {
        old.copy_from_slice(group);
        for (to, &from) in group.chunks_exact_mut(width).zip(order) {
            to.copy_from_slice(&old[from * width..][..width]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Plan, Session};
    use slimtau_space::SearchSpace;

    fn space(block: &str) -> SearchSpace {
        let text = format!(
            r#"
            name = "two-stages"
            image_size = 8
            channels = 3
            classes = 4
            ratios = [1.0, 0.5]
            divisor = 4
            block = "{block}"
            stem = {{ width = 16, kernel = 3, stride = 1, max_pool = false, codes = 2 }}
            stage = [
                {{ width = 16, depth = [1, 2], stride = 1, codes = 2 }},
                {{ width = 24, depth = [1, 2], stride = 2, codes = 2 }},
            ]
            "#
        );
        SearchSpace::from_toml(&text, "test").unwrap()
    }

    fn infer(space: &SearchSpace, layout: &Layout, weights: &Weights, code: &str) -> Vec<f32> {
        let plan = Plan::subnet(space, layout, &space.parse(code).unwrap()).unwrap();
        let images: Vec<f32> =
            (0..2 * 8 * 8 * 3).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect();
        let mut session = Session::new();
        session.infer(&plan, &weights.params, &weights.buffers, &images).unwrap().to_vec()
    }

    fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
        let scale = a.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        a.iter().zip(b).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / scale
    }

    #[test]
    fn the_order_falls_and_the_full_network_stays() {
        for block in ["basic", "bottleneck"] {
            let space = space(block);
            let layout = Layout::supernet(&space).unwrap();
            let mut before = Weights::init(&layout, 5);
            // Norm layers that tell channels apart, or a wrong permutation of them would not show.
            for (i, value) in
                before.params.iter_mut().enumerate().filter(|(_, v)| **v == 0.0 || **v == 1.0)
            {
                *value += 0.3 * ((i * 29 % 17) as f32 / 17.0);
            }
            for (i, value) in before.buffers.iter_mut().enumerate() {
                *value += (i * 31 % 13) as f32 / 13.0;
            }
            let mut after = before.clone();
            reorder_middle_channels(&layout, &mut after);
            for pair in layout.blocks.iter().flat_map(|b| b.convs.windows(2)) {
                let norms = input_norms(&pair[1], &after);
                assert!(norms.windows(2).all(|w| w[0] >= w[1]), "{norms:?}");
                let unsorted = input_norms(&pair[1], &before);
                assert!(unsorted.windows(2).any(|w| w[0] < w[1]), "nothing was to be sorted");
            }
            let both = |code: &str| {
                (infer(&space, &layout, &before, code), infer(&space, &layout, &after, code))
            };
            let (full, same) = both("22111111111");
            assert!(largest_difference(&full, &same) < 1e-5, "{full:?}\n{same:?}");
            let (narrow, other) = both("22121212121");
            assert!(
                largest_difference(&narrow, &other) > 1e-3,
                "a narrow subnet has other channels now"
            );
        }
    }

    #[test]
    fn equal_norms_keep_their_order() {
        assert_eq!(descending(&[1.0, 2.0, 1.0, 2.0, 3.0, 0.0]), [4, 1, 3, 0, 2, 5]);
        let space = space("basic");
        let layout = Layout::supernet(&space).unwrap();
        let mut weights = Weights::init(&layout, 1);
        weights.params.fill(0.5);
        let gamma = layout.blocks[0].convs[0].gamma.clone();
        for (i, value) in weights.params[gamma.clone()].iter_mut().enumerate() {
            *value = i as f32;
        }
        let before = weights.clone();
        reorder_middle_channels(&layout, &mut weights);
        assert_eq!(weights, before);
    }

    #[test]
    fn sorting_twice_is_sorting_once() {
        let space = space("basic");
        let layout = Layout::supernet(&space).unwrap();
        let mut once = Weights::init(&layout, 2);
        reorder_middle_channels(&layout, &mut once);
        let mut twice = once.clone();
        reorder_middle_channels(&layout, &mut twice);
        assert_eq!(twice, once);
    }
}
