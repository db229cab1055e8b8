//! Learning rates by step.

/// What happens after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScheduleKind {
    /// The base rate to the end.
    Constant,
    /// Half a cosine from the base rate to the final one (Loshchilov & Hutter, SGDR, 2017).
    Cosine,
    /// Polynomial decay, final + (base - final) (1 - done)^power, where `done` is the share of the
    /// steps after the warm-up that are made. Power 1 is linear; a larger one falls earlier.
    Polynomial {
        /// The decay's exponent; above 0.
        power: f64,
    },
    /// The base rate times `factor` to the number of whole `every` steps since the warm-up, but
    /// never below the final rate.
    Step {
        /// Steps between two drops; 0 counts as 1.
        every: u64,
        /// What each drop multiplies the rate by; 0 to 1.
        factor: f64,
    },
}

/// Learning rate as a function of the step.
///
/// A state cannot get out of step with it: it holds none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Rate after the warm-up.
    pub base_lr: f64,
    /// Steps of linear warm-up: step s < warmup has base_lr (s + 1) / (warmup + 1).
    pub warmup_steps: u64,
    /// All steps, warm-up included.
    pub total_steps: u64,
    /// What happens after the warm-up.
    pub kind: ScheduleKind,
    /// Rate that a cosine or a polynomial reaches at `total_steps`, and below which steps do not fall.
    pub final_lr: f64,
}

impl Schedule {
    /// The rate of a step, counted from 0. From `total_steps` on it stays as it is there.
    pub fn lr(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.base_lr * (step + 1) as f64 / (self.warmup_steps + 1) as f64;
        }
        let length = self.total_steps.saturating_sub(self.warmup_steps).max(1);
        let after = (step - self.warmup_steps).min(length);
        match self.kind {
            ScheduleKind::Constant => self.base_lr,
            ScheduleKind::Step { every, factor } => {
                // Beyond i32::MAX drops any factor below 1 has long reached 0.
                let drops = i32::try_from(after / every.max(1)).unwrap_or(i32::MAX);
                (self.base_lr * factor.powi(drops)).max(self.final_lr)
            }
            ScheduleKind::Polynomial { power } => {
                let left = (length - after) as f64 / length as f64;
                self.final_lr + (self.base_lr - self.final_lr) * left.powf(power)
            }
            ScheduleKind::Cosine => {
                let done = after as f64 / length as f64;
                let height = (1.0 + (std::f64::consts::PI * done).cos()) / 2.0;
                self.final_lr + (self.base_lr - self.final_lr) * height
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cosine(warmup_steps: u64, total_steps: u64) -> Schedule {
        let kind = ScheduleKind::Cosine;
        Schedule { base_lr: 0.5, warmup_steps, total_steps, kind, final_lr: 0.1 }
    }

    #[test]
    fn closed_form() {
        let check = |s: Schedule, step, expected: f64| {
            assert!((s.lr(step) - expected).abs() < 1e-12, "{} at {step}", s.lr(step));
        };
        check(cosine(0, 10), 0, 0.5);
        check(cosine(0, 10), 5, 0.3);
        check(cosine(0, 10), 10, 0.1);
        check(cosine(0, 10), 99, 0.1);
        check(cosine(4, 10), 0, 0.1);
        check(cosine(4, 10), 3, 0.4);
        check(cosine(4, 10), 4, 0.5);
        check(cosine(4, 10), 7, 0.3);
        check(Schedule { kind: ScheduleKind::Constant, ..cosine(0, 10) }, 9, 0.5);
        // From 0.5 to 0.1 over 10 steps: 0.1 + 0.4 (1 - s/10)^power.
        let polynomial =
            |power| Schedule { kind: ScheduleKind::Polynomial { power }, ..cosine(0, 10) };
        check(polynomial(1.0), 0, 0.5);
        check(polynomial(1.0), 5, 0.3);
        check(polynomial(2.0), 5, 0.2);
        check(polynomial(0.5), 9, 0.1 + 0.4 * 0.1f64.sqrt());
        check(polynomial(4.0), 10, 0.1);
        check(polynomial(4.0), 99, 0.1);
        let kind = ScheduleKind::Step { every: 3, factor: 0.5 };
        let steps = Schedule { kind, ..cosine(4, 12) };
        check(steps, 3, 0.4);
        check(steps, 6, 0.5);
        check(steps, 7, 0.25);
        check(steps, 10, 0.125);
        check(Schedule { total_steps: 99, ..steps }, 13, 0.1);
        check(steps, 13, 0.125);
    }

    fn kinds() -> impl Strategy<Value = ScheduleKind> {
        let step =
            (0u64..9, 0.0..1.0).prop_map(|(every, factor)| ScheduleKind::Step { every, factor });
        let polynomial = (0.1..8.0).prop_map(|power| ScheduleKind::Polynomial { power });
        prop_oneof![Just(ScheduleKind::Constant), Just(ScheduleKind::Cosine), step, polynomial]
    }

    proptest! {
        #[test]
        fn rises_without_a_jump_to_the_base_rate_then_falls_but_never_below_the_final_one(
            kind in kinds(), warmup in 0u64..50, total in 1u64..200,
        ) {
            let s = Schedule { kind, ..cosine(warmup, total) };
            for step in 0..warmup {
                let rise = s.lr(step + 1) - s.lr(step);
                // The same rise every step, the one that ends at the base rate included.
                prop_assert!((rise - 0.5 / (warmup + 1) as f64).abs() < 1e-12, "{} at {}", rise, step);
            }
            prop_assert_eq!(s.lr(warmup), 0.5);
            for step in warmup..total + 5 {
                prop_assert!((0.1..=0.5).contains(&s.lr(step)), "{} at {}", s.lr(step), step);
                prop_assert!(s.lr(step + 1) <= s.lr(step));
            }
        }
    }
}
