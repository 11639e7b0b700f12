//! Container life cycle: launch plan, namespaces, limits, seccomp, exec and the monitor.

#![forbid(unsafe_code)]
