//! What a build tells while it runs.

use std::{sync::Arc, time::Duration};

use crate::{checks::Checks, key::Miss};

/// Receives the events of one build, in the order in which they happen; must not block for long.
pub type EventSink<'a> = &'a (dyn Fn(BuildEvent) + Sync);

/// Number of a step within one build, from 0 in Dockerfile order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(pub u32);

/// A step as shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepInfo {
    /// Its number.
    pub id: StepId,
    /// Its name, as `[stage 2/5] RUN make`.
    pub name: String,
    /// First line in the Dockerfile; 0 for steps that stand nowhere in it.
    pub line: u32,
}

/// Which of its outputs a step wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum BuildEvent {
    /// The build checks found something; nothing has run yet.
    Checked(Arc<Checks>),
    /// The plan is made; these steps will be looked at.
    Planned(Arc<[StepInfo]>),
    /// A step began to run.
    Started(StepId),
    /// A step's earlier result is used.
    Cached(StepId),
    /// A step ran, and its result equals an earlier one, which is used.
    SameResult(StepId),
    /// A step has to run, for this reason.
    Missed(StepId, Miss),
    /// A step wrote something.
    Output(StepId, LogStream, Vec<u8>),
    /// A step has done so much of its work, in bytes.
    Progress {
        /// The step.
        step: StepId,
        /// Bytes done.
        done_bytes: u64,
        /// Bytes in all, where known.
        total_bytes: Option<u64>,
    },
    /// A step is done.
    Finished(StepId, Duration),
    /// A step failed; the build's error says why.
    Failed(StepId),
    /// Something that the user should know.
    Warning(String),
}
