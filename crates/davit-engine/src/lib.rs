//! Use cases over images and containers: the one composition root.

#![forbid(unsafe_code)]
