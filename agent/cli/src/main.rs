//! The `tidelog` binary.
fn main() {}
