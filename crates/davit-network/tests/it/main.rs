//! The network in namespaces of the test's own: nothing of the machine is touched.

mod bridge;
mod namespace;
