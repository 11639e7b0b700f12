//! Distribution specification: wire types and the registry client.

#![forbid(unsafe_code)]
