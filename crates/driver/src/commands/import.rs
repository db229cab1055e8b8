//! `slimtau import`: weights of other programs as a checkpoint.

use crate::SpaceArg;
use crate::weights;
use anyhow::Result;
use slimtau_supernet::{Layout, reorder_middle_channels};
use std::path::PathBuf;

/// What `slimtau import --help` says beyond the options.
const FORMATS: &str = "\
Formats: the competition's .pdparams (Paddle's), PyTorch's .pth and .pt of version 1.6 or later, and safetensors. The contents decide, \
not the name. Nothing in a file is run: what is no array, tensor or plain dictionary is refused by name.

Names: the competition's (blocks.0.conv.weight, ...) or torchvision's (conv1.weight, layer1.0.conv1.weight, ...), with or without \
`_layers.`, `model.` or `module.` before them and `fn.` in them; at the top of the file or under \"state_dict\", \"model\" or \
\"model_state_dict\". There must be all tensors of the space's largest network, at its widths.

Values: float32 is kept bit for bit; float16, bfloat16 and float64 are converted to it.

Example: slimtau import --space cvpr2022 --input resnet48.pdparams --output resnet48.safetensors";

/// Weights of the space's largest network, from a file of another program, as a checkpoint.
#[derive(clap::Args)]
#[command(after_long_help = FORMATS)]
pub struct Import {
    #[command(flatten)]
    space: SpaceArg,
    /// The file to read
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where the checkpoint (safetensors) goes
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Sort the channels inside each block by the L1 norm of the next convolution's weights, largest
    /// first, so that subnets keep those that matter most; the largest network computes the same
    #[arg(long)]
    reorder: bool,
}

/// Runs the command.
pub fn run(args: &Import) -> Result<()> {
    let space = args.space.load()?;
    let layout = Layout::supernet(&space)?;
    let mut imported = weights::import(&layout, &args.input, "--space", &space)?;
    if args.reorder {
        reorder_middle_channels(&layout, &mut imported.weights);
    }
    imported.weights.save(&layout, &args.output)?;
    println!("{}", imported.report);
    if args.reorder {
        println!("sorted:  the channels inside every block");
    }
    println!("wrote:   {}", args.output.display());
    Ok(())
}
