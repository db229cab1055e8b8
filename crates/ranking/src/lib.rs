//! How well one list of accuracies ranks another: correlation statistics and their intervals.
