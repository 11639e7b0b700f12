//! The full log of a build on disk, whatever the terminal shows.

use std::{
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use crate::StepId;

/// A log file; what cannot be written is lost, the build goes on.
#[derive(Debug)]
pub(crate) struct BuildLog {
    path: PathBuf,
    started: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: BufWriter<fs_err::File>,
    /// The step whose line is not ended.
    open: Option<StepId>,
}

impl BuildLog {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            fs_err::create_dir_all(parent)?;
        }
        let file = BufWriter::new(fs_err::File::create(path)?);
        let inner = Mutex::new(Inner { file, open: None });
        Ok(Self { path: path.to_path_buf(), started: Instant::now(), inner })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a line about a step.
    pub(crate) fn line(&self, step: StepId, text: &str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = self.started.elapsed().as_secs_f64();
        let end = if inner.open.take().is_some() { "\n" } else { "" };
        let line = format!("{end}#{} {seconds:.3} {text}\n", step.0);
        self.write(&mut inner, line.as_bytes());
    }

    /// Writes what a step printed, each line with its number.
    pub(crate) fn output(&self, step: StepId, bytes: &[u8]) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = Vec::with_capacity(bytes.len() + 32);
        let prefix = format!("#{} {:.3} ", step.0, self.started.elapsed().as_secs_f64());
        if inner.open.is_some_and(|open| open != step) {
            text.push(b'\n');
            inner.open = None;
        }
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            if inner.open.is_none() {
                text.extend_from_slice(prefix.as_bytes());
            }
            text.extend_from_slice(line);
            inner.open = (!line.ends_with(b"\n")).then_some(step);
        }
        self.write(&mut inner, &text);
    }

    fn write(&self, inner: &mut Inner, bytes: &[u8]) {
        if let Err(error) = inner.file.write_all(bytes) {
            tracing::warn!(%error, path = %self.path.display(), "cannot write the build's log");
        }
    }

    /// Writes out what is buffered.
    pub(crate) fn flush(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = inner.file.flush() {
            tracing::warn!(%error, path = %self.path.display(), "cannot write the build's log");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_lines_of_steps_apart() {
        let temp = davit_test::TempDir::new();
        let log = BuildLog::create(&temp.path().join("builds/x.log")).unwrap();
        log.line(StepId(1), "RUN a");
        log.output(StepId(1), b"one\ntw");
        log.output(StepId(2), b"other\n");
        log.output(StepId(1), b"o");
        log.output(StepId(1), b"!\n");
        log.flush();
        let text = fs_err::read_to_string(log.path()).unwrap();
        let strip = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let step = words.next().unwrap().to_owned();
            format!("{step} {}", words.nth(1).unwrap())
        };
        let lines: Vec<String> = text.lines().map(strip).collect();
        assert_eq!(lines, ["#1 RUN a", "#1 one", "#1 tw", "#2 other", "#1 o!"]);
    }
}
