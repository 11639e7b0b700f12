//! Build, test and bench tasks of the davit repository.

#![forbid(unsafe_code)]

fn main() {}
