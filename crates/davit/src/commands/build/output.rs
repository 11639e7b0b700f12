//! `--output`: where a result goes.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    str::FromStr,
};

use davit_engine::{
    build::{BuildOutput, BuildSink},
    image::Reference,
};

use crate::error::CliError;

/// One `--output`, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OutputSpec {
    kind: Kind,
    destination: Option<PathBuf>,
    names: Vec<Reference>,
    /// Whether an archive is one file, not a directory.
    is_tar: bool,
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

impl Kind {
    const fn has_names(self) -> bool {
        matches!(self, Self::Image | Self::Docker | Self::Oci)
    }
}

impl FromStr for OutputSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("dest is required for local exporter".to_owned());
        }
        if !text.contains('=') {
            let kind = if text == "-" { Kind::Tar } else { Kind::Local };
            return Ok(Self { destination: Some(text.into()), ..Self::new(kind) });
        }
        let fields = fields(text)?;
        let kind = fields.iter().find(|(key, _)| key == "type");
        let mut spec = Self::new(match kind.map(|(_, value)| value.as_str()) {
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
        });
        for (key, value) in &fields {
            spec.set(key, value)?;
        }
        Ok(spec)
    }
}

/// `KEY=VALUE` fields between commas; one in double quotes may hold commas.
fn fields(text: &str) -> Result<Vec<(String, String)>, String> {
    let (mut fields, mut rest) = (Vec::new(), Some(text));
    while let Some(text) = rest {
        let (field, after) = match text.strip_prefix('"').and_then(|text| text.split_once('"')) {
            Some((field, "")) => (field, None),
            Some((field, after)) => {
                let after = after.strip_prefix(',').ok_or("a comma must follow a quote")?;
                (field, Some(after))
            }
            None => text.split_once(',').map_or((text, None), |(field, rest)| (field, Some(rest))),
        };
        let (key, value) =
            field.split_once('=').ok_or_else(|| format!("`{field}` has no value"))?;
        fields.push((key.trim().to_ascii_lowercase(), value.to_owned()));
        rest = after;
    }
    Ok(fields)
}

impl OutputSpec {
    const fn new(kind: Kind) -> Self {
        Self { kind, destination: None, names: Vec::new(), is_tar: true }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let switch = || match value {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(format!("`{key}={value}` is neither true nor false")),
        };
        match key {
            "type" => {}
            "dest" if value.is_empty() => return Err("`dest` names nothing".to_owned()),
            "dest" => self.destination = Some(value.into()),
            "name" if self.kind.has_names() => {
                let name = |name: &str| {
                    name.parse::<Reference>().map_err(|error| format!("name `{name}`: {error}"))
                };
                self.names = value.split(',').map(name).collect::<Result<_, _>>()?;
            }
            "tar" if matches!(self.kind, Kind::Docker | Kind::Oci) => self.is_tar = switch()?,
            "push" if self.kind == Kind::Image => {
                if switch()? {
                    let advice = "build with name=NAME, then `davit push NAME`";
                    return Err(format!("push=true is not supported: {advice}"));
                }
            }
            _ => return Err(format!("`{key}` is not supported")),
        }
        Ok(())
    }

    /// Opens the destination; `tags` take the place of the output's own names.
    pub(super) fn open(&self, tags: &[Reference]) -> Result<BuildOutput, CliError> {
        let names = if tags.is_empty() { self.names.clone() } else { tags.to_vec() };
        Ok(match self.kind {
            Kind::Image => BuildOutput::Image(names),
            Kind::CacheOnly => BuildOutput::CacheOnly,
            Kind::Local => {
                let path = self.destination.clone();
                BuildOutput::Directory(path.ok_or_else(|| needs("local", "dest=DIRECTORY"))?)
            }
            Kind::Tar => BuildOutput::Tar(self.stream()?),
            Kind::Docker | Kind::Oci if !self.is_tar => {
                let path = self.destination.clone();
                let path = path.ok_or_else(|| needs("oci,tar=false", "dest=DIRECTORY"))?;
                BuildOutput::Layout(names, path)
            }
            // Docker's engine is davit itself: without a destination, the image is in its store.
            Kind::Docker if self.destination.is_none() => BuildOutput::Image(names),
            Kind::Docker | Kind::Oci => BuildOutput::Archive(names, self.stream()?),
        })
    }

    fn stream(&self) -> Result<BuildSink, CliError> {
        match self.destination.as_deref().filter(|path| path.as_os_str() != "-") {
            Some(path) => Ok(BuildSink::file(path)?),
            None if io::stdout().is_terminal() => {
                let error = CliError::user("refusing to write an archive to a terminal");
                Err(error.hint("add dest=FILE, or send the output to a file or pipe"))
            }
            None => Ok(BuildSink::Stream(Box::new(io::stdout()))),
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
            let destination = destination.map(PathBuf::from);
            Ok(OutputSpec { destination, ..OutputSpec::new(kind) })
        };
        assert_eq!("out".parse(), spec(Kind::Local, Some("out")));
        assert_eq!("-".parse(), spec(Kind::Tar, Some("-")));
        assert_eq!("type=oci,dest=a.tar".parse(), spec(Kind::Oci, Some("a.tar")));
        assert_eq!("type=image,push=false".parse(), spec(Kind::Image, None));
        let named: OutputSpec = "type=image,\"name=foo:4,foo:5\"".parse().unwrap();
        assert_eq!(
            named.names.iter().map(Reference::familiar).collect::<Vec<_>>(),
            ["foo:4", "foo:5"]
        );
        let layout: OutputSpec = "\"dest=a,b\",type=oci,tar=false,name=x".parse().unwrap();
        assert_eq!((layout.is_tar, layout.destination), (false, Some("a,b".into())));
        for bad in [
            "type=x",
            "dest=a",
            "type=tar,compression=zstd",
            "",
            "type=local,dest=",
            "type=tar,dest=",
            "type=oci,dest",
            "type=image,name=A",
            "type=image,push=true",
            "type=image,push=maybe",
            "type=local,name=a",
            "type=oci,\"dest=a\"b",
        ] {
            assert!(bad.parse::<OutputSpec>().is_err(), "{bad}");
        }
    }
}
