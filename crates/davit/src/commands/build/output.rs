//! `--output`: where a result goes.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _, Write},
    path::PathBuf,
    str::FromStr,
};

use davit_engine::build::BuildOutput;

use crate::error::{CliError, io_error};

/// One `--output`, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OutputSpec {
    kind: Kind,
    destination: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Image,
    Docker,
    Oci,
    Local,
    Tar,
    CacheOnly,
}

impl FromStr for OutputSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains('=') {
            let kind = if text == "-" { Kind::Tar } else { Kind::Local };
            return Ok(Self { kind, destination: Some(text.into()) });
        }
        let mut fields = BTreeMap::new();
        for field in text.split(',') {
            let (key, value) =
                field.split_once('=').ok_or_else(|| format!("`{field}` has no value"))?;
            fields.insert(key.trim().to_ascii_lowercase(), value.to_owned());
        }
        let kind = match fields.remove("type").as_deref() {
            None => return Err("the type is missing".to_owned()),
            Some("image") => Kind::Image,
            Some("docker") => Kind::Docker,
            Some("oci") => Kind::Oci,
            Some("local") => Kind::Local,
            Some("tar") => Kind::Tar,
            Some("cacheonly") => Kind::CacheOnly,
            Some(other) => {
                return Err(format!(
                    "type `{other}` is none of image, docker, oci, local, tar, cacheonly"
                ));
            }
        };
        let destination = fields.remove("dest").map(PathBuf::from);
        match fields.into_keys().next() {
            Some(key) => Err(format!("`{key}` is not supported")),
            None => Ok(Self { kind, destination }),
        }
    }
}

impl OutputSpec {
    /// Opens the destination.
    pub(super) fn open(&self, tags: &[String]) -> Result<BuildOutput, CliError> {
        Ok(match self.kind {
            Kind::Image => BuildOutput::Image,
            Kind::CacheOnly => BuildOutput::CacheOnly,
            Kind::Local => {
                let path = self.destination.clone();
                BuildOutput::Directory(path.ok_or_else(|| needs("local", "dest=DIRECTORY"))?)
            }
            Kind::Tar => BuildOutput::Tar(self.stream()?),
            // Docker's engine is davit itself: without a destination, the image is in its store.
            Kind::Docker if self.destination.is_none() => BuildOutput::Image,
            Kind::Docker | Kind::Oci => {
                let _names = tags;
                BuildOutput::Archive(self.stream()?)
            }
        })
    }

    fn stream(&self) -> Result<Box<dyn Write + Send>, CliError> {
        match self.destination.as_deref().filter(|path| path.as_os_str() != "-") {
            Some(path) => {
                let file = fs_err::File::create(path).map_err(io_error)?;
                Ok(Box::new(io::BufWriter::with_capacity(1 << 20, file)))
            }
            None if io::stdout().is_terminal() => {
                let error = CliError::user("refusing to write an archive to a terminal");
                Err(error.hint("add dest=FILE, or send the output to a file or pipe"))
            }
            None => Ok(Box::new(io::stdout())),
        }
    }
}

fn needs(kind: &str, what: &str) -> CliError {
    CliError::usage(format!("--output type={kind} needs {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_specs() {
        let spec = |kind, destination: Option<&str>| {
            Ok(OutputSpec { kind, destination: destination.map(PathBuf::from) })
        };
        assert_eq!("out".parse(), spec(Kind::Local, Some("out")));
        assert_eq!("-".parse(), spec(Kind::Tar, Some("-")));
        assert_eq!("type=oci,dest=a.tar".parse(), spec(Kind::Oci, Some("a.tar")));
        assert_eq!("type=image".parse(), spec(Kind::Image, None));
        for bad in ["type=x", "dest=a", "type=tar,compression=zstd", "type=oci,dest"] {
            assert!(bad.parse::<OutputSpec>().is_err(), "{bad}");
        }
    }
}
