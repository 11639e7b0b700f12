//! `--output`: where a result goes.

pub(in crate::commands) mod annotation;
mod image;

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    str::FromStr,
};

use davit_engine::{
    build::{
        Annotation, BuildOutput, BuildSink, ExportMode, FileForm, ImageOutput, PlatformFolders,
    },
    image::Reference,
};

use self::image::ImageKeys;
use crate::error::CliError;

/// One `--output`, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OutputSpec {
    kind: Kind,
    destination: Option<PathBuf>,
    image: ImageKeys,
    files: FileForm,
    mode: ExportMode,
    epoch: Option<i64>,
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
    const fn is_image(self) -> bool {
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
            Some("image" | "registry") => Kind::Image,
            Some("docker") => Kind::Docker,
            Some("oci") => Kind::Oci,
            Some("local") => Kind::Local,
            Some("tar") => Kind::Tar,
            Some("cacheonly") => Kind::CacheOnly,
            Some(other) => {
                return Err(format!(
                    "type `{other}` is none of image, registry, docker, oci, local, tar, cacheonly"
                ));
            }
        });
        if kind.is_some_and(|(_, kind)| kind == "registry") {
            spec.image.push();
        }
        for (key, value) in &fields {
            spec.set(key, value)?;
        }
        spec.image.check()?;
        Ok(spec)
    }
}

/// `KEY=VALUE` fields between commas; one in double quotes may hold commas.
pub(super) fn fields(text: &str) -> Result<Vec<(String, String)>, String> {
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

/// The value of a key that is true or false.
pub(super) fn switch(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("`{key}={value}` is neither true nor false")),
    }
}

impl OutputSpec {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            destination: None,
            image: ImageKeys::default(),
            files: FileForm::default(),
            mode: ExportMode::Copy,
            epoch: None,
            is_tar: true,
        }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let is_files = matches!(self.kind, Kind::Local | Kind::Tar);
        match key {
            "type" => {}
            "dest" if value.is_empty() => return Err("`dest` names nothing".to_owned()),
            "dest" if matches!(self.kind, Kind::Image | Kind::CacheOnly) => {
                return Err("`dest` is for outputs that are files".to_owned());
            }
            "dest" => self.destination = Some(value.into()),
            "tar" if matches!(self.kind, Kind::Docker | Kind::Oci) => {
                self.is_tar = switch(key, value)?;
            }
            "platform-split" if is_files => {
                self.files.folders = match switch(key, value)? {
                    true => PlatformFolders::Always,
                    false => PlatformFolders::Never,
                };
            }
            "attestation-prefix" if is_files && value.contains(['/', '\0']) => {
                return Err(format!("`attestation-prefix={value}` begins no file's name"));
            }
            "attestation-prefix" if is_files => {
                value.clone_into(&mut self.files.attestation_prefix)
            }
            "mode" if self.kind == Kind::Local => {
                self.mode = match value {
                    "copy" => ExportMode::Copy,
                    "delete" => ExportMode::Delete,
                    _ => return Err(format!("mode `{value}` is neither copy nor delete")),
                };
            }
            "source-date-epoch" if self.kind != Kind::CacheOnly => {
                let wrong = || format!("`{value}` is no number of seconds since 1970");
                self.epoch = Some(value.parse().map_err(|_| wrong())?);
            }
            _ if self.kind.is_image() && self.image.set(self.kind, key, value)? => {}
            _ => return Err(format!("`{key}` is not supported")),
        }
        Ok(())
    }

    /// Sends the image to a registry too, if it is one; `false` if it is none.
    pub(super) fn push(&mut self) -> bool {
        let is_image = self.kind == Kind::Image;
        if is_image {
            self.image.push();
        }
        is_image
    }

    /// An image in the store, that registries get as well.
    pub(super) fn pushed() -> Self {
        let mut spec = Self::new(Kind::Image);
        spec.image.push();
        spec
    }

    /// An image in the store.
    pub(super) fn loaded() -> Self {
        Self::new(Kind::Image)
    }

    /// Nothing but what stays in the cache.
    pub(super) fn cache_only() -> Self {
        Self::new(Kind::CacheOnly)
    }

    /// Lets attestations have the older form, unless a key says something else.
    pub(super) fn without_artifact(&mut self) {
        if matches!(self.kind, Kind::Image | Kind::Oci) {
            self.image.without_artifact();
        }
    }

    /// Whether it removes what is in its destination.
    pub(super) fn deletes(&self) -> bool {
        self.mode == ExportMode::Delete
    }

    /// `SOURCE_DATE_EPOCH` as the output has it.
    pub(super) const fn epoch(&self) -> Option<i64> {
        self.epoch
    }

    /// Whether times in layers are rewritten; `None` if it has no layers.
    pub(super) fn rewrite_timestamp(&self) -> Option<bool> {
        self.kind.is_image().then_some(self.image.rewrite_timestamp)
    }

    /// Refuses a push of what has no name.
    pub(super) fn check_names(&self, tags: &[Reference]) -> Result<(), CliError> {
        if self.image.is_pushed() && self.image.names.is_empty() && tags.is_empty() {
            let error = CliError::usage("a push needs a name");
            return Err(error.hint("give it by -t NAME, or name=NAME in --output"));
        }
        Ok(())
    }

    /// Opens the destination; `tags` take the place of the output's own names.
    pub(super) fn open(
        &self,
        tags: &[Reference],
        annotations: &[Annotation],
    ) -> Result<BuildOutput, CliError> {
        let names = if tags.is_empty() { self.image.names.clone() } else { tags.to_vec() };
        let form = self.image.form(annotations);
        let image = |names, form| {
            BuildOutput::Image(ImageOutput { names, form, place: self.image.place() })
        };
        Ok(match self.kind {
            Kind::Image => image(names, form),
            Kind::CacheOnly => BuildOutput::CacheOnly,
            Kind::Local => {
                let path = self.destination.clone();
                let path = path.ok_or_else(|| needs("local", "dest=DIRECTORY"))?;
                BuildOutput::Directory(path, self.files.clone(), self.mode)
            }
            Kind::Tar => BuildOutput::Tar(self.stream()?, self.files.clone()),
            Kind::Docker | Kind::Oci if !self.is_tar => {
                let path = self.destination.clone();
                let path = path.ok_or_else(|| needs("oci,tar=false", "dest=DIRECTORY"))?;
                BuildOutput::Layout(names, form, path)
            }
            // Docker's engine is davit itself: without a destination, the image is in its store.
            Kind::Docker if self.destination.is_none() => image(names, form),
            Kind::Docker | Kind::Oci => BuildOutput::Archive(names, form, self.stream()?),
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
        assert_eq!("type=registry".parse(), Ok(OutputSpec::pushed()));
        assert_eq!("type=image,push=true".parse(), Ok(OutputSpec::pushed()));
        let named: OutputSpec = "type=image,\"name=foo:4,foo:5\"".parse().unwrap();
        assert_eq!(
            named.image.names.iter().map(Reference::familiar).collect::<Vec<_>>(),
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
            "type=image,push=maybe",
            "type=image,dest=a",
            "type=image,compression=lzma",
            "type=image,compression=estargz,compression-level=10",
            "type=image,prefer-nondist-layers=false",
            "type=image,dangling-name-prefix=x",
            "type=image,compatibility-version=20",
            "type=image,compression-level=23",
            "type=image,compression-level=10",
            "type=image,push-by-digest=true",
            "type=image,store=false",
            "type=registry,registry.insecure=true",
            "type=image,annotation-other.a=b",
            "type=image,bogus=1",
            "type=oci,push=true",
            "type=local,compression=gzip",
            "type=local,mode=sync,dest=a",
            "type=tar,mode=delete,dest=a",
            "type=oci,platform-split=true",
            "type=cacheonly,dest=a",
            "type=local,name=a",
            "type=local,dest=a,attestation-prefix=../x",
            "type=image,attestation-inline=maybe",
            "type=image,attestation-inline=true,oci-mediatypes=false",
            "type=oci,\"dest=a\"b",
        ] {
            assert!(bad.parse::<OutputSpec>().is_err(), "{bad}");
        }
    }
}
