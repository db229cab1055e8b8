//! The losses of both training stages and the small element-wise operations of the contrastive head.

mod cross_entropy;
mod exponential;
mod info_nce;
mod normalize;

pub use cross_entropy::{Target, cross_entropy, softmax};
pub use info_nce::info_nce;
pub use normalize::{l2_normalize, l2_normalize_backward, relu_backward, relu_forward};
