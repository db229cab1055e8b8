//! From an encoded image to pixels, as Pillow's `Image.open(file).convert("RGB")` makes them, which is what
//! torchvision's `ImageFolder` shows a network.

use image::{DynamicImage, ImageFormat, RgbImage};
use std::io::Cursor;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// A damaged header may claim any size; memory is taken for no more pixels than this (11,585 x 11,585).
const MAX_PIXELS: usize = 1 << 27;

/// Why the contents of a file are no image.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// What its first bytes name is neither JPEG nor PNG.
    #[error("neither a JPEG nor a PNG file")]
    UnknownFormat,
    /// The file ends before the image does.
    #[error("the file ends before the image does")]
    Truncated,
    /// More pixels than anyone's photographs have.
    #[error("its header claims {width} x {height} pixels, at most {MAX_PIXELS} are read")]
    TooLarge {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// The JPEG decoder's complaint.
    #[error("{0}")]
    Jpeg(DecodeErrors),
    /// The PNG decoder's complaint.
    #[error(transparent)]
    Png(#[from] image::ImageError),
}

/// Decodes a JPEG or PNG file to `[height, width, channels]` in u8, 1 (grey) or 3 (RGB) channels, and gives
/// (height, width). The contents decide on the format: ImageNet holds a PNG named `.JPEG`.
///
/// Orientation tags are not applied, four-channel JPEGs count as inverted (as Adobe writes them), 16-bit
/// values lose their low byte, palettes are looked up and alpha is dropped: all of it as Pillow does, but for 16-bit
/// greyscale, which Pillow makes all but white.
///
/// # Errors
/// When the contents are no whole image.
pub(super) fn decode(
    file: &[u8],
    channels: usize,
    pixels: &mut Vec<u8>,
) -> Result<(usize, usize), DecodeError> {
    match image::guess_format(file) {
        Ok(ImageFormat::Jpeg) => decode_jpeg(file, channels, pixels),
        Ok(ImageFormat::Png) => decode_png(file, channels, pixels),
        _ => Err(DecodeError::UnknownFormat),
    }
}

fn decode_jpeg(
    file: &[u8],
    channels: usize,
    pixels: &mut Vec<u8>,
) -> Result<(usize, usize), DecodeError> {
    if !has_end(file) {
        // The decoder would fill what is missing with grey.
        return Err(DecodeError::Truncated);
    }
    // Not strict: stray bytes between segments, which libjpeg passes over too, are no reason to refuse.
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(Cursor::new(file), options);
    decoder.decode_headers().map_err(DecodeError::Jpeg)?;
    let (width, height) = decoder.dimensions().expect("the headers were decoded");
    check_size(width, height)?;
    let grey = channels == 1 && decoder.input_colorspace() == Some(ColorSpace::Luma);
    let space = if grey { ColorSpace::Luma } else { ColorSpace::RGB };
    decoder.set_options(options.jpeg_set_out_colorspace(space));
    let n_decoded = if grey { 1 } else { 3 };
    // Where a damaged file leaves pixels undecided, nothing of an earlier image may show.
    pixels.clear();
    pixels.resize(width * height * n_decoded, 0);
    decoder.decode_into(pixels).map_err(DecodeError::Jpeg)?;
    if n_decoded != channels {
        let rgb = RgbImage::from_raw(width as u32, height as u32, std::mem::take(pixels));
        let rgb = rgb.expect("the buffer has three values per pixel");
        *pixels = DynamicImage::ImageRgb8(rgb).into_luma8().into_raw();
    }
    Ok((height, width))
}

/// Whether an end-of-image marker follows the first scan. Before it, one may stand in a thumbnail; within a
/// scan, these two bytes cannot occur.
fn has_end(jpeg: &[u8]) -> bool {
    let mut at = 2; // past the start-of-image marker
    loop {
        // To the next marker: stray bytes, then 0xFF any number of times, then its code.
        while jpeg.get(at).is_some_and(|byte| *byte != 0xFF) {
            at += 1;
        }
        while jpeg.get(at) == Some(&0xFF) {
            at += 1;
        }
        match jpeg.get(at) {
            None => return false,
            Some(0xDA) => break,
            // Stray: 0xFF00, restart and temporary markers have no length.
            Some(0x00 | 0x01 | 0xD0..=0xD9) => at += 1,
            Some(_) => {
                let Some(&[high, low]) = jpeg.get(at + 1..at + 3) else { return false };
                at += 1 + usize::from(u16::from_be_bytes([high, low]));
            }
        }
    }
    jpeg[at..].windows(2).rev().any(|pair| pair == [0xFF, 0xD9])
}

fn decode_png(
    file: &[u8],
    channels: usize,
    pixels: &mut Vec<u8>,
) -> Result<(usize, usize), DecodeError> {
    let reader = || image::ImageReader::with_format(Cursor::new(file), ImageFormat::Png);
    let (width, height) = reader().into_dimensions()?;
    check_size(width as usize, height as usize)?;
    let mut reader = reader();
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(8 * MAX_PIXELS as u64); // four 16-bit values each
    reader.limits(limits);
    let decoded = match reader.decode()? {
        // Pillow takes the high byte; rounding would give the next value half of the time.
        DynamicImage::ImageLuma16(image) => DynamicImage::ImageLuma8(high_bytes(&image)),
        DynamicImage::ImageLumaA16(image) => DynamicImage::ImageLumaA8(high_bytes(&image)),
        DynamicImage::ImageRgb16(image) => DynamicImage::ImageRgb8(high_bytes(&image)),
        DynamicImage::ImageRgba16(image) => DynamicImage::ImageRgba8(high_bytes(&image)),
        image => image,
    };
    let (height, width) = (height as usize, width as usize);
    *pixels = match channels {
        1 => decoded.into_luma8().into_raw(),
        _ => decoded.into_rgb8().into_raw(),
    };
    Ok((height, width))
}

/// A 16-bit image's high bytes.
fn high_bytes<Wide, Narrow>(
    image: &image::ImageBuffer<Wide, Vec<u16>>,
) -> image::ImageBuffer<Narrow, Vec<u8>>
where
    Wide: image::Pixel<Subpixel = u16>,
    Narrow: image::Pixel<Subpixel = u8>,
{
    let bytes = image.as_raw().iter().map(|value| (value >> 8) as u8).collect();
    image::ImageBuffer::from_raw(image.width(), image.height(), bytes)
        .expect("both pixels have the same channels")
}

fn check_size(width: usize, height: usize) -> Result<(), DecodeError> {
    if width * height > MAX_PIXELS {
        return Err(DecodeError::TooLarge { width, height });
    }
    Ok(())
}
