//! Definition files, and the folder for what one target gives to another.

use std::{
    io::{self, Read},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use davit_bake::BakeFile;

use crate::error::{CliError, io_error};

/// Largest file in bytes that is read.
const LIMIT: u64 = (1 << 20) + 1;
/// The files that are looked for, in the order in which they are merged.
const USUAL: [&str; 4] = [
    "docker-bake.json",
    "docker-bake.hcl",
    "docker-bake.override.json",
    "docker-bake.override.hcl",
];

/// Reads the files that are named, else the usual ones.
pub(super) fn read(named: &[PathBuf]) -> Result<Vec<BakeFile>, CliError> {
    let usual = USUAL.iter().map(PathBuf::from).filter(|path| path.exists());
    let paths: Vec<PathBuf> = if named.is_empty() { usual.collect() } else { named.to_vec() };
    if paths.is_empty() {
        return Err(CliError::user("there is no docker-bake.hcl or docker-bake.json here")
            .hint("davit bake -f FILE"));
    }
    paths.iter().map(|path| read_one(path)).collect()
}

fn read_one(path: &Path) -> Result<BakeFile, CliError> {
    let mut bytes = Vec::new();
    let name = if path == Path::new("-") {
        io::stdin().lock().take(LIMIT).read_to_end(&mut bytes).map_err(io_error)?;
        "<standard input>".to_owned()
    } else {
        let file = fs_err::File::open(path).map_err(io_error)?;
        file.take(LIMIT).read_to_end(&mut bytes).map_err(io_error)?;
        path.display().to_string()
    };
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| CliError::user(format!("{name}: the file is not UTF-8")))?;
    Ok(BakeFile { name, text })
}

/// A folder of this run alone, which ends with it.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Result<Self, CliError> {
        let folder = std::env::temp_dir().join(format!("davit-bake-{}", std::process::id()));
        #[allow(clippy::disallowed_types, reason = "fs-err has no builder with a mode")]
        let made = std::fs::DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(io_error)?;
        Ok(Self(folder))
    }

    /// The layout of a target that others are built of.
    pub(super) fn layout(&self, target: &str) -> PathBuf {
        self.0.join(target)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs_err::remove_dir_all(&self.0) {
            tracing::warn!(%error, "what targets gave to each other is left behind");
        }
    }
}
