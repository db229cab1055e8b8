//! Learning rates by step.

/// What happens after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleKind {
    /// The base rate to the end.
    Constant,
    /// Half a cosine from the base rate to the final one (Loshchilov & Hutter, SGDR, 2017).
    Cosine,
}

/// Learning rate as a function of the step.
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
    /// Rate that a cosine falls to at `total_steps`.
    pub final_lr: f64,
}

impl Schedule {
    /// The rate of a step, counted from 0. Beyond the last step it stays at the last value.
    pub fn lr(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.base_lr * (step + 1) as f64 / (self.warmup_steps + 1) as f64;
        }
        match self.kind {
            ScheduleKind::Constant => self.base_lr,
            ScheduleKind::Cosine => {
                let length = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
                let done = ((step - self.warmup_steps) as f64 / length).min(1.0);
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
    }

    proptest! {
        #[test]
        fn between_the_ends_and_falling(warmup in 0u64..50, total in 1u64..200) {
            let s = cosine(warmup, total);
            for step in 0..total + 5 {
                prop_assert!(s.lr(step) > 0.0 && s.lr(step) <= 0.5);
                if step >= warmup {
                    prop_assert!(s.lr(step + 1) <= s.lr(step));
                } else {
                    prop_assert!(s.lr(step + 1) > s.lr(step));
                }
            }
        }
    }
}
