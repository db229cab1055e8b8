//! `slimtau rank score|eval`.

use super::read_codes;
use crate::SpaceArg;
use crate::pipeline::{Evaluator, open_data};
use crate::progress::Bar;
use anyhow::Result;
use clap::Subcommand;
use serde_json::json;
use slimtau_ranking::{
    Bootstrap, Interval, Score, Scores, bootstrap, correlations, match_scores,
    write_competition_json,
};
use slimtau_supernet::{BnMode, Layout, Weights};
use std::io::Write;
use std::path::PathBuf;

/// Inherited accuracies, and how well they rank.
#[derive(Subcommand)]
pub enum Rank {
    /// Correlate predictions with the truth: Kendall's tau-b, Pearson, Spearman, 95 % intervals
    ///
    /// Files: the competition's JSON, JSON `{"code": acc}`, or CSV `code,acc`. Codes match in
    /// either length.
    Score {
        /// Predicted accuracies
        #[arg(long, value_name = "FILE")]
        predictions: PathBuf,
        /// True accuracies
        #[arg(long, value_name = "FILE")]
        truth: PathBuf,
        /// One JSON object instead of lines
        #[arg(long)]
        json: bool,
        /// Bootstrap resamples over architectures
        #[arg(long, default_value_t = 2000)]
        resamples: usize,
        /// Seed of the bootstrap
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Inherited accuracy of every code in a list, written as the competition's JSON
    Eval {
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
        /// Where the JSON goes
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
    },
}

/// Runs the command.
pub fn run(command: &Rank) -> Result<()> {
    match command {
        Rank::Score { predictions, truth, json, resamples, seed } => {
            let matched = match_scores(&Scores::read(predictions)?, &Scores::read(truth)?)?;
            if matched.pairs.len() < 2 {
                anyhow::bail!(
                    "{} and {} have {} codes in common ({} stand only in the first, {} only in the second); a correlation needs two",
                    predictions.display(),
                    truth.display(),
                    matched.pairs.len(),
                    matched.only_in_predictions.len(),
                    matched.only_in_truth.len()
                );
            }
            let (p, t) = (matched.predictions(), matched.truths());
            let options = Bootstrap { resamples: *resamples, seed: *seed, ..Bootstrap::default() };
            let point = correlations(&p, &t)?;
            let intervals = bootstrap(&p, &t, &options)?;
            let rows = [
                ("kendall_tau", point.kendall_tau, &intervals.kendall_tau),
                ("pearson", point.pearson, &intervals.pearson),
                ("spearman", point.spearman, &intervals.spearman),
            ];
            if *json {
                let bounds = |i: &Option<Interval>| i.as_ref().map(|i| vec![i.low, i.high]);
                let mut out = json!({
                    "n": point.n,
                    "only_in_predictions": matched.only_in_predictions,
                    "only_in_truth": matched.only_in_truth,
                    "resamples": resamples,
                    "seed": seed,
                });
                for (name, value, interval) in rows {
                    out[name] = json!(value);
                    out[format!("{name}_interval")] = json!(bounds(interval));
                }
                writeln!(std::io::stdout(), "{out}")?;
                return Ok(());
            }
            let mut out = std::io::stdout().lock();
            writeln!(out, "n {}", point.n)?;
            for (name, value, interval) in rows {
                match (value, interval) {
                    (Some(v), Some(i)) => {
                        writeln!(out, "{name} {v:.4} [{:.4}, {:.4}]", i.low, i.high)?;
                    }
                    (Some(v), None) => writeln!(out, "{name} {v:.4}")?,
                    (None, _) => writeln!(out, "{name} undefined (a list is constant)")?,
                }
            }
            report_missing("predictions", &matched.only_in_predictions);
            report_missing("truth", &matched.only_in_truth);
            Ok(())
        }
        Rank::Eval { space, checkpoint, codes, data, output, bn, recalibration_batches, batch } => {
            anyhow::ensure!(*batch >= 1, "--batch 0: at least one image");
            anyhow::ensure!(*recalibration_batches >= 1, "--recalibration-batches 0: at least one");
            let space = space.load()?;
            let layout = Layout::supernet(&space)?;
            let codes = read_codes(codes, &space)?;
            // All codes are checked before the first long computation.
            for (_, arch) in &codes {
                space.check_tied(arch)?;
            }
            let weights = Weights::load(&layout, checkpoint)?;
            let data = open_data(data, &space)?;
            let mut evaluator =
                Evaluator::new(&space, layout, &data, *bn, *batch, *recalibration_batches)?;
            let bar = Bar::new("rank eval", codes.len() as u64);
            let mut scores = Vec::with_capacity(codes.len());
            for (code, arch) in codes {
                let accuracy = evaluator.accuracy(&weights, &arch)?;
                scores.push(Score { code, accuracy });
                bar.advance(1, &format!("{accuracy:.2} %"));
            }
            bar.finish();
            write_competition_json(output, &scores)?;
            eprintln!("{} accuracies in {}", scores.len(), output.display());
            Ok(())
        }
    }
}

/// Says on standard error which codes one side lacks.
fn report_missing(side: &str, codes: &[String]) {
    if let Some(first) = codes.first() {
        eprintln!("{} codes stand only in the {side}, such as {first}", codes.len());
    }
}
