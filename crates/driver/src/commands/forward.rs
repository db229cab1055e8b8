//! `slimtau forward`: logits of one subnet.

use super::inherited::SettingArgs;
use crate::weights::{self, Of};
use anyhow::{Result, bail};
use slimtau_base::TensorFile;
use slimtau_supernet::{Layout, Plan, Session};
use std::path::PathBuf;

/// Logits of one subnet for images in a safetensors file
///
/// In evaluation mode, with the checkpoint's BN statistics as they are; or, with --bn recalibrated or a --config that says so,
/// with the subnet's own, measured on training images as `rank eval` and `export` do. The options on images are for that alone.
#[derive(clap::Args)]
pub struct Forward {
    #[command(flatten)]
    setting: SettingArgs,
    /// Weights of the supernet (safetensors)
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// The subnet's code
    #[arg(long, value_name = "CODE")]
    arch: String,
    /// Tensor `images` [N, C, H, W], f32, normalised as in training (docs/config.md)
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where tensor `logits` [N, classes] goes
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

/// Runs the command.
pub fn run(args: &Forward) -> Result<()> {
    let setting = args.setting.resolve(false)?;
    args.setting.check_for_statistics(setting.settings.bn)?;
    let space = &setting.space;
    let layout = Layout::supernet(space)?;
    let plan = Plan::subnet(space, &layout, &space.parse(&args.arch)?)?;
    let mut weights = weights::load(&layout, &args.checkpoint, Of::Supernet(space))?;
    let mut input = TensorFile::read(&args.input)?;
    let shown = args.input.display();
    let Some(images) = input.tensors.remove("images") else {
        bail!("{shown}: no tensor `images`");
    };
    let (size, channels) = (space.image_size, space.channels);
    let n = match images.shape[..] {
        [n, c, h, w] if n > 0 && (c, h, w) == (channels, size, size) => n,
        _ => bail!(
            "{shown}: `images` has shape {:?}, space {} takes [N, {channels}, {size}, {size}]",
            images.shape,
            space.name
        ),
    };
    setting.give_statistics(&plan, &mut weights)?;
    let nhwc = to_nhwc(&images.data, n, channels);
    let mut session = Session::new();
    let image = plan.image_len();
    let mut logits = Vec::with_capacity(n * space.classes);
    // Batches bound the memory, whatever the number of images.
    for batch in nhwc.chunks(64 * image) {
        logits.extend_from_slice(session.infer(&plan, &weights.params, &weights.buffers, batch)?);
    }
    let mut output = TensorFile::default();
    output.insert("logits", &[n, space.classes], logits);
    Ok(output.write(&args.output)?)
}

/// [N, C, P] -> [N, P, C].
fn to_nhwc(values: &[f32], n: usize, channels: usize) -> Vec<f32> {
    let pixels = values.len() / (n * channels);
    let mut out = Vec::with_capacity(values.len());
    for image in values.chunks_exact(channels * pixels) {
        for p in 0..pixels {
            out.extend((0..channels).map(|c| image[c * pixels + p]));
        }
    }
    out
}
