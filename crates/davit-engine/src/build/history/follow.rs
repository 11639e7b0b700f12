//! The log of a build that runs, read as it grows.

use std::{
    io::{self, Read},
    path::Path,
    thread,
    time::Duration,
};

/// How long it takes at most until somebody sees what was written.
const PAUSE: Duration = Duration::from_millis(50);

/// Says whether the build still runs.
pub(super) type Runs<'a> = &'a dyn Fn() -> io::Result<bool>;

/// Opens a log, which may come into being while the build runs; `None` if it left none.
pub(super) fn open<'a>(path: &Path, runs: Runs<'a>) -> io::Result<Option<Growing<'a>>> {
    loop {
        // Asked first: what an ended build wrote is there when it is looked for.
        let is_running = runs()?;
        match fs_err::File::open(path) {
            Ok(file) => return Ok(Some(Growing { file, runs })),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) if !is_running => return Ok(None),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// A file whose end is where its writer ends.
pub(super) struct Growing<'a> {
    file: fs_err::File,
    runs: Runs<'a>,
}

impl Read for Growing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = self.file.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            if !(self.runs)()? {
                // What it wrote between the two.
                return self.file.read(buffer);
            }
            thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, io::Write as _};

    use super::*;

    /// What was written when it is asked whether the writer runs is read, and nothing is waited for
    /// after its end.
    #[test]
    fn reads_until_the_writer_ends() {
        let temp = davit_test::TempDir::new();
        let path = temp.join("log");
        let asked = Cell::new(0);
        let runs = || {
            asked.set(asked.get() + 1);
            if asked.get() > 4 {
                return Ok(false);
            }
            let mut file = fs_err::OpenOptions::new().create(true).append(true).open(&path)?;
            file.write_all(format!("{} ", asked.get()).as_bytes())?;
            Ok(asked.get() < 4)
        };
        let mut text = String::new();
        open(&path, &runs).unwrap().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "1 2 3 4 ");
        assert!(open(&temp.join("none"), &|| Ok(false)).unwrap().is_none());
        let failed = || Err(io::Error::other("no"));
        assert!(open(&path, &failed).is_err());
    }
}
