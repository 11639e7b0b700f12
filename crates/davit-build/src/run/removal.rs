//! What commands wrote is removed by a process that nobody waits for.
//!
//! It holds the directory's lock as its standard input. If it is killed the next sweep of the store
//! finds the directory without a holder.

use std::{
    io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
};

use davit_store::LayerIngest;

use super::RunSettings;

/// Leaves a scratch directory to a process of its own; where none can be started it is removed
/// here.
pub(crate) fn remove_later(settings: &RunSettings, scratch: LayerIngest<'_>) {
    let Ok(lock) = scratch.lock_descriptor() else { return };
    let mut remover = Command::new(&settings.executable);
    remover.args(&settings.removal).arg(scratch.dir()).current_dir("/").process_group(0);
    remover.stdin(lock).stdout(Stdio::null()).stderr(Stdio::null());
    match remover.spawn() {
        Ok(_child) => scratch.leave(),
        Err(error) => tracing::debug!(%error, "what the command wrote is removed at once"),
    }
}

/// Removes a directory of `tmp/` whose lock is the standard input, after all that is more urgent.
///
/// # Errors
/// What the disk says.
pub fn remove_scratch(directory: &Path) -> io::Result<()> {
    const LAST: i32 = 19;
    if let Err(error) = rustix::process::nice(LAST) {
        tracing::debug!(%error, "it is as urgent as the rest");
    }
    fs_err::remove_dir_all(directory)
}
