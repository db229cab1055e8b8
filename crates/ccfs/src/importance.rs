//! Gradient norms of the options of several choices, and the sampling probabilities made of them: what
//! PA&DA's paths and images have in common.

use rand::RngExt;
use slimtau_base::{FileError, Stream, TensorFile};
use std::ops::Range;
use std::path::Path;

/// Running norms, and the probabilities in force. The two are apart because probabilities change
/// once a period while norms do with every observation: a state saved within a period has both.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Importance {
    /// The options of choice c are `begins[c]..begins[c + 1]`.
    begins: Vec<usize>,
    norms: Vec<f32>,
    /// Whether a norm was ever observed. One of 0 is a norm, too: that of an image that is learned.
    known: Vec<bool>,
    /// Sum to 1 in every choice, up to rounding.
    probabilities: Vec<f32>,
}

impl Importance {
    /// Every choice uniform. Each has at least one option.
    pub(crate) fn new(choices: impl IntoIterator<Item = usize>) -> Self {
        let (mut begins, mut probabilities) = (vec![0], Vec::new());
        for options in choices {
            probabilities.resize(probabilities.len() + options, 1.0 / options as f32);
            begins.push(probabilities.len());
        }
        let n = probabilities.len();
        Self { begins, norms: vec![0.0; n], known: vec![false; n], probabilities }
    }

    pub(crate) fn options(&self, choice: usize) -> Range<usize> {
        self.begins[choice]..self.begins[choice + 1]
    }

    pub(crate) fn probabilities(&self, choice: usize) -> &[f32] {
        &self.probabilities[self.options(choice)]
    }

    /// The running norm takes the observed one in; the first is taken as it is. What is not finite
    /// is passed over: no probability could be made of it.
    pub(crate) fn observe(&mut self, choice: usize, option: usize, norm: f32, momentum: f32) {
        let at = self.begins[choice] + option;
        debug_assert!(at < self.begins[choice + 1], "option {option} of choice {choice}");
        if norm.is_finite() {
            let old = if self.known[at] { self.norms[at] } else { norm };
            self.norms[at] = momentum * old + (1.0 - momentum) * norm;
            self.known[at] = true;
        }
    }

    /// p = smoothing norm / sum of the choice's norms + (1 - smoothing) / options. An option that
    /// was never observed counts as the mean of those that were; norms that are all 0, or none
    /// observed, give a uniform choice.
    pub(crate) fn update(&mut self, smoothing: f32) {
        let smoothing = f64::from(smoothing);
        for choice in 0..self.begins.len() - 1 {
            let options = self.options(choice);
            let n = options.len() as f64;
            let known = options.clone().filter(|&i| self.known[i]);
            let (count, sum) = known
                .fold((0.0, 0.0), |(count, sum), i| (count + 1.0, sum + f64::from(self.norms[i])));
            for i in options {
                let share = if sum == 0.0 {
                    1.0 / n
                } else if self.known[i] {
                    // The whole sum, with the unknown ones at the mean, is sum / count * n.
                    f64::from(self.norms[i]) / (sum / count * n)
                } else {
                    1.0 / n
                };
                self.probabilities[i] = (smoothing * share + (1.0 - smoothing) / n) as f32;
            }
        }
    }

    /// An option of a choice.
    pub(crate) fn draw(&self, choice: usize, rng: &mut Stream) -> usize {
        let probabilities = self.probabilities(choice);
        let total: f64 = probabilities.iter().map(|&p| f64::from(p)).sum();
        let at = rng.random::<f64>() * total;
        let (mut sum, mut last) = (0.0, 0);
        for (option, &p) in probabilities.iter().enumerate() {
            if p > 0.0 {
                sum += f64::from(p);
                last = option;
                if at < sum {
                    break;
                }
            }
        }
        last // also where rounding has put `at` on the total
    }

    /// Adds `PREFIX.norms`, `.known` (0 or 1) and `.probabilities`.
    pub(crate) fn save(&self, prefix: &str, file: &mut TensorFile) {
        let n = [self.norms.len()];
        file.insert(format!("{prefix}.norms"), &n, self.norms.clone());
        let known = self.known.iter().map(|&k| f32::from(u8::from(k))).collect();
        file.insert(format!("{prefix}.known"), &n, known);
        file.insert(format!("{prefix}.probabilities"), &n, self.probabilities.clone());
    }

    /// Takes out what [`Importance::save`] put in; nothing changes on an error.
    pub(crate) fn restore(
        &mut self,
        path: &Path,
        prefix: &str,
        file: &mut TensorFile,
    ) -> Result<(), FileError> {
        let n = [self.norms.len()];
        let norms = file.take(path, &format!("{prefix}.norms"), &n)?;
        let known = file.take(path, &format!("{prefix}.known"), &n)?;
        let probabilities = file.take(path, &format!("{prefix}.probabilities"), &n)?;
        self.norms = norms;
        self.known = known.iter().map(|&k| k != 0.0).collect();
        self.probabilities = probabilities;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slimtau_base::stream;

    #[track_caller]
    fn assert_close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() < 1e-6, "{found:?}, not {expected:?}");
        }
    }

    #[test]
    fn probabilities_by_hand() {
        let mut table = Importance::new([3, 2]);
        assert_close(table.probabilities(0), &[1.0 / 3.0; 3]);
        table.update(1.0); // nothing is known
        assert_close(table.probabilities(0), &[1.0 / 3.0; 3]);
        table.observe(0, 0, 1.0, 0.5);
        table.observe(0, 2, 2.0, 0.5);
        table.observe(0, 2, 4.0, 0.5); // 3 now
        table.observe(0, 2, f32::NAN, 0.5);
        // The unknown one counts as 2.
        table.update(1.0);
        assert_close(table.probabilities(0), &[1.0 / 6.0, 2.0 / 6.0, 3.0 / 6.0]);
        assert_close(table.probabilities(1), &[0.5; 2]);
        table.update(0.5);
        assert_close(table.probabilities(0), &[0.25, 1.0 / 3.0, 5.0 / 12.0]);
        table.observe(1, 0, 0.0, 0.0);
        table.observe(1, 1, 3.0, 0.0);
        table.update(0.75);
        assert_close(table.probabilities(1), &[0.125, 0.875]);
        table.observe(1, 1, 0.0, 0.0);
        table.update(1.0);
        assert_close(table.probabilities(1), &[0.5; 2]);
    }

    #[test]
    fn impossible_options_are_never_drawn() {
        let mut table = Importance::new([4]);
        [0.0, 1.0, 3.0, 0.0].iter().enumerate().for_each(|(i, &n)| table.observe(0, i, n, 0.0));
        table.update(1.0);
        let mut counts = [0u32; 4];
        (0..4000).for_each(|i| counts[table.draw(0, &mut stream(1, "test", i))] += 1);
        assert_eq!((counts[0], counts[3]), (0, 0));
        // 1000 expected, deviation 27.
        assert!((counts[1] as i32 - 1000).abs() < 110, "{counts:?}");
    }
}
