//! Definition files, and the folder for what one target gives to another.

use std::{
    io::{self, Read},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use davit_bake::BakeFile;

use crate::{
    environment,
    error::{CliError, io_error},
};

/// Largest file in bytes that is read.
const LIMIT: u64 = (1 << 20) + 1;
/// The files that are looked for, in the order in which they are merged.
pub(super) const USUAL: [&str; 8] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
    "docker-bake.json",
    "docker-bake.hcl",
    "docker-bake.override.json",
    "docker-bake.override.hcl",
];
/// Variables of files, where none is named by an option, and what stands between their names.
const NAMED: &str = "BUILDX_BAKE_FILE";
const SEPARATOR: &str = "BUILDX_BAKE_PATH_SEPARATOR";
/// What names a file of this machine where the definition lies elsewhere.
const LOCAL: &str = "cwd://";
/// Variables for Compose files besides those of the environment.
const DOTENV: &str = ".env";

/// The files that are named by options, else by the environment.
pub(super) fn named(options: &[PathBuf]) -> Vec<String> {
    if !options.is_empty() {
        return options.iter().map(|path| path.display().to_string()).collect();
    }
    let Some(names) = environment::variable_text(NAMED) else { return Vec::new() };
    let separator = environment::variable_text(SEPARATOR).filter(|text| !text.is_empty());
    let separator = separator.unwrap_or_else(|| ":".to_owned());
    let names = names.split(&separator).map(str::trim).filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// Reads the files of this machine that are named, else the usual ones.
pub(super) fn read(named: &[String]) -> Result<Vec<BakeFile>, CliError> {
    let usual = USUAL.iter().filter(|path| Path::new(path).exists());
    let names: Vec<&str> = match named {
        [] => usual.copied().collect(),
        named => named.iter().map(|name| name.strip_prefix(LOCAL).unwrap_or(name)).collect(),
    };
    if names.is_empty() {
        let text = "there is no docker-bake.hcl, docker-bake.json or compose.yaml here";
        return Err(CliError::user(text).hint("davit bake -f FILE"));
    }
    names.into_iter().map(|name| read_one(Path::new(name))).collect()
}

/// The names that are of this machine wherever the definition lies.
pub(super) fn local(named: &[String]) -> (Vec<String>, Vec<String>) {
    named.iter().cloned().partition(|name| name.starts_with(LOCAL) || name == "-")
}

pub(super) fn read_one(path: &Path) -> Result<BakeFile, CliError> {
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

/// The variables of the working directory's file.
pub(super) fn dotenv() -> Result<Option<BakeFile>, CliError> {
    let path = Path::new(DOTENV);
    if path.is_file() { read_one(path).map(Some) } else { Ok(None) }
}

/// A file that a Compose file names, as an error says why it cannot be read.
pub(super) fn text(path: &str) -> Result<String, String> {
    if !Path::new(path).is_file() {
        return Err("there is no such file".to_owned());
    }
    read_one(Path::new(path)).map(|file| file.text).map_err(|error| error.to_string())
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

    /// The folder for a definition that lies elsewhere; no target's name has a dot.
    pub(super) fn definition(&self) -> PathBuf {
        self.0.join("remote.definition")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs_err::remove_dir_all(&self.0) {
            tracing::warn!(%error, "what targets gave to each other is left behind");
        }
    }
}
