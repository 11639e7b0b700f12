//! Layers: tar streams, entry tables, changesets and compression.

#![forbid(unsafe_code)]
