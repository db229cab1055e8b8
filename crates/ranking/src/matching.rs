//! Pairing predictions with truths by architecture code, in the long or the short form.

use crate::scores::{Score, Scores, ScoresError};
use std::collections::HashMap;

/// An architecture found in both files.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// Its code as the predictions spell it.
    pub code: String,
    /// The predicted accuracy.
    pub prediction: f64,
    /// The true accuracy.
    pub truth: f64,
}

/// What two files have in common, and what not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matched {
    /// Architectures in both, in the order of the predictions.
    pub pairs: Vec<Pair>,
    /// Codes without a truth, in the order of the predictions.
    pub only_in_predictions: Vec<String>,
    /// Codes without a prediction, in the order of the truth.
    pub only_in_truth: Vec<String>,
}

impl Matched {
    /// The predicted accuracies, in the order of `pairs`.
    pub fn predictions(&self) -> Vec<f64> {
        self.pairs.iter().map(|pair| pair.prediction).collect()
    }

    /// The true accuracies, in the order of `pairs`.
    pub fn truths(&self) -> Vec<f64> {
        self.pairs.iter().map(|pair| pair.truth).collect()
    }
}

/// Pairs the scores of two files by code.
///
/// Two codes are the same architecture if they are equal, or if one is the other with one more digit
/// `1` in front (the image-size digit: the competition writes 52 digits, the short form has 51).
/// Since all codes of a file have one length, the second case applies to all or none of them. A longer
/// code that does not begin with `1` is of another image size and matches nothing.
///
/// # Errors
/// When the code lengths of the files differ by more than one.
pub fn match_scores(predictions: &Scores, truth: &Scores) -> Result<Matched, ScoresError> {
    let (p, t) = (predictions.code_length(), truth.code_length());
    if p.abs_diff(t) > 1 {
        return Err(ScoresError::CodeLengths {
            predictions: predictions.path().into(),
            predictions_length: p,
            truth: truth.path().into(),
            truth_length: t,
        });
    }
    let length = p.min(t);
    // The code in the form both files share; a code that has none stays as it is, and matches nothing.
    let shared = |score: &Score| -> String {
        let code = score.code.as_str();
        let short = if code.len() > length { code.strip_prefix('1') } else { None };
        short.unwrap_or(code).to_owned()
    };
    let mut waiting: HashMap<String, f64> =
        truth.entries().iter().map(|score| (shared(score), score.accuracy)).collect();
    let mut matched = Matched::default();
    for score in predictions.entries() {
        let code = score.code.clone();
        match waiting.remove(&shared(score)) {
            Some(truth) => {
                matched.pairs.push(Pair { code, prediction: score.accuracy, truth });
            }
            None => matched.only_in_predictions.push(code),
        }
    }
    let left = truth.entries().iter().filter(|score| waiting.contains_key(&shared(score)));
    matched.only_in_truth = left.map(|score| score.code.clone()).collect();
    Ok(matched)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(codes: &[&str], base: f64) -> Scores {
        let entries = codes
            .iter()
            .zip(0..)
            .map(|(code, i)| Score { code: (*code).to_owned(), accuracy: base + f64::from(i) });
        Scores::new("list", entries.collect()).unwrap()
    }

    #[test]
    fn codes_match_in_either_length() {
        let check = |p: &[&str], t: &[&str], pairs: &[(&str, f64, f64)], left: [&[&str]; 2]| {
            let found = match_scores(&scores(p, 0.0), &scores(t, 70.0)).unwrap();
            let found_pairs: Vec<_> =
                found.pairs.iter().map(|m| (m.code.as_str(), m.prediction, m.truth)).collect();
            assert_eq!(found_pairs, pairs);
            assert_eq!(found.only_in_predictions, left[0]);
            assert_eq!(found.only_in_truth, left[1]);
        };
        check(&["21", "12"], &["12", "21"], &[("21", 0.0, 71.0), ("12", 1.0, 70.0)], [&[], &[]]);
        check(
            &["121", "112"],
            &["12", "21"],
            &[("121", 0.0, 71.0), ("112", 1.0, 70.0)],
            [&[], &[]],
        );
        check(&["12", "21"], &["121", "112"], &[("12", 0.0, 71.0), ("21", 1.0, 70.0)], [&[], &[]]);
        check(&["12", "33", "44"], &["55", "33"], &[("33", 1.0, 71.0)], [&["12", "44"], &["55"]]);
        // Equal lengths are never shortened: 112 is not 12 here.
        check(&["112"], &["121"], &[], [&["112"], &["121"]]);
        // Another image size.
        check(&["212"], &["12"], &[], [&["212"], &["12"]]);
    }

    #[test]
    fn lengths_too_far_apart_are_refused() {
        let message = match_scores(&scores(&["1234"], 0.0), &scores(&["34"], 0.0)).unwrap_err();
        let message = message.to_string();
        assert!(message.contains("have 4 digits") && message.contains("have 2"), "{message}");
    }
}
