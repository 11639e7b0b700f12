//! Reading a container's log.

use std::time::Duration;

use davit_image::Timestamp;
use davit_runtime::monitor::log::{LogDriver, LogExtent, LogLine, LogReader};

use super::ContainerError;
use crate::Engine;

/// How long a follower sleeps when there is nothing new.
const NAP: Duration = Duration::from_millis(20);

/// Whether to wait for more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFollow {
    /// Only what is there.
    #[default]
    No,
    /// Until the container's end.
    Yes,
}

/// Which lines of a log to read.
#[derive(Clone, Debug, Default)]
pub struct LogRequest {
    /// Only the last lines.
    pub tail: Option<u64>,
    /// Only later ones.
    pub since: Option<Timestamp>,
    /// Only earlier ones.
    pub until: Option<Timestamp>,
    /// Whether to wait for more.
    pub follow: LogFollow,
}

/// Lines of a log as they come.
#[derive(Debug)]
pub struct Logs<'a> {
    engine: &'a Engine,
    id: String,
    reader: LogReader,
    request: LogRequest,
    ending: bool,
    /// Whether the container has a terminal: its output is one raw stream.
    pub terminal: bool,
}

impl Engine {
    /// Opens a container's log.
    ///
    /// # Errors
    /// [`ContainerError::NotFound`]; [`ContainerError::Conflict`] when nothing is kept.
    pub fn logs(&self, name: &str, request: LogRequest) -> Result<Logs<'_>, ContainerError> {
        let container = self.container(name)?;
        if container.spec.log.driver == LogDriver::None {
            return Err(ContainerError::Conflict(
                "configured logging driver does not support reading".to_owned(),
            ));
        }
        let path = self.store().layout().container(&container.id).join("log");
        let extent = match request.follow {
            LogFollow::No => LogExtent::Present,
            LogFollow::Yes => LogExtent::Growing,
        };
        let reader = LogReader::open(&path, request.tail, extent)
            .map_err(|error| ContainerError::io("read", &path, error))?;
        let terminal = container.spec.tty.is_on();
        Ok(Logs { engine: self, id: container.id, reader, request, ending: false, terminal })
    }
}

impl Logs<'_> {
    /// The next line; with [`LogFollow::Yes`] it waits for one while the container lives.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn next_line(&mut self) -> Result<Option<LogLine>, ContainerError> {
        loop {
            let line = self
                .reader
                .next_line()
                .map_err(|error| ContainerError::io("read", "log", error))?;
            match line {
                Some(line) if self.request.until.is_some_and(|until| line.time > until) => {
                    return Ok(None);
                }
                Some(line) if self.request.since.is_some_and(|since| line.time < since) => {}
                Some(line) => return Ok(Some(line)),
                None if self.ending => return Ok(None),
                None if self.engine.may_grow(&self.id, self.request.follow)? => {
                    std::thread::sleep(NAP)
                }
                // One more look: the last lines may have come between the two questions.
                None => self.ending = true,
            }
        }
    }
}
