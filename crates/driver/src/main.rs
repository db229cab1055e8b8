//! The `slimtau` command.

#[allow(dead_code)]
mod report;

fn main() {}
