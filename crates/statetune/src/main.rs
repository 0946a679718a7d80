//! The `statetune` command line.
fn main() {}
