//! Stage 1's step on a GPU: encoders, head, queue and optimiser in its memory.

use crate::step::{Saved, shuffle};
use crate::{KeyQueue, Moco, MocoConfig, MocoReport, Neck};
use slimtau_base::TensorFile;
use slimtau_kernels::gpu::{
    Buffer, Gpu, InfoNceMemory, Permutation, Sgd, View, ViewMut, WorkTable, ema_update, info_nce,
    l2_normalize, l2_normalize_backward, linear_backward, linear_forward, relu_backward,
    relu_forward, sgd_step,
};
use slimtau_supernet::{
    Backend, Device, DeviceImages, DeviceWeights, Layout, Plan, Precision, Session, SupernetError,
    Weights, merge_ranges,
};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// [`crate::Moco`] on a GPU, with activations of `T`; parameters, head, embeddings and queue are f32.
pub struct DeviceMoco<T: Precision> {
    gpu: Gpu,
    config: MocoConfig,
    layout: Arc<Layout>,
    neck: Neck,
    query: DeviceWeights<T>,
    key: DeviceWeights<T>,
    /// `[queue, dim]`, a ring.
    queue: Buffer<f32>,
    position: usize,
    velocity: Buffer<f32>,
    grads: Buffer<f32>,
    session: Session<Device<T>>,
    query_head: Head,
    key_head: Head,
    grad_embedding: Buffer<f32>,
    keys: Buffer<f32>,
    /// Images, and keys, in the order in which groups take them.
    shuffled: Buffer<T>,
    shuffled_keys: Buffer<f32>,
    order: Vec<usize>,
    permutation: Permutation,
    /// The loss and the share of hits.
    results: Buffer<f32>,
    info_nce: InfoNceMemory,
    work: WorkTable,
    active: Vec<Range<usize>>,
}

impl<T: Precision> DeviceMoco<T> {
    /// Both encoders at `start`, fresh heads (equal in both) and a random queue: those of [`crate::Moco::new`].
    ///
    /// # Errors
    /// When it does not fit.
    pub fn new(
        gpu: &Gpu,
        config: MocoConfig,
        layout: Arc<Layout>,
        mut start: Weights,
    ) -> Result<Self, SupernetError> {
        let neck = Neck { inputs: layout.features(), dim: config.dim };
        start.params.extend(neck.init(config.seed));
        let queue = KeyQueue::random(config.queue, config.dim, config.seed);
        let zeros = || Buffer::zeros(gpu, start.params.len());
        Ok(Self {
            query: DeviceWeights::new(gpu, &start)?,
            key: DeviceWeights::new(gpu, &start)?,
            queue: Buffer::from_slice(gpu, queue.keys())?,
            position: queue.position(),
            velocity: zeros()?,
            grads: zeros()?,
            session: Session::on(Device::new(gpu)),
            query_head: Head::new(gpu),
            key_head: Head::new(gpu),
            grad_embedding: Buffer::new(gpu),
            keys: Buffer::new(gpu),
            shuffled: Buffer::new(gpu),
            shuffled_keys: Buffer::new(gpu),
            order: Vec::new(),
            permutation: Permutation::new(gpu),
            results: Buffer::zeros(gpu, 2)?,
            info_nce: InfoNceMemory::new(gpu),
            work: WorkTable::new(gpu),
            active: Vec::new(),
            gpu: gpu.clone(),
            config,
            layout,
            neck,
        })
    }

    /// Everything that a later [`DeviceMoco::from_file`] needs to go on, as [`crate::Moco::to_file`] writes it: either goes on
    /// where the other stopped.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn to_file(&self) -> Result<TensorFile, SupernetError> {
        let mut file = TensorFile::default();
        for (name, weights) in [("query", &self.query), ("key", &self.key)] {
            let Weights { params, buffers } = weights.to_host()?;
            file.insert(format!("{name}.params"), &[params.len()], params);
            file.insert(format!("{name}.buffers"), &[buffers.len()], buffers);
        }
        let velocity = self.velocity.to_vec()?;
        file.insert("velocity", &[velocity.len()], velocity);
        let shape = [self.config.queue, self.neck.dim];
        file.insert("queue", &shape, self.queue.to_vec()?);
        file.meta.insert("queue.position".into(), self.position.to_string());
        Ok(file)
    }

    /// Goes on from [`DeviceMoco::to_file`] or [`crate::Moco::to_file`]. `path` is where the tensors came from, for messages.
    ///
    /// # Errors
    /// When a tensor is missing or does not fit the configuration, or the GPU fails.
    pub fn from_file(
        gpu: &Gpu,
        config: MocoConfig,
        layout: Arc<Layout>,
        path: &Path,
        file: TensorFile,
    ) -> Result<Self, SupernetError> {
        let state = Moco::from_file(config.clone(), layout.clone(), path, file)?;
        let Saved { query, key, queue, velocity } = state.into_saved();
        let mut moco = Self::new(gpu, config, layout.clone(), Weights::init(&layout, 0))?;
        moco.query = DeviceWeights::new(gpu, &query)?;
        moco.key = DeviceWeights::new(gpu, &key)?;
        moco.queue.upload(queue.keys())?;
        moco.position = queue.position();
        moco.velocity.upload(&velocity)?;
        Ok(moco)
    }

    /// One update from two views of the same images, each as [`DeviceImages`] holds them, in the order of
    /// [`crate::Moco::step`]. Waits for the GPU once, at the end.
    ///
    /// # Errors
    /// When the views are not whole batches of images, or the GPU fails.
    ///
    /// # Panics
    /// When the two views differ in length.
    pub fn step(
        &mut self,
        step: u64,
        lr: f64,
        temperature: f32,
        plan: &Plan,
        views: [View<'_, T>; 2],
    ) -> Result<MocoReport, SupernetError> {
        assert_eq!(views[0].len(), views[1].len(), "two views of the same images");
        for _ in 0..self.config.key_updates {
            let (average, copy) = self.key.params.both_mut();
            let current = self.query.params.values();
            ema_update(&self.gpu, self.config.key_momentum, average, current, copy)?;
        }
        self.encode_keys(step, plan, views[1])?;

        let Self { gpu, config, neck, query, session, query_head, grad_embedding, keys, .. } = self;
        let DeviceWeights { params, buffers } = query;
        let norms = config.bn.training(buffers, config.bn_momentum);
        let features = session.forward_features(plan, params, norms, views[0])?;
        let first = self.layout.params();
        let neck_params = params.values().range(first..first + neck.params());
        query_head.forward(gpu, neck, neck_params, keys.view().len() / neck.dim, features)?;
        grad_embedding.reserve(keys.view().len())?;
        let (loss, top1) = self.results.view_mut().split_at(1);
        let (embedding, queue) = (query_head.embedding.view(), self.queue.view());
        let (grad, memory) = (grad_embedding.view_mut(), &mut self.info_nce);
        let (dim, keys) = (neck.dim, keys.view());
        info_nce(gpu, dim, temperature, embedding, keys, queue, grad, loss, top1, memory)?;

        let neck_grads = self.grads.view_mut().range(first..first + neck.params());
        let features = session.features();
        let grad = grad_embedding.view();
        query_head.backward(gpu, neck, neck_params, features, grad, neck_grads)?;
        let grad = query_head.grad_features.view();
        session.try_backward_features(plan, params, views[0], grad, &mut self.grads)?;

        let end = first + self.neck.params();
        self.active.clear();
        plan.add_active_ranges(false, &mut self.active);
        self.active.push(first..end);
        merge_ranges(&mut self.active);
        self.work.set(end, &self.active, &[])?;
        let settings = self.config.sgd;
        let sgd = Sgd {
            lr: lr as f32,
            momentum: settings.momentum,
            weight_decay: settings.weight_decay,
            nesterov: settings.nesterov,
        };
        let (params, copy) = self.query.params.both_mut();
        let (grads, velocity) = (self.grads.view_mut(), self.velocity.view_mut());
        sgd_step(&self.gpu, &sgd, &self.work, params, grads, velocity, copy)?;
        self.push_keys()?;
        let results = self.results.to_vec()?;
        Ok(MocoReport { loss: results[0].into(), top1: results[1].into() })
    }

    /// Keys [N, dim] of the second views, in the views' order, into `self.keys`.
    fn encode_keys(
        &mut self,
        step: u64,
        plan: &Plan,
        view: View<'_, T>,
    ) -> Result<(), SupernetError> {
        let (dim, image) = (self.neck.dim, DeviceImages::<T>::image_len(plan));
        let rows = Device::<T>::batch(plan, view)?;
        let groups = self.config.key_groups.clamp(1, rows.max(1));
        shuffle(&mut self.order, rows, groups, self.config.seed, step);
        let first = self.layout.params();
        let Self { gpu, config, neck, key, session, key_head, keys, shuffled_keys, .. } = self;
        let DeviceWeights { params, buffers } = key;
        let images = if groups == 1 {
            view
        } else {
            self.permutation.upload(&self.order)?;
            self.permutation.gather(view, self.shuffled.reserve(view.len())?)?;
            self.shuffled.view()
        };
        shuffled_keys.reserve(rows * dim)?;
        for group in 0..groups {
            let members = group * rows / groups..(group + 1) * rows / groups;
            let norms = config.bn.training(&mut *buffers, config.bn_momentum);
            let own = images.range(members.start * image..members.end * image);
            let features = session.forward_features_only(plan, params, norms, own)?;
            let neck_params = params.values().range(first..first + neck.params());
            key_head.forward(gpu, neck, neck_params, members.len(), features)?;
            let mut place = shuffled_keys.view_mut().range(members.start * dim..members.end * dim);
            place.copy_from(key_head.embedding.view())?;
        }
        let mut keys = keys.reserve(rows * dim)?;
        if groups == 1 {
            return Ok(keys.copy_from(shuffled_keys.view())?);
        }
        Ok(self.permutation.scatter(shuffled_keys.view(), keys)?)
    }

    /// Replaces the oldest keys of the queue by those of the step, as [`KeyQueue::push`].
    fn push_keys(&mut self) -> Result<(), SupernetError> {
        let dim = self.neck.dim;
        let (length, rows) = (self.queue.view().len() / dim, self.keys.view().len() / dim);
        let mut from = 0;
        while from < rows {
            let n = (rows - from).min(length - self.position);
            let keys = self.keys.view().range(from * dim..(from + n) * dim);
            let places = self.position * dim..(self.position + n) * dim;
            self.queue.view_mut().range(places).copy_from(keys)?;
            self.position = (self.position + n) % length;
            from += n;
        }
        Ok(())
    }

    /// The query encoder without its head, in main memory: the start of stage 2.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn encoder(&self) -> Result<Weights, SupernetError> {
        let mut weights = self.query.to_host()?;
        weights.params.truncate(self.layout.params());
        Ok(weights)
    }

    /// All keys `[queue, dim]`, in ring order, in main memory.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn queue(&self) -> Result<Vec<f32>, SupernetError> {
        Ok(self.queue.to_vec()?)
    }
}

/// The head's activations, as [`crate::NeckMemory`].
struct Head {
    hidden: Buffer<f32>,
    activated: Buffer<f32>,
    projected: Buffer<f32>,
    norms: Buffer<f32>,
    embedding: Buffer<f32>,
    grad_projected: Buffer<f32>,
    grad_hidden: Buffer<f32>,
    grad_features: Buffer<f32>,
    scratch: Buffer<f32>,
}

impl Head {
    fn new(gpu: &Gpu) -> Self {
        let empty = || Buffer::new(gpu);
        Self {
            hidden: empty(),
            activated: empty(),
            projected: empty(),
            norms: empty(),
            embedding: empty(),
            grad_projected: empty(),
            grad_hidden: empty(),
            grad_features: empty(),
            scratch: empty(),
        }
    }

    /// As [`Neck::forward`].
    fn forward(
        &mut self,
        gpu: &Gpu,
        neck: &Neck,
        params: View<'_, f32>,
        rows: usize,
        features: View<'_, f32>,
    ) -> Result<(), SupernetError> {
        let (first, second) = neck.shapes(rows, features.len() / rows);
        let (w1, b1) = (params.range(neck.weight1()), params.range(neck.bias1()));
        let (w2, b2) = (params.range(neck.weight2()), params.range(neck.bias2()));
        linear_forward(gpu, &first, features, w1, b1, self.hidden.reserve(rows * neck.inputs)?)?;
        let activated = self.activated.reserve(rows * neck.inputs)?;
        relu_forward(gpu, self.hidden.view(), activated)?;
        let (activated, projected) = (self.activated.view(), &mut self.projected);
        linear_forward(gpu, &second, activated, w2, b2, projected.reserve(rows * neck.dim)?)?;
        let embedding = self.embedding.reserve(rows * neck.dim)?;
        let norms = self.norms.reserve(rows)?;
        Ok(l2_normalize(gpu, neck.dim, self.projected.view(), embedding, norms)?)
    }

    /// As [`Neck::backward`]; the features' gradient is in `grad_features`.
    fn backward(
        &mut self,
        gpu: &Gpu,
        neck: &Neck,
        params: View<'_, f32>,
        features: View<'_, f32>,
        grad_embedding: View<'_, f32>,
        grads: ViewMut<'_, f32>,
    ) -> Result<(), SupernetError> {
        let rows = self.norms.view().len();
        let (first, second) = neck.shapes(rows, features.len() / rows);
        let (embedding, norms) = (self.embedding.view(), self.norms.view());
        let grad_projected = self.grad_projected.reserve(self.projected.view().len())?;
        l2_normalize_backward(gpu, neck.dim, embedding, norms, grad_embedding, grad_projected)?;
        // The tensors lie one behind the other.
        let (of_w1, rest) = grads.split_at(neck.weight1().end);
        let (of_b1, rest) = rest.split_at(neck.bias1().len());
        let (of_w2, of_b2) = rest.split_at(neck.weight2().len());
        // `hidden` is no longer needed as a value once the ReLU's mask is known from `activated`.
        let (w2, grad_activated) = (params.range(neck.weight2()), self.hidden.view_mut());
        let (activated, grad_projected) = (self.activated.view(), self.grad_projected.view());
        let (into, scratch) = (Some(grad_activated), &mut self.scratch);
        linear_backward(gpu, &second, activated, w2, grad_projected, into, of_w2, of_b2, scratch)?;
        let grad_hidden = self.grad_hidden.reserve(self.hidden.view().len())?;
        relu_backward(gpu, activated, self.hidden.view(), grad_hidden)?;
        let (w1, grad_hidden) = (params.range(neck.weight1()), self.grad_hidden.view());
        let into = Some(self.grad_features.reserve(features.len())?);
        Ok(linear_backward(gpu, &first, features, w1, grad_hidden, into, of_w1, of_b1, scratch)?)
    }
}
