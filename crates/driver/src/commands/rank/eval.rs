//! `slimtau rank eval` and `rank merge`: inherited accuracies of long lists.

use crate::commands::inherited::{Inherited, SpaceOfRun};
use crate::commands::{Listed, read_tied_codes};
use crate::pipeline::{Contents, Evaluation, Log, Shard, percent};
use crate::progress::Bar;
use anyhow::{Result, bail, ensure};
use slimtau_ranking::{Score, write_competition_json};
use slimtau_space::{Arch, SearchSpace};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What to evaluate, and how.
#[derive(clap::Args)]
pub struct Eval {
    #[command(flatten)]
    supernet: Inherited,
    /// Codes separated by commas or white space; `-` = standard input
    #[arg(long, value_name = "FILE")]
    codes: PathBuf,
    /// Where the JSON goes. Until all is done, results are in FILE.partial
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Only the I-th of N parts of the list, as I/N. FILE then is what `rank merge` joins
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
}

/// Parts of a list and where the whole goes.
#[derive(clap::Args)]
pub struct Merge {
    #[command(flatten)]
    space: SpaceOfRun,
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
    let setting = args.supernet.resolve()?;
    // All codes are checked before the first long computation.
    let listed = read_tied_codes(&args.codes, &setting.space)?;
    let archs: Vec<Arch> = listed.iter().map(|listed| listed.arch.clone()).collect();
    let supernet = args.supernet.open(setting)?;
    let space = &supernet.space;
    let mut evaluator = supernet.evaluator(&supernet.data)?;

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
    let path = match args.shard {
        None => with_ending(&args.output, ".partial"),
        Some(_) => args.output.clone(),
    };
    let mut log = Log::open(&path, &supernet.evaluation(&supernet.data))?;
    let own: Vec<&Arch> = own.iter().map(|place| &archs[*place]).collect();
    let bar = Bar::new("rank eval", own.len() as u64);
    supernet.evaluate_missing(&mut evaluator, own.iter().copied(), &mut log, &bar)?;
    bar.finish();
    if let Some(shard) = args.shard {
        let (n, output) = (own.len(), args.output.display());
        eprintln!("part {shard}, {n} codes, is in {output}; `slimtau rank merge` joins the parts");
        return Ok(());
    }
    let scores = scores(space, &listed, evaluator.images(), |code| log.get(code));
    write_competition_json(&args.output, &scores.expect("every code was evaluated"))?;
    log.remove();
    eprintln!("{} accuracies in {}", listed.len(), args.output.display());
    Ok(())
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
                "{shown}: made with {other}, {} with {instruction_set}; they round differently, which may cost an image, in bf16 several",
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

/// A path with more at its end.
fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}
