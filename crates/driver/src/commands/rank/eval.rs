//! `slimtau rank eval` and `rank merge`: inherited accuracies of long lists.

use super::log::{Contents, Evaluation, Log};
use crate::SpaceArg;
use crate::commands::{Listed, read_tied_codes};
use crate::config::Corrupt;
use crate::pipeline::{CHUNK, Evaluator, Shard, Tally, open_data, percent};
use crate::progress::Bar;
use anyhow::{Result, bail, ensure};
use slimtau_data::{Dataset, EvalCrop};
use slimtau_kernels::conv::Isa;
use slimtau_ranking::{Score, write_competition_json};
use slimtau_space::{Arch, SearchSpace};
use slimtau_supernet::{BnMode, Layout, Weights};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a kill may lose, besides the batch in progress and the measurement of BN statistics.
const LOG_EVERY: Duration = Duration::from_secs(20);

/// What to evaluate, and how.
#[derive(clap::Args)]
pub struct Eval {
    #[command(flatten)]
    space: SpaceArg,
    /// Weights of the supernet (safetensors)
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// Codes separated by commas or white space; `-` = standard input
    #[arg(long, value_name = "FILE")]
    codes: PathBuf,
    /// `embedded`, `auto`, or a folder
    #[arg(long, default_value = "embedded", value_name = "SOURCE")]
    data: String,
    /// Side of the centre crop in shorter sides of the resized image, for images of other sizes than the space's
    #[arg(long, default_value_t = 0.875, value_name = "SHARE")]
    crop_fraction: f32,
    /// What happens to image files that cannot be decoded
    #[arg(long, value_enum, default_value_t)]
    corrupt: Corrupt,
    /// Where the JSON goes. Until all is done, results are in FILE.partial
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// tracked, frozen (both: the checkpoint's statistics) or recalibrated per subnet
    #[arg(long, default_value_t = BnMode::Tracked)]
    bn: BnMode,
    /// Training batches that statistics are measured on
    #[arg(long, default_value_t = 8)]
    recalibration_batches: usize,
    /// Images per batch; memory grows with it: the maps of one batch in every block of a subnet
    #[arg(long, default_value_t = 250)]
    batch: usize,
    /// Only the I-th of N parts of the list, as I/N. FILE then is what `rank merge` joins
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
}

/// Parts of a list and where the whole goes.
#[derive(clap::Args)]
pub struct Merge {
    #[command(flatten)]
    space: SpaceArg,
    /// The whole list of codes; the result is in its order
    #[arg(long, value_name = "FILE")]
    codes: PathBuf,
    /// Where the JSON goes
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// What `rank eval --shard` has written
    #[arg(value_name = "PART", required = true)]
    parts: Vec<PathBuf>,
}

/// Evaluates a list.
pub fn run(args: &Eval) -> Result<()> {
    ensure!(args.batch >= 1, "--batch 0: at least one image");
    ensure!(args.recalibration_batches >= 1, "--recalibration-batches 0: at least one");
    let space = args.space.load()?;
    let layout = Layout::supernet(&space)?;
    // All codes are checked before the first long computation.
    let listed = read_tied_codes(&args.codes, &space)?;
    let archs: Vec<Arch> = listed.iter().map(|listed| listed.arch.clone()).collect();
    let weights = Weights::load(&layout, &args.checkpoint)?;
    let data = open_data(&args.data, args.corrupt, &space)?;
    let crop = EvalCrop { crop_fraction: args.crop_fraction };
    let (bn, batches) = (args.bn, args.recalibration_batches);
    let mut evaluator = Evaluator::new(&space, layout, &data, crop, bn, args.batch, batches)?;

    // A shard is a run of the order in which neighbours share the most.
    let order = evaluator.order(&archs)?;
    let own = match args.shard {
        None => &order[..],
        Some(shard) => {
            let own = &order[shard.range(order.len())];
            ensure!(!own.is_empty(), "--shard {shard}: the list has only {} codes", order.len());
            own
        }
    };
    let evaluation = Evaluation {
        checkpoint: hash(weights.params.iter().chain(&weights.buffers)),
        space: format!("{}, {}", space.name, blake3::hash(space.to_toml().as_bytes()).to_hex()),
        training: data.train.describe(),
        validation: described(&*data.validation, crop),
        images: evaluator.images(),
        bn: bn.to_string(),
        recalibration_batches: (bn == BnMode::Recalibrated).then_some(batches),
        batch: args.batch,
        instruction_set: Isa::best().name().to_owned(),
    };
    let path = match args.shard {
        None => with_ending(&args.output, ".partial"),
        Some(_) => args.output.clone(),
    };
    let mut log = Log::open(&path, &evaluation)?;
    let short = |place: usize| space.encode(&archs[place]);
    let missing: Vec<usize> =
        own.iter().copied().filter(|place| log.get(&short(*place)).is_none()).collect();
    let bar = Bar::new("rank eval", own.len() as u64);
    if missing.len() < own.len() {
        bar.skip((own.len() - missing.len()) as u64);
    }
    for chunk in missing.chunks(CHUNK) {
        let subnets: Vec<&Arch> = chunk.iter().map(|place| &archs[*place]).collect();
        let codes: Vec<String> = chunk.iter().map(|place| short(*place)).collect();
        let tally = log.tally(&codes);
        let mut written = Instant::now();
        let mut keep = |tally: &Tally| -> Result<bool> {
            if written.elapsed() >= LOG_EVERY && tally.batches > 0 {
                log.add_tally(&codes, tally)?;
                written = Instant::now();
            }
            Ok(true)
        };
        let right = evaluator.count_right(&weights, &subnets, tally, &bar, &mut keep)?;
        log.add(&codes, &right.expect("it is never told to stop"))?;
    }
    bar.finish();
    if let Some(shard) = args.shard {
        let (n, output) = (own.len(), args.output.display());
        eprintln!("part {shard}, {n} codes, is in {output}; `slimtau rank merge` joins the parts");
        return Ok(());
    }
    let scores = scores(&space, &listed, evaluator.images(), |code| log.get(code));
    write_competition_json(&args.output, &scores.expect("every code was evaluated"))?;
    log.remove();
    eprintln!("{} accuracies in {}", listed.len(), args.output.display());
    Ok(())
}

/// The validation images and how they are cropped; an unusual crop alone needs words.
fn described(validation: &dyn Dataset, crop: EvalCrop) -> String {
    let text = validation.describe();
    if crop == EvalCrop::default() {
        return text;
    }
    format!("{text}, crop fraction {}", crop.crop_fraction)
}

/// Joins the parts of a list.
pub fn merge(args: &Merge) -> Result<()> {
    let space = args.space.load()?;
    let listed = read_tied_codes(&args.codes, &space)?;
    let mut whole: Option<(Contents, &Path)> = None;
    for part in &args.parts {
        let contents = Contents::read(part)?;
        let shown = part.display();
        let Some((whole, first)) = &mut whole else {
            whole = Some((contents, part));
            continue;
        };
        let instruction_set = whole.evaluation.instruction_set.clone();
        if instruction_set != contents.evaluation.instruction_set {
            let other = &contents.evaluation.instruction_set;
            eprintln!(
                "{shown}: made with {other}, {} with {instruction_set}; they round differently, which may cost an image",
                first.display()
            );
        }
        let same = Evaluation { instruction_set, ..contents.evaluation };
        if let Some(what) = whole.evaluation.difference(&same) {
            bail!("{shown}: is of another evaluation than {}: {what}", first.display());
        }
        for (code, right) in contents.right {
            if let Some(other) = whole.right.insert(code.clone(), right)
                && other != right
            {
                bail!("{shown}: {code} has {right} right answers, in an earlier part {other}");
            }
        }
    }
    let (whole, _) = whole.expect("at least one part, or there is no command");
    let list = args.codes.display();
    let known: BTreeSet<String> = listed.iter().map(|listed| space.encode(&listed.arch)).collect();
    if let Some(code) = whole.right.keys().find(|code| !known.contains(*code)) {
        bail!("{list}: lacks {code}, which is in the parts");
    }
    let right = |code: &str| whole.right.get(code).copied();
    let scores = match scores(&space, &listed, whole.evaluation.images, right) {
        Ok(scores) => scores,
        Err(code) => {
            let missing = known.len() - whole.right.len();
            bail!(
                "{list}: {missing} of {} codes are in none of the parts, such as {code}",
                known.len()
            );
        }
    };
    write_competition_json(&args.output, &scores)?;
    eprintln!("{} accuracies in {}", scores.len(), args.output.display());
    Ok(())
}

/// The listed codes with their accuracies; `Err` holds the first without one.
fn scores(
    space: &SearchSpace,
    listed: &[Listed],
    images: usize,
    right: impl Fn(&str) -> Option<usize>,
) -> Result<Vec<Score>, String> {
    let score = |Listed { code, arch, .. }: &Listed| {
        let right = right(&space.encode(arch)).ok_or_else(|| code.clone())?;
        Ok(Score { code: code.clone(), accuracy: percent(right, images) })
    };
    listed.iter().map(score).collect()
}

/// A hash of numbers.
fn hash<'a>(values: impl Iterator<Item = &'a f32>) -> String {
    let mut hasher = blake3::Hasher::new();
    values.for_each(|value| {
        hasher.update(&value.to_le_bytes());
    });
    hasher.finalize().to_hex().to_string()
}

/// A path with more at its end.
fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}
