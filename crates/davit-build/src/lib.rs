//! The builder: plan, cache keys, executor and exporters.

#![forbid(unsafe_code)]
