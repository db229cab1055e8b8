//! The `slimtau` command.
fn main() {}
