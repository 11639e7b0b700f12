//! System call filters: Docker's default profile and profiles in its JSON format, compiled to search-tree BPF.

use serde::{Deserialize, Serialize};

/// Which filter a process gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// Docker's default, depending on the capabilities.
    Default,
    /// None.
    Unconfined,
    /// A profile in Docker's JSON format, as text.
    Json(String),
}
