//! The store: database, content, leases, garbage collection and image archives.

#![forbid(unsafe_code)]
