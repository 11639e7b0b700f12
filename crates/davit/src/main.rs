//! The `davit` command.

#![forbid(unsafe_code)]

fn main() {}
