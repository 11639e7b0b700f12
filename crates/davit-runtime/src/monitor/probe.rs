//! The last results of a container's health check (`RUN_ROOT/ROOTID/c/ID/health`).
//!
//! One JSON document, `{"version": 1, "probes": [PROBE, …]}`, the oldest first; replaced as a whole,
//! so that a reader never sees half of one. It is as lasting as the run directory: until the boot.

use std::{
    collections::VecDeque,
    io::{self, PipeReader, Read as _},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use davit_image::Timestamp;
use serde::{Deserialize, Serialize};

/// Results that are kept (as Docker keeps them).
const KEPT: usize = 5;
/// Bytes of a check's output that are kept (as Docker keeps them).
const OUTPUT_LIMIT: usize = 4096;
/// Bytes read at once: more than are kept, so that one read at a check's end sees what is cut.
const READ_BYTES: usize = 2 * OUTPUT_LIMIT;
const VERSION: u32 = 1;

/// One health check that has ended, in the names of Docker's API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Probe {
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// What it exited with; -1 if it took too long or could not be started.
    pub exit_code: i32,
    /// What it wrote to both streams, with `...` after the first 4096 bytes.
    pub output: String,
}

#[derive(Serialize, Deserialize)]
struct Document<P> {
    version: u32,
    probes: P,
}

/// The last probes of the container with this run directory; none where nothing can be read.
#[must_use]
pub fn read(run_directory: &Path) -> Vec<Probe> {
    let Ok(bytes) = fs_err::read(path(run_directory)) else { return Vec::new() };
    match serde_json::from_slice(&bytes) {
        Ok(Document { version: VERSION, probes }) => probes,
        _ => Vec::new(),
    }
}

fn path(run_directory: &Path) -> PathBuf {
    run_directory.join("health")
}

/// The last probes, in memory and in their file.
#[derive(Debug)]
pub(crate) struct ProbeLog {
    path: PathBuf,
    probes: VecDeque<Probe>,
}

impl ProbeLog {
    /// An empty log; what an earlier run of the container left goes away.
    pub(crate) fn new(run_directory: &Path) -> Self {
        let path = path(run_directory);
        // Most often there is none; one that stays is replaced by the first probe.
        drop(fs_err::remove_file(&path));
        Self { path, probes: VecDeque::new() }
    }

    /// Keeps a probe; without its file the check itself still counts.
    pub(crate) fn push(&mut self, probe: Probe) {
        if self.probes.len() == KEPT {
            self.probes.pop_front();
        }
        self.probes.push_back(probe);
        if let Err(error) = self.write() {
            tracing::warn!(%error, "cannot write the results of health checks");
        }
    }

    fn write(&self) -> io::Result<()> {
        let json = serde_json::to_vec(&Document { version: VERSION, probes: &self.probes })?;
        let new = self.path.with_extension("new");
        fs_err::write(&new, json)?;
        fs_err::rename(&new, &self.path)
    }
}

/// What a check writes, as far as it is kept; the rest is read and dropped, so that no check hangs.
#[derive(Debug)]
pub(crate) struct Output {
    /// `None` after its end.
    pipe: Option<PipeReader>,
    kept: Vec<u8>,
    is_cut: bool,
}

impl Output {
    /// A pipe: our end, and two ends for a check's standard output and error.
    pub(crate) fn new() -> io::Result<(Self, [OwnedFd; 2])> {
        let (reader, writer) = io::pipe()?;
        rustix::io::ioctl_fionbio(&reader, true)?;
        let ends = [writer.try_clone()?.into(), writer.into()];
        Ok((Self { pipe: Some(reader), kept: Vec::new(), is_cut: false }, ends))
    }

    /// Readable when [`Output::drain`] has something to do.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Reads what is there now, once: whoever writes without end does not hold up the monitor.
    pub(crate) fn drain(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut buffer = [0; READ_BYTES];
        match pipe.read(&mut buffer) {
            Ok(length @ 1..) => {
                let room = OUTPUT_LIMIT - self.kept.len();
                self.kept.extend_from_slice(&buffer[..length.min(room)]);
                self.is_cut |= length > room;
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            _ => self.pipe = None,
        }
    }

    /// What was kept.
    pub(crate) fn text(mut self) -> String {
        self.drain();
        let mut text = String::from_utf8_lossy(&self.kept).into_owned();
        if self.is_cut {
            text.push_str("...");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_last_ones_are_kept() {
        let directory = davit_test::TempDir::new();
        let probe = |exit_code| Probe {
            start: Timestamp::EPOCH,
            end: Timestamp::EPOCH,
            exit_code,
            output: "x".to_owned(),
        };
        let mut log = ProbeLog::new(directory.path());
        assert_eq!(read(directory.path()), []);
        (0..7).for_each(|code| log.push(probe(code)));
        assert_eq!(read(directory.path()), (2..7).map(probe).collect::<Vec<_>>());
        fs_err::write(path(directory.path()), "{\"version\": 2, \"probes\": []}").unwrap();
        assert_eq!(read(directory.path()), []);
        drop(ProbeLog::new(directory.path()));
        assert!(!path(directory.path()).exists());
    }

    #[test]
    fn output_is_cut_and_never_awaited() {
        let (mut output, [stdout, stderr]) = Output::new().unwrap();
        output.drain();
        let mut writers = [std::fs::File::from(stdout), std::fs::File::from(stderr)];
        for writer in &mut writers {
            writer.write_all(&[b'a'; 3000]).unwrap();
        }
        output.drain();
        assert!(output.descriptor().is_some());
        drop(writers);
        output.drain();
        assert!(output.descriptor().is_none());
        assert_eq!(output.text(), format!("{}...", "a".repeat(OUTPUT_LIMIT)));
    }
}
