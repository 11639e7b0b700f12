//! Variables of buildx that are true or false.

use super::attest::flag;
use crate::{environment, error::CliError};

/// Keeps attestations away that nobody asked for.
pub(in crate::commands) const NO_ATTESTATIONS: &str = "BUILDX_NO_DEFAULT_ATTESTATIONS";
/// Gives attestations the older form unless `oci-artifact` says something else.
pub(in crate::commands) const NO_ARTIFACT: &str = "BUILDX_NO_DEFAULT_OCI_ARTIFACT";
/// Leaves the result of a build without an output in the cache.
pub(in crate::commands) const NO_LOAD: &str = "BUILDX_NO_DEFAULT_LOAD";
/// Whether a definition of bake is kept from files elsewhere.
pub(in crate::commands) const GUARDS_FILES: &str = "BUILDX_BAKE_ENTITLEMENTS_FS";
/// Whether one that lies elsewhere is let at files all the same.
pub(in crate::commands) const REMOTE_FILES: &str = "BAKE_ALLOW_REMOTE_FS_ACCESS";

/// What the environment says; `None` where it is silent.
pub(in crate::commands) fn truth(name: &str) -> Result<Option<bool>, CliError> {
    let value = environment::variable_text(name).unwrap_or_default();
    if value.is_empty() {
        return Ok(None);
    }
    let wrong = || CliError::usage(format!("{name}={value} is neither true nor false"));
    flag(&value).ok_or_else(wrong).map(Some)
}

/// Whether the environment says yes.
pub(in crate::commands) fn is_on(name: &str) -> Result<bool, CliError> {
    truth(name).map(|said| said == Some(true))
}
