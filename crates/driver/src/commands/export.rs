//! `slimtau export`: one subnet as a network of its own.

use super::inherited::SettingArgs;
use crate::weights::{self, Of};
use anyhow::{Result, bail, ensure};
use slimtau_supernet::{BnMode, Layout, OnnxNorms, Plan};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Write one subnet as a network of its own, for PyTorch or ONNX runtimes
///
/// The ending of --output decides what for. FILE.safetensors is for PyTorch: the plain model's `load_state_dict` takes
/// its tensors as they are. FILE.onnx is for any ONNX runtime (opset 13): `images` [N, C, H, W] f32 in, `logits`
/// [N, classes] out, for any number N of images. Both take images normalised as in training.
///
/// Batch norm needs statistics. Those in the checkpoint are shared by all subnets; where the supernet was trained with
/// bn = "recalibrated" they belong to none, and --bn recalibrated measures the subnet's own on training images, as
/// `rank eval` does before it evaluates; the options on images are for that alone. With --standalone, --bn says so and not
/// --config: a network trained alone has statistics of its own.
#[derive(clap::Args)]
pub struct Export {
    #[command(flatten)]
    setting: SettingArgs,
    /// Weights of the supernet (safetensors)
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// The subnet's code
    #[arg(long, value_name = "CODE")]
    arch: String,
    /// Where the network goes: FILE.safetensors or FILE.onnx
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// The checkpoint is of this one network, trained alone, not of a supernet
    #[arg(long)]
    standalone: bool,
    /// ONNX: leave batch norm as operators of its own instead of folding it into the convolutions
    #[arg(long)]
    keep_norms: bool,
}

/// What the output is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Safetensors,
    Onnx,
}

impl Format {
    fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("safetensors") => Ok(Self::Safetensors),
            Some("onnx") => Ok(Self::Onnx),
            _ => bail!(
                "--output {}: the name has to end in .safetensors (for PyTorch) or .onnx (for ONNX runtimes)",
                path.display()
            ),
        }
    }
}

/// Runs the command.
pub fn run(args: &Export) -> Result<()> {
    let format = Format::of(&args.output)?;
    let setting = args.setting.resolve(args.standalone)?;
    check(args, format, setting.settings.bn)?;
    let space = &setting.space;
    let arch = space.parse(&args.arch)?;
    let (layout, plan) = if args.standalone {
        let network = space.resolve(&arch)?;
        let layout = Layout::standalone(&network);
        let plan = Plan::new(&network, &layout)?;
        (layout, plan)
    } else {
        let layout = Layout::supernet(space)?;
        let plan = Plan::subnet(space, &layout, &arch)?;
        (layout, plan)
    };
    let of = match args.standalone {
        true => Of::Standalone(space, &args.arch),
        false => Of::Supernet(space),
    };
    let mut weights = weights::load(&layout, &args.checkpoint, of)?;
    let statistics = setting.give_statistics(&plan, &mut weights)?;

    let network = plan.network();
    let (params, macs) = (network.params(), network.macs());
    let metadata = BTreeMap::from([
        ("code".to_owned(), space.encode(&arch)),
        ("space".to_owned(), space.name.clone()),
        ("params".to_owned(), params.to_string()),
        ("macs".to_owned(), macs.to_string()),
        ("bn_statistics".to_owned(), statistics.clone()),
    ]);
    match format {
        Format::Safetensors => {
            let own = Layout::standalone(network);
            let mut file = weights.extract(&plan, &own).to_file(&own);
            file.meta = metadata;
            file.write(&args.output)?;
        }
        Format::Onnx => {
            let norms = if args.keep_norms { OnnxNorms::Kept } else { OnnxNorms::Folded };
            weights.save_onnx(&plan, norms, &metadata, &args.output)?;
        }
    }

    let shown = args.output.display();
    let mib = std::fs::metadata(&args.output)?.len() as f64 / f64::from(1 << 20);
    let (side, channels) = (network.image_size, network.channels);
    let mut out = std::io::stdout().lock();
    writeln!(out, "{shown}: {params} parameters, {macs} MACs at {side}x{side}, {mib:.2} MiB")?;
    writeln!(out, "BN statistics: {statistics}")?;
    match format {
        Format::Safetensors => writeln!(
            out,
            "In PyTorch: model.load_state_dict(safetensors.torch.load_file({:?}))",
            args.output
        )?,
        Format::Onnx => writeln!(
            out,
            "In Python: onnxruntime.InferenceSession({:?}).run([\"logits\"], {{\"images\": x}}), x float32 [N, {channels}, {side}, {side}]",
            args.output
        )?,
    }
    Ok(())
}

/// Refuses options that would have no effect, and an output that would replace its own source.
fn check(args: &Export, format: Format, bn: BnMode) -> Result<()> {
    args.setting.check_for_statistics(bn)?;
    ensure!(
        !args.keep_norms || format == Format::Onnx,
        "--keep-norms: for .onnx only; a .safetensors file always has batch norm by itself"
    );
    let same = match (args.output.canonicalize(), args.checkpoint.canonicalize()) {
        (Ok(output), Ok(checkpoint)) => output == checkpoint,
        _ => false,
    };
    ensure!(
        !same,
        "--output {}: is the checkpoint itself, which it would replace",
        args.output.display()
    );
    Ok(())
}
