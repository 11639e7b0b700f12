//! System call filters: Docker's default profile and profiles in its JSON format, compiled to
//! search-tree BPF.
//!
//! ```text
//! default.rs / json.rs -> Rules (name, arguments, action) -> resolve per architecture -> Calls by number
//!     -> compile.rs: architecture -> tree of ranges -> argument checks -> action        (Filter)
//! ```
//!
//! The kernel runs a new filter once for each system call of each architecture to learn what is
//! always allowed, so a linear filter costs 0.9 ms to load and a tree 0.15.

mod architecture;
mod compile;
mod default;
mod json;
mod rules;
#[cfg(test)]
mod simulate;

use std::sync::{Arc, Mutex};

use davit_sys::seccomp::Instruction;
use serde::{Deserialize, Serialize};

pub use self::json::ProfileError;
use crate::capability::Capabilities;

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

/// A compiled filter.
#[derive(Debug, PartialEq, Eq)]
pub struct Filter {
    instructions: Vec<Instruction>,
    flags: u32,
}

impl Filter {
    /// The program.
    #[must_use]
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// `SECCOMP_FILTER_FLAG_*`.
    #[must_use]
    pub fn flags(&self) -> u32 {
        self.flags
    }
}

type Cached = Mutex<Vec<(Profile, Capabilities, Arc<Filter>)>>;

/// Filters of this process: a supervisor or an engine compiles each once.
static CACHE: Cached = Mutex::new(Vec::new());

/// How many filters are kept.
const CACHED: usize = 8;

/// Compiles a profile for the running architecture; `None` if there is nothing to filter.
///
/// # Errors
/// [`ProfileError`] for a profile of the user's.
pub fn filter(
    profile: &Profile,
    capabilities: Capabilities,
) -> Result<Option<Arc<Filter>>, ProfileError> {
    if *profile == Profile::Unconfined {
        return Ok(None);
    }
    let cached = |entry: &&(Profile, Capabilities, Arc<Filter>)| {
        entry.0 == *profile && entry.1 == capabilities
    };
    if let Ok(cache) = CACHE.lock()
        && let Some((_, _, filter)) = cache.iter().find(cached)
    {
        return Ok(Some(Arc::clone(filter)));
    }
    let rules = match profile {
        Profile::Json(text) => json::parse(text, capabilities)?,
        Profile::Default | Profile::Unconfined => default::rules(capabilities),
    };
    let instructions = compile::compile(&rules)?;
    let filter = Arc::new(Filter { instructions, flags: rules.flags });
    if let Ok(mut cache) = CACHE.lock() {
        cache.truncate(CACHED - 1);
        cache.insert(0, (profile.clone(), capabilities, Arc::clone(&filter)));
    }
    Ok(Some(filter))
}
