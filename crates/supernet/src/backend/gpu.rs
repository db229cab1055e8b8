//! Networks on an NVIDIA GPU: the kernels over its memory. Activations and the weights that meet them are f32, or bf16 with
//! parameters, gradients, statistics, features and the classifier in f32.

use super::{Backend, End, MapView, NormOf, Read, StatisticsAt, Store, Tracked, VectorView};
use crate::plan::{Plan, PlannedConv};
use crate::session::{linear_shape, pool_shape};
use crate::{SupernetError, Weights};
use half::bf16;
use slimtau_kernels::gpu::{
    Activation, Buffer, Element, Epilogue, Gpu, Norm, Running, View, ViewMut,
    average_pool_backward, average_pool_forward, conv_backward_input, conv_backward_weight,
    conv_forward, conv_forward_statistics, convert, fold, linear_backward, linear_forward,
    max_pool_backward, max_pool_forward, norm_backward, norm_forward, store_images,
    stored_channels,
};
use std::marker::PhantomData;
use std::ops::Range;

/// What activations are made of: f32, or bf16, of which the weights then have a copy.
pub trait Precision: Activation {
    /// The weights as convolutions read them.
    #[doc(hidden)]
    fn operand(params: &DeviceParams<Self>) -> View<'_, Self>;
}

impl Precision for f32 {
    fn operand(params: &DeviceParams<f32>) -> View<'_, f32> {
        params.values.view()
    }
}

impl Precision for bf16 {
    fn operand(params: &DeviceParams<bf16>) -> View<'_, bf16> {
        params.copy.view()
    }
}

/// The flat parameters of a [`crate::Layout`] on a GPU.
pub struct DeviceParams<T: Precision> {
    values: Buffer<f32>,
    /// The same as bf16; empty where `T` is f32.
    copy: Buffer<bf16>,
    precision: PhantomData<T>,
}

impl<T: Precision> DeviceParams<T> {
    /// A copy of parameters in main memory.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn new(gpu: &Gpu, values: &[f32]) -> Result<Self, SupernetError> {
        let values = Buffer::from_slice(gpu, values)?;
        let mut copy = Buffer::new(gpu);
        if size_of::<T>() == size_of::<bf16>() {
            convert(gpu, values.view(), copy.reserve(values.view().len())?)?;
        }
        Ok(Self { values, copy, precision: PhantomData })
    }

    /// The values, f32.
    pub fn values(&self) -> View<'_, f32> {
        self.values.view()
    }

    /// The values and, where `T` is bf16, their copy: whoever changes the one writes the other.
    pub fn both_mut(&mut self) -> (ViewMut<'_, f32>, Option<ViewMut<'_, bf16>>) {
        let copied = !self.copy.view().is_empty();
        (self.values.view_mut(), copied.then(|| self.copy.view_mut()))
    }
}

/// Parameters and running statistics on a GPU.
pub struct DeviceWeights<T: Precision> {
    /// As [`Weights::params`].
    pub params: DeviceParams<T>,
    /// As [`Weights::buffers`].
    pub buffers: Buffer<f32>,
}

impl<T: Precision> DeviceWeights<T> {
    /// A copy of weights in main memory.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn new(gpu: &Gpu, weights: &Weights) -> Result<Self, SupernetError> {
        let params = DeviceParams::new(gpu, &weights.params)?;
        Ok(Self { params, buffers: Buffer::from_slice(gpu, &weights.buffers)? })
    }

    /// A copy in main memory, once all work before is done.
    ///
    /// # Errors
    /// When some of that failed.
    pub fn to_host(&self) -> Result<Weights, SupernetError> {
        Ok(Weights { params: self.params.values().to_vec()?, buffers: self.buffers.to_vec()? })
    }
}

/// Images on a GPU as its networks read them: [N, H, W, C] of `T`, with channels of zeros up to 16 bytes a pixel.
pub struct DeviceImages<T: Precision> {
    gpu: Gpu,
    uploaded: Buffer<f32>,
    stored: Buffer<T>,
}

impl<T: Precision> DeviceImages<T> {
    /// No images.
    pub fn new(gpu: &Gpu) -> Self {
        Self { gpu: gpu.clone(), uploaded: Buffer::new(gpu), stored: Buffer::new(gpu) }
    }

    /// Becomes these images [N, H, W, `channels`].
    ///
    /// # Errors
    /// When they do not fit.
    ///
    /// # Panics
    /// When they are not whole pixels.
    pub fn load(&mut self, channels: usize, images: &[f32]) -> Result<(), SupernetError> {
        self.uploaded.upload(images)?;
        let stored =
            self.stored.reserve(images.len() / channels * stored_channels::<T>(channels))?;
        Ok(store_images(&self.gpu, channels, self.uploaded.view(), stored)?)
    }

    /// All of them.
    pub fn view(&self) -> View<'_, T> {
        self.stored.view()
    }

    /// Values that an image of a network is stored as.
    pub fn image_len(plan: &Plan) -> usize {
        let channels = plan.network().channels;
        plan.image_len() / channels * stored_channels::<T>(channels)
    }
}

/// An NVIDIA GPU with activations of `T`; images are those of [`DeviceImages`].
pub struct Device<T: Precision> {
    gpu: Gpu,
    scratch: Buffer<f32>,
    precision: PhantomData<T>,
}

impl<T: Precision> Device<T> {
    /// A backend on a GPU.
    pub fn new(gpu: &Gpu) -> Self {
        Self { gpu: gpu.clone(), scratch: Buffer::new(gpu), precision: PhantomData }
    }
}

impl<T: Element> Store for Buffer<T> {
    type View<'a> = View<'a, T>;

    fn reserve(&mut self, len: usize) -> Result<(), SupernetError> {
        Buffer::reserve(self, len)?;
        Ok(())
    }

    fn view(&self) -> View<'_, T> {
        Buffer::view(self)
    }
}

impl<T: Precision> Backend for Device<T> {
    type Params = DeviceParams<T>;
    type Grads = Buffer<f32>;
    type Running = Buffer<f32>;
    type OwnRunning = Buffer<f32>;
    type Map = Buffer<T>;
    type Vector = Buffer<f32>;
    type Places = Buffer<u8>;

    fn map(&self) -> Buffer<T> {
        Buffer::new(&self.gpu)
    }

    fn vector(&self) -> Buffer<f32> {
        Buffer::new(&self.gpu)
    }

    fn places(&self) -> Buffer<u8> {
        Buffer::new(&self.gpu)
    }

    fn running(&self, len: usize) -> Result<Buffer<f32>, SupernetError> {
        Ok(Buffer::zeros(&self.gpu, len)?)
    }

    fn map_len(map: View<'_, T>) -> usize {
        map.len()
    }

    fn batch(plan: &Plan, images: View<'_, T>) -> Result<usize, SupernetError> {
        let image = DeviceImages::<T>::image_len(plan);
        if images.is_empty() || !images.len().is_multiple_of(image) {
            let (size, channels) = (plan.network().image_size, plan.network().channels);
            let channels = stored_channels::<T>(channels);
            return Err(SupernetError::Images { size, channels, got: images.len() });
        }
        Ok(images.len() / image)
    }

    fn conv(
        &mut self,
        conv: &PlannedConv,
        batch: usize,
        params: &DeviceParams<T>,
        x: Read<'_, Self>,
        end: End<'_, '_, Self>,
        y: &mut Buffer<T>,
    ) -> Result<(), SupernetError> {
        let epilogue = match end {
            End::Plain => Epilogue::None,
            End::Affine { scale, shift, residual, relu } => {
                Epilogue::Affine { scale: scale.view(), shift: shift.view(), residual, relu }
            }
        };
        let (shape, weight) = (conv.shape(batch), weight(conv, params));
        Ok(conv_forward(&self.gpu, &shape, plain(x), weight, y.view_mut(), epilogue)?)
    }

    fn conv_statistics(
        &mut self,
        conv: &PlannedConv,
        batch: usize,
        params: &DeviceParams<T>,
        x: Read<'_, Self>,
        y: &mut Buffer<T>,
        mean: &mut Buffer<f32>,
        var: &mut Buffer<f32>,
        tracked: Option<Tracked<'_, Self>>,
    ) -> Result<(), SupernetError> {
        let (shape, weight) = (conv.shape(batch), weight(conv, params));
        let running = tracked.map(|Tracked { running, at, momentum }| {
            let (mean, var) = pair_mut(running, at.mean, at.var);
            Running { mean, var, momentum }
        });
        Ok(conv_forward_statistics(
            &self.gpu,
            &shape,
            plain(x),
            weight,
            y.view_mut(),
            mean.view_mut(),
            var.view_mut(),
            running,
            &mut self.scratch,
        )?)
    }

    fn conv_backward_input(
        &mut self,
        conv: &PlannedConv,
        batch: usize,
        params: &DeviceParams<T>,
        grad_y: MapView<'_, Self>,
        grad_x: &mut Buffer<T>,
        accumulate: bool,
    ) -> Result<(), SupernetError> {
        let (shape, weight) = (conv.shape(batch), weight(conv, params));
        let into = grad_x.view_mut();
        Ok(conv_backward_input(&self.gpu, &shape, grad_y, weight, into, accumulate)?)
    }

    fn conv_backward_weight(
        &mut self,
        conv: &PlannedConv,
        batch: usize,
        x: Read<'_, Self>,
        grad_y: MapView<'_, Self>,
        grads: &mut Buffer<f32>,
    ) -> Result<(), SupernetError> {
        let into = grads.view_mut().range(conv.slot.weight.clone());
        let shape = conv.shape(batch);
        Ok(conv_backward_weight(&self.gpu, &shape, plain(x), grad_y, into, &mut self.scratch)?)
    }

    fn load_statistics(
        &mut self,
        running: &Buffer<f32>,
        at: &StatisticsAt,
        mean: &mut Buffer<f32>,
        var: &mut Buffer<f32>,
    ) -> Result<(), SupernetError> {
        mean.view_mut().copy_from(running.view().range(at.mean.clone()))?;
        Ok(var.view_mut().copy_from(running.view().range(at.var.clone()))?)
    }

    fn norm_forward(
        &mut self,
        norm: NormOf<'_, Self>,
        x: &Buffer<T>,
        residual: Option<MapView<'_, Self>>,
        y: &mut Buffer<T>,
    ) -> Result<(), SupernetError> {
        Ok(norm_forward(&self.gpu, &views(norm), x.view(), residual, y.view_mut())?)
    }

    fn norm_backward(
        &mut self,
        norm: NormOf<'_, Self>,
        batch_statistics: bool,
        x: &mut Buffer<T>,
        output: Option<&Buffer<T>>,
        grad: &mut Buffer<T>,
        grads: &mut Buffer<f32>,
    ) -> Result<(), SupernetError> {
        let (conv, slot) = (norm.conv, &norm.conv.slot);
        let (grad_gamma, grad_beta) =
            pair_mut(grads, conv.vector(&slot.gamma), conv.vector(&slot.beta));
        Ok(norm_backward(
            &self.gpu,
            &views(norm),
            batch_statistics,
            x.view_mut(),
            output.map(Buffer::view),
            grad.view_mut(),
            grad_gamma,
            grad_beta,
            &mut self.scratch,
        )?)
    }

    fn fold(
        &mut self,
        conv: &PlannedConv,
        params: &DeviceParams<T>,
        running: &Buffer<f32>,
        at: &StatisticsAt,
        scale: &mut Buffer<f32>,
        shift: &mut Buffer<f32>,
    ) -> Result<(), SupernetError> {
        let (slot, values) = (&conv.slot, params.values());
        let norm = Norm {
            channels: conv.out_channels,
            mean: running.view().range(at.mean.clone()),
            var: running.view().range(at.var.clone()),
            gamma: values.range(conv.vector(&slot.gamma)),
            beta: values.range(conv.vector(&slot.beta)),
            relu: false,
        };
        Ok(fold(&self.gpu, &norm, scale.view_mut(), shift.view_mut())?)
    }

    fn max_pool_forward(
        &mut self,
        plan: &Plan,
        batch: usize,
        x: &Buffer<T>,
        y: &mut Buffer<T>,
        places: Option<&mut Buffer<u8>>,
    ) -> Result<(), SupernetError> {
        let (shape, places) = (pool_shape(plan, batch), places.map(Buffer::view_mut));
        Ok(max_pool_forward(&self.gpu, &shape, x.view(), y.view_mut(), places)?)
    }

    fn max_pool_backward(
        &mut self,
        plan: &Plan,
        batch: usize,
        places: &Buffer<u8>,
        grad_y: &Buffer<T>,
        grad_x: &mut Buffer<T>,
    ) -> Result<(), SupernetError> {
        let (shape, into) = (pool_shape(plan, batch), grad_x.view_mut());
        Ok(max_pool_backward(&self.gpu, &shape, places.view(), grad_y.view(), into)?)
    }

    fn average_pool_forward(
        &mut self,
        plan: &Plan,
        batch: usize,
        x: MapView<'_, Self>,
        features: &mut Buffer<f32>,
    ) -> Result<(), SupernetError> {
        let (pixels, channels) = (plan.last_pixels(), plan.features());
        Ok(average_pool_forward(&self.gpu, batch, pixels, channels, x, features.view_mut())?)
    }

    fn average_pool_backward(
        &mut self,
        plan: &Plan,
        batch: usize,
        grad_features: VectorView<'_, Self>,
        grad_x: &mut Buffer<T>,
    ) -> Result<(), SupernetError> {
        let (pixels, channels, into) = (plan.last_pixels(), plan.features(), grad_x.view_mut());
        Ok(average_pool_backward(&self.gpu, batch, pixels, channels, grad_features, into)?)
    }

    fn classify(
        &mut self,
        plan: &Plan,
        batch: usize,
        params: &DeviceParams<T>,
        features: VectorView<'_, Self>,
        logits: &mut Buffer<f32>,
    ) -> Result<(), SupernetError> {
        let values = params.values();
        let weight = values.range(plan.fc_weight.clone());
        let bias = values.range(plan.fc_bias.clone());
        let shape = linear_shape(plan, batch);
        Ok(linear_forward(&self.gpu, &shape, features, weight, bias, logits.view_mut())?)
    }

    fn classify_backward(
        &mut self,
        plan: &Plan,
        batch: usize,
        params: &DeviceParams<T>,
        features: VectorView<'_, Self>,
        grad_logits: VectorView<'_, Self>,
        grad_features: &mut Buffer<f32>,
        grads: &mut Buffer<f32>,
    ) -> Result<(), SupernetError> {
        let (grad_weight, grad_bias) =
            pair_mut(grads, plan.fc_weight.clone(), plan.fc_bias.clone());
        Ok(linear_backward(
            &self.gpu,
            &linear_shape(plan, batch),
            features,
            params.values().range(plan.fc_weight.clone()),
            grad_logits,
            Some(grad_features.view_mut()),
            grad_weight,
            grad_bias,
            &mut self.scratch,
        )?)
    }
}

fn weight<'a, T: Precision>(conv: &PlannedConv, params: &'a DeviceParams<T>) -> View<'a, T> {
    T::operand(params).range(conv.slot.weight.clone())
}

fn views<'a, T: Precision>(norm: NormOf<'a, Device<T>>) -> Norm<'a> {
    let NormOf { conv, params, mean, var, relu } = norm;
    let values = params.values();
    Norm {
        channels: conv.out_channels,
        mean: mean.view(),
        var: var.view(),
        gamma: values.range(conv.vector(&conv.slot.gamma)),
        beta: values.range(conv.vector(&conv.slot.beta)),
        relu,
    }
}

/// Two disjoint ranges of one buffer, the first before the second.
fn pair_mut(
    values: &mut Buffer<f32>,
    first: Range<usize>,
    second: Range<usize>,
) -> (ViewMut<'_, f32>, ViewMut<'_, f32>) {
    let (head, tail) = values.view_mut().split_at(second.start);
    (head.range(first), tail.range(0..second.len()))
}

/// The map that a convolution reads; nothing is normalised there ([`Backend::NORMALISES`]).
fn plain<'a, T: Precision>(read: Read<'a, Device<T>>) -> MapView<'a, Device<T>> {
    assert!(read.norm.is_none(), "a GPU's convolutions read maps as they are");
    read.x
}
