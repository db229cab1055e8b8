//! What makes a search space possible.

use crate::{SearchSpace, SpaceError};
use std::fmt::Debug;

/// Digits in a code are single: depths, codes and the number of stages go up to this.
const MAX_DIGIT: usize = 9;
/// Bounds that keep every cost of every architecture below 2^63, so that no sum can overflow.
const MAX_IMAGE_SIZE: usize = 2048;
const MAX_WIDTH: usize = 1 << 13;
const MAX_KERNEL: usize = 15;
const MAX_CLASSES: usize = 1 << 20;

/// The key at fault (`stem.width`, `stage 2.depth`) and a sentence with its value.
pub(crate) struct Fault {
    pub key: String,
    pub problem: String,
}

impl SearchSpace {
    /// Whether the space is possible. Spaces from [`SearchSpace::preset`] and
    /// [`SearchSpace::from_toml`] are; one built or changed by hand has to be checked, since the
    /// other methods rely on it.
    ///
    /// # Errors
    /// [`SpaceError::Invalid`] naming the key, the value and what is allowed.
    pub fn validate(&self) -> Result<(), SpaceError> {
        match self.fault() {
            None => Ok(()),
            Some(fault) => Err(SpaceError::Invalid {
                source_name: format!("search space `{}`", self.name),
                problem: fault.problem,
            }),
        }
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        self.checked().err()
    }

    fn checked(&self) -> Result<(), Fault> {
        at_most("image_size", self.image_size, MAX_IMAGE_SIZE)?;
        at_most("channels", self.channels, MAX_WIDTH)?;
        at_most("classes", self.classes, MAX_CLASSES)?;
        at_most("divisor", self.divisor, MAX_WIDTH)?;
        self.check_ratios()?;
        let n = self.ratios.len();
        at_most("stem.width", self.stem.width, MAX_WIDTH)?;
        at_most("stem.kernel", self.stem.kernel, MAX_KERNEL)?;
        if self.stem.kernel.is_multiple_of(2) {
            return fault("stem.kernel", self.stem.kernel, "must be odd");
        }
        at_most("stem.stride", self.stem.stride, 2)?;
        at_most("stem.codes", self.stem.codes, n)?;
        if self.stages.is_empty() || self.stages.len() > MAX_DIGIT {
            let problem = format!("there are {} stages; 1 to {MAX_DIGIT} fit", self.stages.len());
            return Err(Fault { key: "stage".into(), problem });
        }
        for (i, stage) in self.stages.iter().enumerate() {
            let key = |name: &str| format!("stage {}.{name}", i + 1);
            at_most(&key("width"), stage.width, MAX_WIDTH)?;
            let (low, high) = stage.depth;
            if low == 0 || low > high || high > MAX_DIGIT {
                let rule =
                    format!("must be [fewest, most] with 1 <= fewest <= most <= {MAX_DIGIT}");
                return fault(&key("depth"), [low, high], &rule);
            }
            at_most(&key("stride"), stage.stride, 2)?;
            at_most(&key("codes"), stage.codes, n)?;
        }
        Ok(())
    }

    fn check_ratios(&self) -> Result<(), Fault> {
        let n = self.ratios.len();
        if n == 0 || n > MAX_DIGIT {
            let problem = format!("there are {n} ratios; 1 to {MAX_DIGIT} fit a code's digit");
            return Err(Fault { key: "ratios".into(), problem });
        }
        // `contains` is false for NaN.
        if let Some(r) = self.ratios.iter().find(|r| !(f64::MIN_POSITIVE..=1.0).contains(*r)) {
            return fault("ratios", r, "must be in (0, 1]");
        }
        match self.ratios.windows(2).find(|w| w[0] <= w[1]) {
            Some(w) => fault("ratios", w, "must fall from code to code"),
            None => Ok(()),
        }
    }
}

fn fault(key: &str, value: impl Debug, rule: &str) -> Result<(), Fault> {
    Err(Fault { key: key.to_owned(), problem: format!("{key} = {value:?}: it {rule}") })
}

fn at_most(key: &str, value: usize, most: usize) -> Result<(), Fault> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    fault(key, value, &format!("must be from 1 to {most}"))
}
