//! SGD with momentum, schedules, EMA, exact checkpoints and the run log.
