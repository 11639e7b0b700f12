//! A container that is frozen for as long as this process lives, and no longer.

use std::{
    io::{Read as _, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use super::ChangesError;
use crate::{
    Config, Engine,
    container::{Container, ContainerError},
};

/// What this process writes when the container is not its to thaw.
const NEVER_MIND: u8 = b'n';

/// Thaws the container when it is dropped; a watcher does it, also when this process is killed.
pub(super) struct Frozen {
    watcher: Child,
}

impl Engine {
    /// Freezes a running container.
    pub(super) fn freeze_meanwhile(&self, container: &Container) -> Result<Frozen, ChangesError> {
        let [program, arguments @ ..] = &self.helper_command("__thaw", &container.id)[..] else {
            unreachable!("a command has a program");
        };
        let mut command = Command::new(program);
        // A group of its own: keys that end this command must not end the watcher.
        command.args(arguments).env_clear().current_dir("/").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let watcher =
            command.spawn().map_err(|error| ContainerError::io("start", program, error))?;
        // From here on every way out ends the watcher.
        let mut frozen = Frozen { watcher };
        if let Err(error) = self.pause_container(&container.id) {
            if let Some(stdin) = &mut frozen.watcher.stdin {
                // A watcher that is gone thaws nothing.
                drop(stdin.write_all(&[NEVER_MIND]));
            }
            return Err(error.into());
        }
        Ok(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.watcher.stdin.take());
        match self.watcher.wait() {
            Ok(status) if status.success() => {}
            outcome => tracing::error!(?outcome, "cannot let the container go on"),
        }
    }
}

/// `davit __thaw ROOT RUN_ROOT ID`: waits until whoever holds the other end of standard input is
/// gone, and lets the container go on; returns its exit code.
pub(crate) fn thaw_helper(arguments: &[std::ffi::OsString]) -> u8 {
    let [root, run_root, id] = arguments else { return 2 };
    let Some(id) = id.to_str() else { return 2 };
    let mut said = Vec::new();
    // An error is an end as well.
    drop(std::io::stdin().lock().read_to_end(&mut said));
    if said.contains(&NEVER_MIND) {
        return 0;
    }
    let config = Config::for_helper(Path::new(root), Path::new(run_root));
    let thawed = Engine::open(config).ok().and_then(|engine| engine.unpause_container(id).ok());
    u8::from(thawed.is_none())
}
