//! `slimtau space count|stats|sample`.

use super::{Listed, read_codes};
use crate::SpaceArg;
use anyhow::Result;
use clap::Subcommand;
use slimtau_ccfs::{Sampler, SamplerKind};
use slimtau_space::CostModel;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// Look at search spaces.
#[derive(Subcommand)]
pub enum Space {
    /// Exact numbers of codes: without ties, with residual ties, in the restricted ranges
    Count(SpaceArg),
    /// Parameters, MACs and CCFS scores of codes, as CSV
    Stats {
        #[command(flatten)]
        space: SpaceArg,
        /// Codes separated by commas or white space; `-` = standard input
        #[arg(long, value_name = "FILE")]
        codes: PathBuf,
    },
    /// Draw codes as a sampler would in training, one per line
    Sample {
        #[command(flatten)]
        space: SpaceArg,
        /// How many
        #[arg(short, value_name = "N")]
        n: usize,
        /// Seed of the draws
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// uniform, ccfs-m, ccfs-f, width-sum, fairnas, ofa, sandwich, or pa-da (without gradients:
        /// as training begins, uniform)
        #[arg(long, default_value_t = SamplerKind::Uniform)]
        sampler: SamplerKind,
        /// Subnets that a CCFS sampler draws per step (p)
        #[arg(long, default_value_t = 400)]
        candidates: usize,
        /// Subnets that it keeps per step (K)
        #[arg(long, default_value_t = 4)]
        keep: usize,
    },
}

/// Runs the command.
pub fn run(command: &Space) -> Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    match command {
        Space::Count(space) => {
            let space = space.load()?;
            writeln!(out, "untied {}", space.count_untied())?;
            writeln!(out, "tied {}", space.count_tied())?;
            writeln!(out, "restricted {}", space.count_restricted())?;
        }
        Space::Stats { space, codes } => {
            let space = space.load()?;
            let codes = read_codes(codes, &space)?;
            let model = CostModel::new(&space);
            writeln!(out, "code,params,macs,phi_m,phi_f")?;
            for Listed { code, arch, .. } in &codes {
                let c = model.costs(arch);
                writeln!(out, "{code},{},{},{},{}", c.params, c.macs, c.phi_m, c.phi_f)?;
            }
        }
        Space::Sample { space, n, seed, sampler, candidates, keep } => {
            anyhow::ensure!(*keep >= 1, "--keep 0: a step keeps at least one subnet");
            anyhow::ensure!(
                candidates >= keep,
                "--candidates {candidates}: fewer than the {keep} to keep"
            );
            let space = space.load()?;
            let sampler = Sampler::new(&space, *sampler, *candidates, *keep, *seed);
            let draws = (0..).flat_map(|step| sampler.draw(step));
            for arch in draws.take(*n) {
                writeln!(out, "{}", space.encode(&arch))?;
            }
        }
    }
    Ok(out.flush()?)
}
