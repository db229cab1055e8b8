//! One MoCo step: two views, two encoders, InfoNCE, one update, one momentum update.

use crate::neck::{Neck, NeckMemory};
use crate::queue::KeyQueue;
use rand::RngExt;
use slimtau_base::{FileError, TensorFile, stream};
use slimtau_kernels::Scratch;
use slimtau_kernels::loss::info_nce;
use slimtau_supernet::{BnMode, Layout, Plan, Session, SupernetError, Weights, merge_ranges};
use slimtau_train::{Sgd, ema_update, zeros};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// The settings of stage 1 that are not a schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct MocoConfig {
    /// Keys in the queue; 40,960 in the authors' code.
    pub queue: usize,
    /// Length of an embedding; 128.
    pub dim: usize,
    /// Momentum of the key encoder; 0.999.
    pub key_momentum: f32,
    /// Momentum updates of the key encoder per step; 1 (the authors' code makes 2).
    pub key_updates: u32,
    /// The key batch is shuffled and normalised in this many groups, so that batch statistics do
    /// not tell a query which key shares its batch (MoCo's shuffled BN, on one device). 1 = off.
    pub key_groups: usize,
    /// Treatment of BN statistics.
    pub bn: BnMode,
    /// Weight of a new batch in tracked statistics; 0.1.
    pub bn_momentum: f32,
    /// SGD momentum, weight decay.
    pub sgd: Sgd,
    /// Seed of the head, the queue and the key shuffles.
    pub seed: u64,
}

/// What one step found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MocoReport {
    /// Mean InfoNCE before the update.
    pub loss: f64,
    /// Share of queries whose own key scored highest.
    pub top1: f64,
}

/// Stage 1 in progress: two encoders with their heads, the queue and the optimiser's state.
///
/// Flat buffers hold the network's parameters first, then the head's.
pub struct Moco {
    config: MocoConfig,
    layout: Arc<Layout>,
    neck: Neck,
    query: Weights,
    key: Weights,
    queue: KeyQueue,
    velocity: Vec<f32>,
    grads: Vec<f32>,
    session: Session,
    query_memory: NeckMemory,
    key_memory: NeckMemory,
    grad_embedding: Vec<f32>,
    keys: Vec<f32>,
    shuffled: Vec<f32>,
    order: Vec<usize>,
    active: Vec<Range<usize>>,
    scratch: Scratch,
}

impl Moco {
    /// Both encoders at `start`, fresh heads (equal in both) and a random queue.
    pub fn new(config: MocoConfig, layout: Arc<Layout>, start: Weights) -> Self {
        let neck = Neck { inputs: layout.features(), dim: config.dim };
        let mut query = start;
        query.params.extend(neck.init(config.seed));
        let queue = KeyQueue::random(config.queue, config.dim, config.seed);
        Self::assemble(config, layout, neck, query.clone(), query, queue, None)
    }

    fn assemble(
        config: MocoConfig,
        layout: Arc<Layout>,
        neck: Neck,
        query: Weights,
        key: Weights,
        queue: KeyQueue,
        velocity: Option<Vec<f32>>,
    ) -> Self {
        let len = query.params.len();
        Self {
            velocity: velocity.unwrap_or_else(|| zeros(len)),
            grads: zeros(len),
            session: Session::new(),
            query_memory: NeckMemory::default(),
            key_memory: NeckMemory::default(),
            grad_embedding: Vec::new(),
            keys: Vec::new(),
            shuffled: Vec::new(),
            order: Vec::new(),
            active: Vec::new(),
            scratch: Scratch::new(),
            config,
            layout,
            neck,
            query,
            key,
            queue,
        }
    }

    /// One update from two views [N, H, W, C] of the same images, for the subnet of `plan`
    /// (the largest, in the paper). `step` selects the key shuffle's stream.
    ///
    /// Order, as in MoCo: key encoder's momentum update, keys, queries, loss against the queue,
    /// SGD, and only then do the keys enter the queue.
    ///
    /// # Errors
    /// When the views are not whole batches of images.
    ///
    /// # Panics
    /// When the two views differ in length.
    pub fn step(
        &mut self,
        step: u64,
        lr: f64,
        temperature: f32,
        plan: &Plan,
        views: [&[f32]; 2],
    ) -> Result<MocoReport, SupernetError> {
        assert_eq!(views[0].len(), views[1].len(), "two views of the same images");
        let network = self.layout.params();
        let rows = plan.batch(views[0])?;
        for _ in 0..self.config.key_updates {
            ema_update(self.config.key_momentum, &mut self.key.params, &self.query.params);
        }
        self.encode_keys(step, plan, views[1], rows)?;

        let (params, neck_params) = self.query.params.split_at(network);
        let norms = self.config.bn.training(&mut self.query.buffers[..], self.config.bn_momentum);
        let features = self.session.forward_features(plan, params, norms, views[0])?;
        self.neck.forward(neck_params, rows, features, &mut self.query_memory);
        self.grad_embedding.resize(rows * self.neck.dim, 0.0);
        let (loss, top1) = info_nce(
            self.neck.dim,
            temperature,
            self.query_memory.embedding(),
            &self.keys,
            self.queue.keys(),
            &mut self.grad_embedding,
            &mut self.scratch,
        );
        let (grads, neck_grads) = self.grads.split_at_mut(network);
        let grad_features = self.neck.backward(
            neck_params,
            self.session.features(),
            &self.grad_embedding,
            neck_grads,
            &mut self.query_memory,
        );
        self.session.backward_features(plan, params, views[0], grad_features, grads);

        let end = self.query.params.len();
        self.active.clear();
        plan.add_active_ranges(false, &mut self.active);
        self.active.push(network..end);
        merge_ranges(&mut self.active);
        let Self { query, grads, velocity, active, .. } = self;
        self.config.sgd.step(lr, &mut query.params, grads, velocity, active);
        self.queue.push(&self.keys);
        Ok(MocoReport { loss, top1 })
    }

    /// Keys [N, dim] of the second views, in the views' order, into `self.keys`.
    fn encode_keys(
        &mut self,
        step: u64,
        plan: &Plan,
        view: &[f32],
        rows: usize,
    ) -> Result<(), SupernetError> {
        let (params, neck_params) = self.key.params.split_at(self.layout.params());
        let (dim, image) = (self.neck.dim, plan.image_len());
        self.keys.resize(rows * dim, 0.0);
        let groups = self.config.key_groups.clamp(1, rows);
        shuffle(&mut self.order, rows, groups, self.config.seed, step);
        for group in 0..groups {
            let members = &self.order[group * rows / groups..(group + 1) * rows / groups];
            let images = if groups == 1 {
                view
            } else {
                self.shuffled.clear();
                for &i in members {
                    self.shuffled.extend_from_slice(&view[i * image..][..image]);
                }
                &self.shuffled
            };
            let norms = self.config.bn.training(&mut self.key.buffers[..], self.config.bn_momentum);
            let features = self.session.forward_features_only(plan, params, norms, images)?;
            self.neck.forward(neck_params, members.len(), features, &mut self.key_memory);
            let embeddings = self.key_memory.embedding().chunks_exact(dim);
            for (&i, embedding) in members.iter().zip(embeddings) {
                self.keys[i * dim..][..dim].copy_from_slice(embedding);
            }
        }
        Ok(())
    }

    /// The query encoder without its head: the start of stage 2.
    pub fn encoder(&self) -> Weights {
        let params = self.query.params[..self.layout.params()].to_vec();
        Weights { params, buffers: self.query.buffers.clone() }
    }

    /// Everything that a later [`Moco::from_file`] needs to go on exactly.
    pub fn to_file(&self) -> TensorFile {
        let mut file = TensorFile::default();
        file.insert("query.params", &[self.query.params.len()], self.query.params.clone());
        file.insert("query.buffers", &[self.query.buffers.len()], self.query.buffers.clone());
        file.insert("key.params", &[self.key.params.len()], self.key.params.clone());
        file.insert("key.buffers", &[self.key.buffers.len()], self.key.buffers.clone());
        file.insert("velocity", &[self.velocity.len()], self.velocity.clone());
        file.insert("queue", &[self.queue.len(), self.neck.dim], self.queue.keys().to_vec());
        file.meta.insert("queue.position".into(), self.queue.position().to_string());
        file
    }

    /// Goes on from [`Moco::to_file`]. `path` is where the tensors came from, for messages.
    ///
    /// # Errors
    /// When a tensor is missing or does not fit the configuration.
    pub fn from_file(
        config: MocoConfig,
        layout: Arc<Layout>,
        path: &Path,
        mut file: TensorFile,
    ) -> Result<Self, FileError> {
        let neck = Neck { inputs: layout.features(), dim: config.dim };
        let (params, buffers) = (layout.params() + neck.params(), layout.buffers());
        let mut take = |name: &str, shape: &[usize]| file.take(path, name, shape);
        let query = Weights {
            params: take("query.params", &[params])?,
            buffers: take("query.buffers", &[buffers])?,
        };
        let key = Weights {
            params: take("key.params", &[params])?,
            buffers: take("key.buffers", &[buffers])?,
        };
        let velocity = take("velocity", &[params])?;
        let keys = take("queue", &[config.queue, config.dim])?;
        let position = file.meta.get("queue.position").and_then(|v| v.parse().ok());
        let position = position
            .ok_or_else(|| FileError::contents(path, "`queue.position` is missing or no number"))?;
        let queue = KeyQueue::restore(config.dim, keys, position)
            .map_err(|problem| FileError::contents(path, problem))?;
        Ok(Self::assemble(config, layout, neck, query, key, queue, Some(velocity)))
    }
}

/// What of a [`Moco`] is saved.
#[cfg(feature = "gpu")]
pub(crate) struct Saved {
    pub query: Weights,
    pub key: Weights,
    pub queue: KeyQueue,
    pub velocity: Vec<f32>,
}

#[cfg(feature = "gpu")]
impl Moco {
    pub(crate) fn into_saved(self) -> Saved {
        let Self { query, key, queue, velocity, .. } = self;
        Saved { query, key, queue, velocity }
    }
}

/// The order in which the key batch is cut into groups: as it is for one group, else drawn for the step.
pub(crate) fn shuffle(order: &mut Vec<usize>, rows: usize, groups: usize, seed: u64, step: u64) {
    order.clear();
    order.extend(0..rows);
    if groups > 1 {
        let mut rng = stream(seed, "moco.key-shuffle", step);
        for i in (1..rows).rev() {
            order.swap(i, rng.random_range(0..=i));
        }
    }
}
