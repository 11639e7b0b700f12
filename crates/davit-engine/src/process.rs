//! The process itself: preparation, and the helpers that are this binary executed again.

use std::ffi::OsString;

pub use davit_sys::{code::forget_at_rest, interrupt::Interrupts};

use crate::container;

/// Name of the helper that removes what would take long.
pub(crate) const REMOVAL: &str = "__remove-scratch";
/// Heap that a command uses: its command line, a database, some buffers.
const COMMAND_HEAP: usize = 640 << 10;
/// Heap that a helper uses; monitors keep it.
const HELPER_HEAP: usize = 192 << 10;

/// Does what must happen before anything else in a `davit` process.
///
/// Pins the static glibc's name lookups to `files dns`, so that no library of the host is loaded, and
/// keeps what children leave for whoever waits for them.
pub fn prepare(arguments: &[OsString]) {
    davit_sys::heap::populate(if helper(arguments).is_some() { HELPER_HEAP } else { COMMAND_HEAP });
    davit_sys::nss::pin();
    davit_sys::signals::keep_children();
}

/// The hidden verb that is called, without its underscores.
fn helper(arguments: &[OsString]) -> Option<&str> {
    arguments.get(1)?.to_str()?.strip_prefix("__")
}

/// Runs the helper that the arguments name, if they name one; returns its exit code.
///
/// Helpers are hidden verbs with two leading underscores. They run before the command line is
/// parsed, single-threaded and without a runtime.
#[must_use]
pub fn run_helper(arguments: &[OsString]) -> Option<u8> {
    match helper(arguments)? {
        "monitor" => Some(container::monitor_helper()),
        "build-supervisor" => Some(crate::build::supervisor_helper()),
        "remove-scratch" => Some(removal_helper(&arguments[2..])),
        "git-guard" => Some(crate::build::guard_helper()),
        "root" => Some(container::root_helper()),
        "settle" => Some(container::settle_helper(&arguments[2..])),
        "thaw" => Some(container::thaw_helper(&arguments[2..])),
        _ => None,
    }
}

/// `davit __remove-scratch [PATH]`; returns its exit code.
fn removal_helper(arguments: &[OsString]) -> u8 {
    let path = match arguments {
        [] => None,
        [path] => Some(path.as_ref()),
        _ => return 2,
    };
    u8::from(davit_store::remove_behind(path).is_err())
}
