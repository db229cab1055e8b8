//! Where networks run: what a [`crate::Session`] asks of a machine, layer by layer. The order of layers, and what is kept
//! for the backward pass, is the session's; how a layer is computed and what its numbers are made of, the backend's.

mod cpu;
#[cfg(feature = "gpu")]
mod gpu;

pub use cpu::Cpu;
pub(crate) use cpu::track;
#[cfg(feature = "gpu")]
pub use gpu::{Device, DeviceImages, DeviceParams, DeviceWeights, Precision};

use crate::SupernetError;
use crate::plan::{Plan, PlannedConv};
use std::borrow::BorrowMut;
use std::ops::Range;

/// Memory that grows to the largest length asked for.
pub trait Store {
    /// What it holds, to be read.
    type View<'a>: Copy
    where
        Self: 'a;
    /// Sets the length; contents are unspecified.
    ///
    /// # Errors
    /// When there is no more memory.
    fn reserve(&mut self, len: usize) -> Result<(), SupernetError>;
    /// The contents.
    fn view(&self) -> Self::View<'_>;
}

/// Activations of a backend, to be read.
pub type MapView<'a, B> = <<B as Backend>::Map as Store>::View<'a>;
/// Numbers per channel or per image of a backend, to be read.
pub type VectorView<'a, B> = <<B as Backend>::Vector as Store>::View<'a>;

/// What follows a convolution in the same pass.
pub enum End<'a, 'r, B: Backend> {
    /// Nothing.
    Plain,
    /// `scale`, `shift`, the residual and a ReLU, as a batch norm folded in.
    Affine {
        /// Factors, one per channel.
        scale: &'a B::Vector,
        /// Terms, one per channel.
        shift: &'a B::Vector,
        /// Added before the ReLU.
        residual: Option<MapView<'r, B>>,
        /// Whether negative results become zero.
        relu: bool,
    },
}

/// A batch norm's place in a network.
pub struct NormOf<'a, B: Backend> {
    /// The convolution before it.
    pub conv: &'a PlannedConv,
    /// Scale and shift are among these.
    pub params: &'a B::Params,
    /// Its mean, one per channel.
    pub mean: &'a B::Vector,
    /// Its biased variance, one per channel.
    pub var: &'a B::Vector,
    /// Whether a ReLU follows.
    pub relu: bool,
}

impl<B: Backend> Clone for NormOf<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Backend> Copy for NormOf<'_, B> {}

/// What a convolution reads: a map as it is, or, where a backend [takes them](Backend::NORMALISES), what a norm without a
/// residual makes of it.
pub struct Read<'a, B: Backend> {
    /// The map.
    pub x: MapView<'a, B>,
    /// The norm of its channels.
    pub norm: Option<NormOf<'a, B>>,
}

impl<'a, B: Backend> Read<'a, B> {
    /// A map as it is.
    pub fn plain(x: MapView<'a, B>) -> Self {
        Self { x, norm: None }
    }
}

impl<B: Backend> Clone for Read<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Backend> Copy for Read<'_, B> {}

/// Where a norm's statistics lie among the running ones.
#[derive(Clone, Debug)]
pub struct StatisticsAt {
    /// Its mean.
    pub mean: Range<usize>,
    /// Its variance, behind the mean.
    pub var: Range<usize>,
}

impl StatisticsAt {
    /// Those of a convolution, where all subnets share them.
    pub fn of(conv: &PlannedConv) -> Self {
        Self { mean: conv.vector(&conv.slot.mean), var: conv.vector(&conv.slot.var) }
    }

    /// A mean and a variance next to each other.
    pub fn from(start: usize, channels: usize) -> Self {
        Self { mean: start..start + channels, var: start + channels..start + 2 * channels }
    }
}

/// Running statistics that move towards those of a batch.
pub struct Tracked<'a, B: Backend> {
    /// Where they are.
    pub running: &'a mut B::Running,
    /// Which of them.
    pub at: StatisticsAt,
    /// Weight of the batch.
    pub momentum: f32,
}

/// A machine that computes layers. Results do not depend on what ran before; each call's meaning is that of the function
/// of `slimtau_kernels` with its name.
pub trait Backend: Sized {
    /// Whether convolutions normalise what they read, so that maps between the convolutions of a block need not exist.
    const NORMALISES: bool = false;

    /// The flat parameters of a [`crate::Layout`].
    type Params: ?Sized + 'static;
    /// Their gradients, f32, laid out alike.
    type Grads: ?Sized;
    /// The flat running statistics, f32.
    type Running: ?Sized;
    /// Running statistics of its own making.
    type OwnRunning: BorrowMut<Self::Running>;
    /// Activations and images, [N, H, W, C]; a machine may store images with more channels.
    type Map: Store + 'static;
    /// Statistics, features, logits: f32.
    type Vector: Store + 'static;
    /// Places of a max pool's maxima.
    type Places: Store + 'static;

    /// An empty map.
    fn map(&self) -> Self::Map;
    /// An empty vector.
    fn vector(&self) -> Self::Vector;
    /// Places of no maxima.
    fn places(&self) -> Self::Places;
    /// So many running statistics, all zero.
    ///
    /// # Errors
    /// When there is no more memory.
    fn running(&self, len: usize) -> Result<Self::OwnRunning, SupernetError>;
    /// Values in a map.
    fn map_len(map: MapView<'_, Self>) -> usize;
    /// The number of images in a map.
    ///
    /// # Errors
    /// When it is empty or not a whole number of images.
    fn batch(plan: &Plan, images: MapView<'_, Self>) -> Result<usize, SupernetError> {
        plan.batch_of(Self::map_len(images))
    }

    /// `y` = end(conv(x)).
    ///
    /// # Errors
    /// As all of these: when the machine fails.
    fn conv(
        &mut self,
        conv: &PlannedConv,
        batch: usize,
        params: &Self::Params,
        x: Read<'_, Self>,
        end: End<'_, '_, Self>,
        y: &mut Self::Map,
    ) -> Result<(), SupernetError>;

    /// `y` = conv(x), with the statistics of every channel of `y`, which running ones may follow.
    fn conv_statistics(
        &mut self,
        conv: &PlannedConv,
        batch: usize,
        params: &Self::Params,
        x: Read<'_, Self>,
        y: &mut Self::Map,
        mean: &mut Self::Vector,
        var: &mut Self::Vector,
        tracked: Option<Tracked<'_, Self>>,
    ) -> Result<(), SupernetError>;

    /// The gradient of a convolution's input, written or added to what is there.
    fn conv_backward_input(
        &mut self,
        conv: &PlannedConv,
        batch: usize,
        params: &Self::Params,
        grad_y: MapView<'_, Self>,
        grad_x: &mut Self::Map,
        accumulate: bool,
    ) -> Result<(), SupernetError>;

    /// Adds the gradient of a convolution's weight.
    fn conv_backward_weight(
        &mut self,
        conv: &PlannedConv,
        batch: usize,
        x: Read<'_, Self>,
        grad_y: MapView<'_, Self>,
        grads: &mut Self::Grads,
    ) -> Result<(), SupernetError>;

    /// Running statistics as those of a norm.
    fn load_statistics(
        &mut self,
        running: &Self::Running,
        at: &StatisticsAt,
        mean: &mut Self::Vector,
        var: &mut Self::Vector,
    ) -> Result<(), SupernetError>;

    /// The norm, residual and ReLU.
    fn norm_forward(
        &mut self,
        norm: NormOf<'_, Self>,
        x: &Self::Map,
        residual: Option<MapView<'_, Self>>,
        y: &mut Self::Map,
    ) -> Result<(), SupernetError>;

    /// Their gradients, in place: `x` becomes its own, `grad` the residual's; `output` as in the kernels' function.
    fn norm_backward(
        &mut self,
        norm: NormOf<'_, Self>,
        batch_statistics: bool,
        x: &mut Self::Map,
        output: Option<&Self::Map>,
        grad: &mut Self::Map,
        grads: &mut Self::Grads,
    ) -> Result<(), SupernetError>;

    /// [`Backend::norm_backward`], and then [`Backend::conv_backward_weight`] of the convolution before the norm,
    /// which read `input`.
    fn norm_conv_backward(
        &mut self,
        norm: NormOf<'_, Self>,
        batch_statistics: bool,
        batch: usize,
        x: &mut Self::Map,
        output: Option<&Self::Map>,
        grad: &mut Self::Map,
        input: Read<'_, Self>,
        grads: &mut Self::Grads,
    ) -> Result<(), SupernetError> {
        let conv = norm.conv;
        self.norm_backward(norm, batch_statistics, x, output, grad, grads)?;
        self.conv_backward_weight(conv, batch, input, x.view(), grads)
    }

    /// A norm with running statistics as factors and terms.
    fn fold(
        &mut self,
        conv: &PlannedConv,
        params: &Self::Params,
        running: &Self::Running,
        at: &StatisticsAt,
        scale: &mut Self::Vector,
        shift: &mut Self::Vector,
    ) -> Result<(), SupernetError>;

    /// The stem's max pool; the places of the maxima are kept where asked for.
    fn max_pool_forward(
        &mut self,
        plan: &Plan,
        batch: usize,
        x: &Self::Map,
        y: &mut Self::Map,
        places: Option<&mut Self::Places>,
    ) -> Result<(), SupernetError>;

    /// Its gradient.
    fn max_pool_backward(
        &mut self,
        plan: &Plan,
        batch: usize,
        places: &Self::Places,
        grad_y: &Self::Map,
        grad_x: &mut Self::Map,
    ) -> Result<(), SupernetError>;

    /// The mean over the last map's pixels.
    fn average_pool_forward(
        &mut self,
        plan: &Plan,
        batch: usize,
        x: MapView<'_, Self>,
        features: &mut Self::Vector,
    ) -> Result<(), SupernetError>;

    /// Its gradient.
    fn average_pool_backward(
        &mut self,
        plan: &Plan,
        batch: usize,
        grad_features: VectorView<'_, Self>,
        grad_x: &mut Self::Map,
    ) -> Result<(), SupernetError>;

    /// The classifier.
    fn classify(
        &mut self,
        plan: &Plan,
        batch: usize,
        params: &Self::Params,
        features: VectorView<'_, Self>,
        logits: &mut Self::Vector,
    ) -> Result<(), SupernetError>;

    /// The classifier's gradients: its parameters' are added, the features' written.
    fn classify_backward(
        &mut self,
        plan: &Plan,
        batch: usize,
        params: &Self::Params,
        features: VectorView<'_, Self>,
        grad_logits: VectorView<'_, Self>,
        grad_features: &mut Self::Vector,
        grads: &mut Self::Grads,
    ) -> Result<(), SupernetError>;
}
