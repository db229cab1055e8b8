//! Image transforms: u8 pixels of any shape in, square f32 images in \[0, 1\] out. Each is a pure
//! function of its input and of the random stream it is given.

mod augment;
mod blur;
mod colour;
mod resize;

pub use augment::{CropFlip, EvalCrop, MocoViews, ResizedCropFlip};
pub use blur::gaussian_blur;
pub use colour::{
    ColourJitter, adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation, greyscale,
};
pub use resize::{CropBox, Pixels, flip_horizontal, random_crop_box, resize};

pub(crate) use resize::Taps;

use rand::RngExt;
use slimtau_base::Stream;

/// A draw from \[lo, hi).
fn uniform(rng: &mut Stream, (lo, hi): (f32, f32)) -> f32 {
    lo + (hi - lo) * rng.random::<f32>()
}

/// True with probability `p`; draws once whatever `p` is.
fn chance(rng: &mut Stream, p: f32) -> bool {
    rng.random::<f32>() < p
}
