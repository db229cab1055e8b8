//! How well one list of accuracies ranks another: correlation statistics with intervals, and the
//! score files they are read from.
//!
//! A supernet predicts; stand-alone training is the truth. [`correlations`] says how well the
//! first ranks the second, [`bootstrap`] how far that number would move with other architectures,
//! [`paired_bootstrap`] whether one method ranks better than another, [`JointBootstrap`] both for
//! many methods on the same resamples, [`kendall_tau_within`] what is left of a ranking among
//! architectures of one kind, and [`noise_ceiling`] and [`reliability`] how well the truth ranks
//! itself when it is trained again.
//!
//! ```
//! use slimtau_ranking::{Bootstrap, bootstrap, correlations};
//!
//! let inherited = [61.0, 64.5, 63.0, 66.0, 68.5];
//! let stand_alone = [70.1, 71.0, 71.3, 72.0, 73.4];
//! let found = correlations(&inherited, &stand_alone)?;
//! assert_eq!(found.kendall_tau, Some(0.8)); // one of ten pairs is in the wrong order
//!
//! let intervals = bootstrap(&inherited, &stand_alone, &Bootstrap::default())?;
//! let tau = intervals.kendall_tau.expect("neither list is constant");
//! assert!(tau.low <= 0.8 && 0.8 <= tau.high);
//! # Ok::<(), slimtau_ranking::StatisticsError>(())
//! ```
#![deny(missing_docs)]

mod bootstrap;
mod correlation;
mod inversions;
mod joint;
mod matching;
mod paired;
mod read;
mod reliability;
mod scores;
mod selection;
mod stratified;

/// The README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use bootstrap::{Bootstrap, Interval, Intervals, bootstrap};
pub use correlation::{Correlations, StatisticsError, correlations, kendall_tau};
pub use joint::{JointBootstrap, Statistic};
pub use matching::{Matched, Pair, match_scores};
pub use paired::{PairedDifference, holm, paired_bootstrap};
pub use reliability::{
    Agreement, Reliability, agreement_between_replicates, agreement_with_the_rest,
    mean_of_replicates, quantile, reliability,
};
pub use scores::{Place, Score, Scores, ScoresError, write_competition_json, write_csv};
pub use selection::{NoiseCeiling, noise_ceiling, regret, top_k_precision};
pub use stratified::kendall_tau_within;
