//! A list of subnets at once: those that agree on their first blocks share what these compute.
//!
//! The nodes of the tree are stems and blocks at their widths, a path from its root is a subnet. Going through
//! it depth first, a node is computed once for all subnets below it, and only the maps of one path are in
//! memory. Every kernel is called as it is for a subnet by itself, so results are the same to the last bit.

use crate::SupernetError;
use crate::backend::{
    Backend, Cpu, MapView, NormOf, Read, StatisticsAt, Store, Tracked, VectorView,
};
use crate::infer::{ConvNorm, Folded, Folding, Head, Inner, Shared, block, logits, stem};
use crate::plan::{Plan, PlannedConv};
use std::borrow::{Borrow, BorrowMut};

/// Subnets of one layout, arranged by what they have in common.
pub struct PrefixTree {
    plans: Vec<Plan>,
    /// Depth first: the parent of a node is the last one before it that is one level higher.
    nodes: Vec<Node>,
    /// Length of the statistics of all nodes.
    statistics: usize,
}

/// A stem or a block.
struct Node {
    /// 0 = stem, n = n-th block of the network.
    depth: usize,
    /// A plan that it is of.
    plan: usize,
    /// The plans that end here.
    ends: Vec<usize>,
}

/// Memory for trees; any tree may follow any other.
pub struct TreeSession<B: Backend = Cpu> {
    backend: B,
    /// The output of every node of the current path.
    path: Vec<B::Map>,
    inner: Inner<B>,
    folding: Folding<B>,
    measuring: Measuring<B>,
    head: Head<B>,
}

impl<B: Backend> TreeSession<B> {
    /// A session on a backend.
    pub fn on(backend: B) -> Self {
        Self {
            path: Vec::new(),
            inner: Inner::new(&backend),
            folding: Folding::new(&backend),
            measuring: Measuring {
                output: backend.map(),
                mean: backend.vector(),
                var: backend.vector(),
            },
            head: Head::new(&backend),
            backend,
        }
    }
}

impl Default for TreeSession {
    fn default() -> Self {
        Self::on(Cpu::default())
    }
}

/// The running statistics that batch norm uses in [`PrefixTree::infer`].
pub enum Statistics<'a, B: Backend = Cpu> {
    /// Those that all subnets share, laid out as [`crate::Weights::buffers`].
    Shared(&'a B::Running),
    /// Every subnet's own.
    Recalibrated(&'a Recalibration<'a, B>),
}

impl<B: Backend> Clone for Statistics<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Backend> Copy for Statistics<'_, B> {}

/// Running statistics of every subnet of a tree by itself: as [`crate::recalibrate`] measures them, means over
/// batches of each batch's statistics (variance unbiased).
pub struct Recalibration<'t, B: Backend = Cpu> {
    tree: &'t PrefixTree,
    /// Mean and variance of each convolution of each node, in the order of execution; of no batches, none.
    own: Option<B::OwnRunning>,
    batches: u32,
}

impl<B: Backend> Recalibration<'_, B> {
    /// Takes a batch of images [N, H, W, C] into the means. All batches are to go with the same parameters, and so
    /// is the inference.
    ///
    /// # Errors
    /// When `images` is not a whole number of images.
    pub fn measure(
        &mut self,
        session: &mut TreeSession<B>,
        params: &B::Params,
        images: MapView<'_, B>,
    ) -> Result<(), SupernetError> {
        let Some(batch) = self.tree.batch::<B>(images)? else { return Ok(()) };
        self.batches += 1;
        let TreeSession { backend, path, inner, measuring, .. } = session;
        // Weight 1/n of the n-th makes the running value the plain mean so far.
        let momentum = 1.0 / self.batches as f32;
        let own = match &mut self.own {
            Some(own) => own,
            none => none.insert(backend.running(self.tree.statistics)?),
        };
        let own = own.borrow_mut();
        let mut layers = Measured { backend, params, batch, own, at: 0, momentum, measuring };
        self.tree.walk(&mut layers, path, inner, images, |_, _, _| Ok(()))
    }
}

/// Multiply-accumulates per image for a list of subnets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListMacs {
    /// One subnet at a time.
    pub one_by_one: u64,
    /// In the tree.
    pub shared: u64,
}

impl PrefixTree {
    /// Arranges subnets. The same network may be there more than once.
    ///
    /// # Panics
    /// When the plans are of different layouts.
    pub fn new(plans: Vec<Plan>) -> Self {
        let mut order: Vec<usize> = (0..plans.len()).collect();
        order.sort_by_cached_key(|i| prefix_key(&plans[*i]));
        let mut nodes: Vec<Node> = Vec::new();
        let mut statistics = 0;
        let mut before: Option<&Plan> = None;
        for i in order {
            let plan = &plans[i];
            assert_eq!(border(plan), border(&plans[0]), "plans of different layouts");
            let common = before.map_or(0, |before| common_nodes(before, plan));
            for depth in common..=plan.blocks.len() {
                nodes.push(Node { depth, plan: i, ends: Vec::new() });
                statistics += convs(plan, depth).map(|c| 2 * c.out_channels).sum::<usize>();
            }
            // The last of the nodes is where this plan ends, pushed now or, for a network that was there, before.
            nodes.last_mut().expect("a plan has a stem").ends.push(i);
            before = Some(plan);
        }
        Self { plans, nodes, statistics }
    }

    /// The places of plans in an order in which neighbours share their first blocks: what to cut a list by that is too
    /// long for one tree. Plans are made and dropped one by one; 45,000 of the competition's at once are 400 MB.
    ///
    /// # Errors
    /// The first of the plans' own.
    pub fn order<E>(plans: impl IntoIterator<Item = Result<Plan, E>>) -> Result<Vec<usize>, E> {
        let keys = plans.into_iter().map(|plan| Ok(prefix_key(&plan?)));
        let keys: Vec<_> = keys.collect::<Result<_, E>>()?;
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_by(|a, b| keys[*a].cmp(&keys[*b]));
        Ok(order)
    }

    /// What the list costs per image.
    pub fn macs(&self) -> ListMacs {
        let of_node = |plan: &Plan, depth| convs(plan, depth).map(PlannedConv::macs).sum::<u64>();
        let head = |plan: &Plan| (plan.features() * plan.network().classes) as u64;
        let heads: u64 = self.plans.iter().map(head).sum();
        let whole = |plan: &Plan| (0..=plan.blocks.len()).map(|d| of_node(plan, d)).sum::<u64>();
        let nodes = self.nodes.iter().map(|node| of_node(&self.plans[node.plan], node.depth));
        ListMacs {
            one_by_one: self.plans.iter().map(whole).sum::<u64>() + heads,
            shared: nodes.sum::<u64>() + heads,
        }
    }

    /// The subnets' own running statistics, to be measured.
    pub fn recalibration<B: Backend>(&self) -> Recalibration<'_, B> {
        Recalibration { tree: self, own: None, batches: 0 }
    }

    /// Hands the eval-mode logits [N, classes] of every subnet to `each`, with its place in the list that the tree
    /// was made of. `images` is [N, H, W, C].
    ///
    /// # Errors
    /// When `images` is not a whole number of images.
    ///
    /// # Panics
    /// When recalibrated statistics are another tree's, or no batch was measured.
    pub fn infer<B: Backend>(
        &self,
        session: &mut TreeSession<B>,
        params: &B::Params,
        statistics: Statistics<'_, B>,
        images: MapView<'_, B>,
        mut each: impl FnMut(usize, VectorView<'_, B>),
    ) -> Result<(), SupernetError> {
        let Some(batch) = self.batch::<B>(images)? else { return Ok(()) };
        let TreeSession { backend, path, inner, folding, head, .. } = session;
        let folded = Folded { backend, params, batch, folding };
        let mut end = |backend: &mut B, node: &Node, x: &B::Map| {
            // The classifier reads features only: plans that end in one node have the same logits.
            let out = logits(backend, &self.plans[node.plan], params, batch, x, head)?;
            node.ends.iter().for_each(|plan| each(*plan, out));
            Ok(())
        };
        match statistics {
            Statistics::Shared(buffers) => {
                let mut layers = Shared { folded, buffers };
                self.walk(&mut layers, path, inner, images, &mut end)
            }
            Statistics::Recalibrated(Recalibration { tree, own, .. }) => {
                assert!(std::ptr::eq(*tree, self), "statistics of another tree");
                let own = own.as_ref().expect("statistics of no images").borrow();
                let mut layers = Own { folded, own, at: 0 };
                self.walk(&mut layers, path, inner, images, &mut end)
            }
        }
    }

    /// The number of images, unless there is nothing to run.
    fn batch<B: Backend>(&self, images: MapView<'_, B>) -> Result<Option<usize>, SupernetError> {
        self.plans.first().map(|plan| B::batch(plan, images)).transpose()
    }

    /// Computes every node, depth first, and calls `end` with those where plans end and their output.
    fn walk<B: Backend>(
        &self,
        layers: &mut impl ConvNorm<B>,
        path: &mut Vec<B::Map>,
        inner: &mut Inner<B>,
        images: MapView<'_, B>,
        mut end: impl FnMut(&mut B, &Node, &B::Map) -> Result<(), SupernetError>,
    ) -> Result<(), SupernetError> {
        for node in &self.nodes {
            let (plan, depth) = (&self.plans[node.plan], node.depth);
            while path.len() <= depth {
                path.push(layers.backend().map());
            }
            let (above, below) = path.split_at_mut(depth);
            let out = &mut below[0];
            match above.last() {
                None => stem(layers, plan, images, inner, out)?,
                Some(x) => block(layers, &plan.blocks[depth - 1], x, inner, out)?,
            }
            if !node.ends.is_empty() {
                end(layers.backend(), node, out)?;
            }
        }
        Ok(())
    }
}

/// Plans sorted by this stand next to those with which they share their first blocks, and after those which end
/// where they go on.
fn prefix_key(plan: &Plan) -> Vec<[u32; 3]> {
    let key = |c: &PlannedConv| [c.slot.weight.start, c.in_channels, c.out_channels];
    // A truncated number would only cost time; no network has 2^32 weights.
    plan.convs().map(|c| key(c).map(|n| n as u32)).collect()
}

/// What plans of one layout agree on besides their convolutions.
fn border(plan: &Plan) -> [usize; 6] {
    let network = plan.network();
    let (size, channels) = (network.image_size, network.channels);
    let pooled = usize::from(network.max_pool);
    [size, channels, pooled, network.classes, plan.fc_weight.start, plan.fc_full_inputs]
}

/// Stem and blocks that two plans have in common before they differ.
fn common_nodes(a: &Plan, b: &Plan) -> usize {
    if a.stem != b.stem {
        return 0;
    }
    1 + a.blocks.iter().zip(&b.blocks).take_while(|(a, b)| a == b).count()
}

/// The convolutions of the node at a depth, in the order in which they are executed.
fn convs(plan: &Plan, depth: usize) -> impl Iterator<Item = &PlannedConv> {
    let block = depth.checked_sub(1).map(|i| &plan.blocks[i]);
    let stem = block.is_none().then_some(&plan.stem);
    let of_block = block.into_iter().flat_map(|b| b.projection.iter().chain(&b.convs));
    stem.into_iter().chain(of_block)
}

/// Convolutions with the node's own statistics.
struct Own<'a, B: Backend> {
    folded: Folded<'a, B>,
    own: &'a B::Running,
    /// Those of the next convolution: they lie in the order in which a tree executes.
    at: usize,
}

impl<B: Backend> ConvNorm<B> for Own<'_, B> {
    fn conv(
        &mut self,
        conv: &PlannedConv,
        x: MapView<'_, B>,
        residual: Option<MapView<'_, B>>,
        relu: bool,
        out: &mut B::Map,
    ) -> Result<(), SupernetError> {
        let at = StatisticsAt::from(self.at, conv.out_channels);
        self.at = at.var.end;
        self.folded.conv(conv, self.own, &at, x, residual, relu, out)
    }

    fn backend(&mut self) -> &mut B {
        self.folded.backend
    }

    fn batch(&self) -> usize {
        self.folded.batch
    }
}

/// A convolution's output before its norm, and the statistics of that.
struct Measuring<B: Backend> {
    output: B::Map,
    mean: B::Vector,
    var: B::Vector,
}

/// Convolutions with the statistics of the batch, which are averaged into the node's own.
struct Measured<'a, B: Backend> {
    backend: &'a mut B,
    params: &'a B::Params,
    batch: usize,
    own: &'a mut B::Running,
    /// As in [`Own`].
    at: usize,
    momentum: f32,
    measuring: &'a mut Measuring<B>,
}

impl<B: Backend> ConvNorm<B> for Measured<'_, B> {
    fn conv(
        &mut self,
        conv: &PlannedConv,
        x: MapView<'_, B>,
        residual: Option<MapView<'_, B>>,
        relu: bool,
        out: &mut B::Map,
    ) -> Result<(), SupernetError> {
        let Self { backend, params, batch, own, momentum, measuring, .. } = self;
        let Measuring { output, mean, var } = &mut **measuring;
        let (len, channels) = (conv.shape(*batch).output_len(), conv.out_channels);
        output.reserve(len)?;
        mean.reserve(channels)?;
        var.reserve(channels)?;
        let at = StatisticsAt::from(self.at, channels);
        self.at = at.var.end;
        let tracked = Some(Tracked { running: &mut **own, at, momentum: *momentum });
        backend.conv_statistics(
            conv,
            *batch,
            params,
            Read::plain(x),
            output,
            mean,
            var,
            tracked,
        )?;
        out.reserve(len)?;
        backend.norm_forward(NormOf { conv, params, mean, var, relu }, output, residual, out)
    }

    fn backend(&mut self) -> &mut B {
        self.backend
    }

    fn batch(&self) -> usize {
        self.batch
    }
}
