//! `/readyz`: whether requests can be answered, which is asked of what they need, not assumed.

use std::{
    fs::File,
    io::{self, Write as _},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::StatusCode;
use rustix::fs::{Mode, OFlags};

use crate::{db::Database, fault::in_words};

/// How long an answer holds: whoever asks more often gets the same one.
const HOLDS: Duration = Duration::from_secs(1);
/// How long the database may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// What is written to see whether there is room.
const PROBE: [u8; 16 << 10] = [0x5a; 16 << 10];

type Answer = (StatusCode, &'static str);

/// What requests need; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Health {
    database: Database,
    /// Directories that are written to.
    directories: Arc<Vec<PathBuf>>,
    last: Arc<Mutex<Option<(Instant, Answer)>>>,
}

impl Health {
    pub(super) fn new(database: Database, directories: Vec<PathBuf>) -> Self {
        Self { database, directories: Arc::new(directories), last: Arc::default() }
    }

    pub(super) async fn ready(&self) -> Answer {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, answer)) = last
            && at.elapsed() < HOLDS
        {
            return answer;
        }
        let answer = self.look().await;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), answer));
        answer
    }

    async fn look(&self) -> Answer {
        // Requests wait longer for a database that comes back; who asks here sends them elsewhere meanwhile.
        let problem = match tokio::time::timeout(PATIENCE, self.database.probe()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(in_words(&error)),
            Err(_elapsed) => Some(format!("no answer in {PATIENCE:?}")),
        };
        if let Some(problem) = problem {
            tracing::error!(problem, "the database does not answer");
            return (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n");
        }
        let directories = Arc::clone(&self.directories);
        let write = move || directories.iter().try_for_each(probe);
        let written = tokio::task::spawn_blocking(write).await;
        match written.unwrap_or_else(|panicked| Err(io::Error::other(panicked))) {
            Ok(()) => (StatusCode::OK, "ready\n"),
            Err(error) => {
                let is_full = matches!(
                    error.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                );
                tracing::error!(%error, "the disk takes nothing");
                let words =
                    if is_full { "the disk is full\n" } else { "the disk cannot be written to\n" };
                (StatusCode::SERVICE_UNAVAILABLE, words)
            }
        }
    }
}

/// Writes a file that has no name, and is gone when it is closed.
fn probe(directory: &PathBuf) -> io::Result<()> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(directory, flags, Mode::from_raw_mode(0o600))?;
    File::from(file).write_all(&PROBE)
}
