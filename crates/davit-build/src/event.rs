//! What a build tells while it runs.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Difference, checks::Checks, key::Miss};

/// Receives the events of one build, in the order in which they happen; must not block for long.
pub type EventSink<'a> = &'a (dyn Fn(BuildEvent) + Sync);

/// Number of a step within one build, from 0 in Dockerfile order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct StepId(pub u32);

/// A step as shown to people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepInfo {
    /// Its number.
    pub id: StepId,
    /// Its name, as `[stage 2/5] RUN make`.
    pub name: String,
    /// First line in the Dockerfile; 0 for steps that stand nowhere in it.
    pub line: u32,
    /// Last line there; 0 as well.
    pub last_line: u32,
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
    /// The build is recorded from now on, under this id; comes first.
    Begun(String),
    /// The Dockerfile is read, and is one.
    Read(Arc<[u8]>),
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
    /// A second build gave the same, or this is the first difference.
    Compared(Option<Box<Difference>>),
    /// Somebody works by hand from now on, in the step of this name if it failed.
    ByHand(Option<String>),
    /// Something that the user should know.
    Warning(String),
}
