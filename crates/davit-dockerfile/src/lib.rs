//! Dockerfile parser with spans, variable expansion and ignore-file patterns.

#![forbid(unsafe_code)]
