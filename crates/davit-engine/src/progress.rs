//! How use cases tell what they are doing.

/// Receives the progress of a use case; called from any thread, so it must be quick.
pub trait Progress: Send + Sync {
    /// Takes note of one event.
    fn report(&self, event: Event<'_>);
}

/// One step of progress. An item is one layer, one step or one file, named by a short id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Something that concerns no item.
    Message(&'a str),
    /// Work on an item began, or moved on to its next phase (`Downloading`, `Extracting`, …).
    Phase {
        /// Short id of the item.
        item: &'a str,
        /// What is done to it now, in Docker's words.
        phase: &'a str,
        /// Bytes that the phase will handle, if known.
        total_bytes: Option<u64>,
    },
    /// The present phase of an item has handled so many bytes in all.
    Position {
        /// Short id of the item.
        item: &'a str,
        /// Bytes handled since the phase began.
        bytes: u64,
    },
    /// An item is finished.
    Done {
        /// Short id of the item.
        item: &'a str,
        /// How it ended, in Docker's words (`Pull complete`, `Already exists`, …).
        status: &'a str,
    },
}

/// Reports nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn report(&self, _event: Event<'_>) {}
}
