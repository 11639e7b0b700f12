//! The boot id: what tells facts of this boot from those of an earlier one.

use std::{fmt, path::Path, sync::OnceLock};

use crate::StoreError;

const KERNEL_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// Identifies one boot of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BootId(String);

impl BootId {
    /// Wraps an id as the kernel prints it.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// Reads the running kernel's id.
    ///
    /// # Errors
    /// When procfs is not mounted.
    pub fn current() -> Result<Self, StoreError> {
        static CURRENT: OnceLock<BootId> = OnceLock::new();
        if let Some(known) = CURRENT.get() {
            return Ok(known.clone());
        }
        let text = fs_err::read_to_string(KERNEL_FILE)
            .map_err(|e| StoreError::io("read", Path::new(KERNEL_FILE), e))?;
        Ok(CURRENT.get_or_init(|| Self::new(&text)).clone())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
