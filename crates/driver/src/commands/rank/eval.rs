//! `slimtau rank eval` and `rank merge`: inherited accuracies of long lists.

use super::log::Log;
use crate::SpaceArg;
use crate::commands::read_codes;
use crate::pipeline::{CHUNK, Evaluator, Shard, open_data};
use crate::progress::Bar;
use anyhow::{Result, bail, ensure};
use slimtau_base::{read_bytes, read_text};
use slimtau_ranking::{Score, Scores, write_competition_json};
use slimtau_space::Arch;
use slimtau_supernet::{BnMode, Layout, Weights};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

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
    /// Where the JSON goes. Until all is done, results are in FILE.partial, and the same command goes on from there
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// tracked, frozen (both: the checkpoint's statistics) or recalibrated per subnet
    #[arg(long, default_value_t = BnMode::Tracked)]
    bn: BnMode,
    /// Training batches that statistics are measured on
    #[arg(long, default_value_t = 8)]
    recalibration_batches: usize,
    /// Images per batch
    #[arg(long, default_value_t = 250)]
    batch: usize,
    /// Only the I-th of N parts of the list, as I/N; `rank merge` joins the parts
    #[arg(long, value_name = "I/N", default_value_t = Shard::WHOLE)]
    shard: Shard,
}

/// Parts of a list and where the whole goes.
#[derive(clap::Args)]
pub struct Merge {
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
    let (codes, archs): (Vec<String>, Vec<Arch>) =
        read_codes(&args.codes, &space)?.into_iter().unzip();
    // All codes are checked before the first long computation.
    for (code, arch) in codes.iter().zip(&archs) {
        space.check_tied(arch)?;
        ensure!(
            code.len() == codes[0].len(),
            "{}: code {code} has {} digits, but the first has {}; a list has one form",
            args.codes.display(),
            code.len(),
            codes[0].len()
        );
    }
    let weights = Weights::load(&layout, &args.checkpoint)?;
    let data = open_data(&args.data, &space)?;
    let evaluation = format!(
        "checkpoint {} space {} bn {} batch {} recalibration {} training {} validation {}",
        blake3::hash(&read_bytes(&args.checkpoint)?).to_hex(),
        blake3::hash(space.to_toml().as_bytes()).to_hex(),
        args.bn,
        args.batch,
        args.recalibration_batches,
        data.train.describe(),
        data.validation.describe()
    );
    let mut log = Log::open(&with_ending(&args.output, ".partial"), &evaluation)?;
    let (bn, batches) = (args.bn, args.recalibration_batches);
    let mut evaluator = Evaluator::new(&space, layout, &data, bn, args.batch, batches)?;

    // A shard is a run of the order in which neighbours share the most.
    let order = evaluator.order(&archs)?;
    let own = &order[args.shard.range(order.len())];
    ensure!(!own.is_empty(), "--shard {}: the list has only {} codes", args.shard, order.len());
    let short = |place: usize| space.encode(&archs[place]);
    let missing: Vec<usize> =
        own.iter().copied().filter(|place| log.get(&short(*place)).is_none()).collect();
    let bar = Bar::new("rank eval", own.len() as u64);
    if missing.len() < own.len() {
        bar.skip((own.len() - missing.len()) as u64);
    }
    for chunk in missing.chunks(CHUNK) {
        let subnets: Vec<&Arch> = chunk.iter().map(|place| &archs[*place]).collect();
        // The log keeps what an interruption at any moment leaves.
        let Some(right) = evaluator.count_right(&weights, &subnets, &bar, &|| false)? else {
            unreachable!("nothing stops it")
        };
        log.add(chunk.iter().map(|place| short(*place)).zip(right).collect())?;
    }
    bar.finish();
    let mut own = own.to_vec();
    own.sort_unstable();
    let score = |place: usize| {
        let right = log.get(&short(place)).expect("every code of the shard was evaluated");
        Score { code: codes[place].clone(), accuracy: evaluator.percent(right) }
    };
    let scores: Vec<Score> = own.into_iter().map(score).collect();
    write_competition_json(&args.output, &scores)?;
    log.remove();
    eprintln!("{} accuracies in {}", scores.len(), args.output.display());
    Ok(())
}

/// Joins the parts of a list.
pub fn merge(args: &Merge) -> Result<()> {
    let mut found: BTreeMap<String, (f64, &Path)> = BTreeMap::new();
    for part in &args.parts {
        for Score { code, accuracy } in Scores::read(part)?.entries() {
            if let Some((other, first)) = found.insert(code.clone(), (*accuracy, part))
                && other.to_bits() != accuracy.to_bits()
            {
                bail!(
                    "{}: {code} has accuracy {accuracy}, in {} {other}; parts are of one evaluation",
                    part.display(),
                    first.display()
                );
            }
        }
    }
    let text = read_text(&args.codes)?;
    let codes = text.split([',', ' ', '\t', '\n', '\r']).filter(|code| !code.is_empty());
    let (mut scores, mut missing, mut n_used) = (Vec::new(), Vec::new(), 0);
    let mut used = std::collections::BTreeSet::new();
    for code in codes {
        match found.get(code) {
            Some((accuracy, _)) => {
                n_used += usize::from(used.insert(code));
                scores.push(Score { code: code.to_owned(), accuracy: *accuracy });
            }
            None => missing.push(code),
        }
    }
    let list = args.codes.display();
    if let Some(first) = missing.first() {
        bail!("{list}: {} codes are in none of the parts, such as {first}", missing.len());
    }
    if let Some((code, (_, part))) = found.iter().find(|(code, _)| !used.contains(code.as_str())) {
        let more = found.len() - n_used;
        bail!("{}: {code} is not in {list}, nor are {} others", part.display(), more - 1);
    }
    write_competition_json(&args.output, &scores)?;
    eprintln!("{} accuracies in {}", scores.len(), args.output.display());
    Ok(())
}

/// A path with more at its end.
fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}
