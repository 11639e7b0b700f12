//! One at a time: who chooses addresses by the machine's routes and then takes them.

use std::{
    fs::File,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::NetworkError;

/// Longer than anybody raises a bridge.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks; raising a bridge takes about as long.
const LOOK: Duration = Duration::from_millis(1);

/// The turn of this process among all that raise bridges in the calling thread's network
/// namespace, whatever their roots; dropping it, or the end of the process, gives it up.
///
/// It is a lock on the namespace itself, which leaves no file behind and which the kernel forgets.
#[derive(Debug)]
pub struct Turn {
    _namespace: File,
}

impl Turn {
    /// Waits for the turn, for seconds at most: every user may open the namespace and hold the
    /// lock, which must not keep a root from its bridge. Without it two roots that begin in the
    /// same moment could get the same addresses.
    ///
    /// # Errors
    ///
    /// Fails when the namespace cannot be opened or locked.
    pub fn take() -> Result<Self, NetworkError> {
        Self::take_within(PATIENCE)
    }

    fn take_within(patience: Duration) -> Result<Self, NetworkError> {
        let path = "/proc/thread-self/ns/net";
        let namespace = fs_err::File::open(path).map_err(NetworkError::Setting)?.into_parts().0;
        let deadline = Instant::now() + patience;
        loop {
            match flock(&namespace, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(LOOK),
                Err(Errno::WOULDBLOCK) => {
                    tracing::warn!("another process keeps the lock of the network namespace");
                    break;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(NetworkError::Namespace(errno)),
                Ok(()) => break,
            }
        }
        Ok(Self { _namespace: namespace })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_waited_for_with_a_bound() {
        let other = fs_err::File::open("/proc/thread-self/ns/net").expect("the namespace");
        let is_free = || {
            let free = flock(&other, FlockOperation::NonBlockingLockExclusive).is_ok();
            flock(&other, FlockOperation::Unlock).expect("unlocked");
            free
        };
        let turn = Turn::take().expect("a turn");
        assert!(!is_free());
        drop(turn);
        flock(&other, FlockOperation::LockExclusive).expect("locked");
        let without = Turn::take_within(Duration::ZERO).expect("goes on without");
        drop(without);
        flock(&other, FlockOperation::Unlock).expect("unlocked");
    }
}
