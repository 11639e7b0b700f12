//! Where a build reads: its context, its Dockerfile and `--build-context`.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use davit_engine::{
    build::{
        ContextSource, DockerfilePlace, DockerfileText, GitReferenceError, GitSource, HttpSource,
        IgnoreText, ImageSource, LayoutImage, NamedContext, NamedSource, RemoteSource, TarStream,
        context_name, looks_like_archive,
    },
    image::{Digest, Platform, Reference},
};

use super::BuildArgs;
use crate::error::{CliError, ErrorKind, io_error};

/// Bytes that tell an archive from a Dockerfile.
const HEAD: usize = 512;
/// Largest Dockerfile or ignore file in bytes: what BuildKit's messages hold.
const TEXT_LIMIT: u64 = 16 << 20;
/// Name of a file that is a context.
const CONTEXT: &str = "context";

/// A context that is typed: `-`, a directory or an address.
#[derive(Debug)]
pub(super) enum Place {
    Stdin,
    Directory(PathBuf),
    Remote(RemoteSource),
}

impl Place {
    /// Reads the argument; refuses a context that can be none.
    pub(super) fn of(args: &BuildArgs) -> Result<Self, CliError> {
        let path = args.path.as_path();
        if path == Path::new("-") {
            if is_stdin(args.file.as_deref()) {
                let message = "standard input cannot be both Dockerfile and context";
                return Err(CliError::usage(message));
            }
            return Ok(Self::Stdin);
        }
        if path.is_dir() {
            return Ok(Self::Directory(path.to_path_buf()));
        }
        let text = path.to_string_lossy();
        if let Some(source) = remote(&text)? {
            return Ok(Self::Remote(source));
        }
        let error = CliError::user(format!("the context `{text}` is no directory"));
        let hint = || format!("davit build -f {text} DIRECTORY");
        Err(if path.exists() { error.hint(hint()) } else { error })
    }

    /// Whether it is a repository over ssh.
    pub(super) fn is_over_ssh(&self) -> bool {
        matches!(self, Self::Remote(RemoteSource::Git(git)) if git.is_over_ssh())
    }
}

/// The source at an address of a context; `None` for what is no address.
pub(in crate::commands) fn remote(text: &str) -> Result<Option<RemoteSource>, CliError> {
    match GitSource::parse_context(text) {
        Some(Ok(git)) => Ok(Some(RemoteSource::Git(git))),
        Some(Err(error)) => Err(wrong_git(text, &error)),
        None => Ok(HttpSource::parse(text).map(|http| RemoteSource::Http(http.named(CONTEXT)))),
    }
}

/// Whether an address is that of a git repository.
pub(in crate::commands) fn is_git(text: &str) -> Result<bool, CliError> {
    Ok(matches!(remote(text)?, Some(RemoteSource::Git(_))))
}

fn wrong_git(text: &str, error: &GitReferenceError) -> CliError {
    CliError::user(format!("the git repository `{text}`: {error}"))
}

/// Reads `--build-context NAME=VALUE`.
pub(super) fn named(text: &str) -> Result<NamedContext, CliError> {
    let refused = |problem: &str| CliError::user(format!("--build-context `{text}`: {problem}"));
    let (name, value) = text.split_once('=').ok_or_else(|| refused("it is not NAME=VALUE"))?;
    let (name, platform) = match name.split_once("::") {
        None => (name, None),
        Some((name, platform)) => {
            let platform: Result<Platform, _> = platform.parse();
            (name, Some(platform.map_err(|error| refused(&error.to_string()))?))
        }
    };
    let name = context_name(name).ok_or_else(|| refused("the name is not that of an image"))?;
    let reference =
        |text: &str| text.parse::<Reference>().map_err(|error| refused(&error.to_string()));
    let source = if let Some(image) = value.strip_prefix("docker-image://") {
        match image {
            "scratch" => NamedSource::Scratch,
            image => NamedSource::Image(ImageSource::Reference(reference(image)?)),
        }
    } else if let Some(layout) = value.strip_prefix("oci-layout://") {
        let layout = layout_image(layout).map_err(|problem| refused(&problem))?;
        NamedSource::Image(ImageSource::Layout(layout))
    } else if Path::new(value).is_dir() {
        NamedSource::Directory(value.into())
    } else if let Some(source) = remote(value)? {
        NamedSource::Remote(source)
    } else {
        return Err(refused("it is no directory").hint(
            "the value is a directory, docker-image://IMAGE, oci-layout://DIRECTORY[:TAG], a git \
             repository or a URL",
        ));
    };
    Ok(NamedContext { name, platform, source })
}

/// `PATH[:NAME][@DIGEST]`
fn layout_image(text: &str) -> Result<LayoutImage, String> {
    let (text, digest) = match text.split_once('@') {
        None => (text, None),
        Some((text, digest)) => {
            let digest: Result<Digest, _> = digest.parse();
            (text, Some(digest.map_err(|error| error.to_string())?))
        }
    };
    let (path, name) = match text.split_once(':') {
        None => (text, None),
        Some((path, name)) => (path, Some(name.to_owned()).filter(|name| !name.is_empty())),
    };
    if !Path::new(path).is_dir() {
        return Err(format!("`{path}` is no directory"));
    }
    Ok(LayoutImage { path: path.into(), name, digest })
}

/// The Dockerfile and the context; reads standard input if one of them is there.
pub(super) fn sources(
    args: &BuildArgs,
    place: Place,
) -> Result<(DockerfileText, ContextSource), CliError> {
    let file = args.file.as_deref();
    let from_stdin = is_stdin(file);
    let given = match file.map(|file| (file, url(file))) {
        _ if let Some(text) = &args.inline => Some(text_of(text.clone().into_bytes())),
        _ if from_stdin => Some(text_of(read_text(&mut io::stdin().lock(), "the Dockerfile")?)),
        Some((file, Some(source))) => Some(DockerfileText {
            name: file.display().to_string(),
            bytes: Vec::new(),
            place: DockerfilePlace::Remote(source),
            ignore: None,
        }),
        _ => None,
    };
    match place {
        Place::Directory(path) => {
            let text = given.map_or_else(|| from_disk(file, &path), Ok)?;
            Ok((text, ContextSource::Directory(path)))
        }
        Place::Remote(source) => {
            let text = match (given, file) {
                (Some(given), _) => given,
                // What begins at the root is here, and not in the context.
                (None, Some(file)) if file.is_absolute() => from_disk(Some(file), Path::new("/"))?,
                (None, file) => in_context(file),
            };
            Ok((text, ContextSource::Remote(source)))
        }
        Place::Stdin => from_pipe(file, given),
    }
}

fn is_stdin(file: Option<&Path>) -> bool {
    file == Some(Path::new("-"))
}

/// The address that a Dockerfile is at, if it is at one.
fn url(file: &Path) -> Option<HttpSource> {
    HttpSource::parse(file.to_str()?)
}

/// What comes on standard input: a Dockerfile or a tar.
fn from_pipe(
    file: Option<&Path>,
    given: Option<DockerfileText>,
) -> Result<(DockerfileText, ContextSource), CliError> {
    let mut head = Vec::new();
    let mut stdin = io::stdin().lock();
    stdin.by_ref().take(HEAD as u64).read_to_end(&mut head).map_err(io_error)?;
    if looks_like_archive(&head) {
        drop(stdin);
        let stream = io::Cursor::new(head).chain(io::stdin());
        let text = given.unwrap_or_else(|| in_context(file));
        return Ok((text, ContextSource::Tar(TarStream(Box::new(stream)))));
    }
    let text = read_text(&mut io::Cursor::new(head).chain(stdin), "the Dockerfile")?;
    Ok((text_of(text), ContextSource::Empty))
}

/// A Dockerfile that is a file of the context.
fn in_context(file: Option<&Path>) -> DockerfileText {
    let name = file.map_or("Dockerfile".into(), |file| file.to_string_lossy());
    let name = name.trim_start_matches("./").to_owned();
    DockerfileText { name, bytes: Vec::new(), place: DockerfilePlace::Context, ignore: None }
}

fn text_of(bytes: Vec<u8>) -> DockerfileText {
    let (name, place) = ("Dockerfile".to_owned(), DockerfilePlace::Given);
    DockerfileText { name, bytes, place, ignore: None }
}

/// Reads a text that is no larger than any text of its kind is.
fn read_text(source: &mut dyn Read, name: &str) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    source.take(TEXT_LIMIT + 1).read_to_end(&mut bytes).map_err(io_error)?;
    if bytes.len() as u64 > TEXT_LIMIT {
        return Err(CliError::user(format!("{name} is larger than {} MiB", TEXT_LIMIT >> 20)));
    }
    Ok(bytes)
}

/// The file beside a missing one that was perhaps meant.
fn near_file(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let entries = fs_err::read_dir(folder.unwrap_or(Path::new("."))).ok()?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let names: Vec<String> = names.collect();
    let near = davit_engine::nearest(name, names.iter().map(String::as_str))?;
    Some(path.with_file_name(near).display().to_string())
}

/// Where a Dockerfile is, if it is a file beside a context that is a directory.
pub(super) fn dockerfile_on_disk(args: &BuildArgs) -> Option<PathBuf> {
    let file = args.file.as_deref();
    let is_elsewhere = is_stdin(file) || file.is_some_and(|file| url(file).is_some());
    (!is_elsewhere && args.path.is_dir()).then(|| path_of(file, &args.path))
}

fn path_of(named: Option<&Path>, context: &Path) -> PathBuf {
    match named {
        Some(file) if !file.exists() && context.join(file).exists() => context.join(file),
        Some(file) => file.to_path_buf(),
        None => {
            let usual = context.join("Dockerfile");
            let lower = context.join("dockerfile");
            if !usual.exists() && lower.exists() { lower } else { usual }
        }
    }
}

/// Reads the Dockerfile, and the ignore file that stands beside it.
fn from_disk(named: Option<&Path>, context: &Path) -> Result<DockerfileText, CliError> {
    let path = path_of(named, context);
    let file = fs_err::File::open(&path).map_err(|error| {
        let failed = CliError::new(ErrorKind::User, error.to_string());
        match named {
            None => failed.hint("name the Dockerfile by -f FILE"),
            Some(_) => match near_file(&path) {
                Some(near) => failed.hint(format!("did you mean `-f {near}`?")),
                None => failed,
            },
        }
    })?;
    let bytes = read_text(&mut &file, &path.display().to_string())?;
    let mut beside = path.clone().into_os_string();
    beside.push(".dockerignore");
    let ignore = match fs_err::File::open(&beside) {
        Ok(file) => {
            let name = Path::new(&beside).display().to_string();
            let bytes = read_text(&mut &file, &name)?;
            Some(IgnoreText { name, bytes })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(io_error(error)),
    };
    let name = path.strip_prefix(context).unwrap_or(&path).display().to_string();
    Ok(DockerfileText { name, bytes, place: DockerfilePlace::Given, ignore })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_named_contexts() {
        let source = |text: &str| named(text).map(|context| context.source);
        let image = |text: &str| ImageSource::Reference(text.parse().unwrap());
        assert_eq!(
            source("base=docker-image://alpine:3").unwrap(),
            NamedSource::Image(image("alpine:3"))
        );
        assert_eq!(source("base=docker-image://scratch").unwrap(), NamedSource::Scratch);
        assert_eq!(source("src=/").unwrap(), NamedSource::Directory("/".into()));
        for (text, digest) in [("l=oci-layout:///:v1", None), ("l=oci-layout:///:v1@", Some("x"))] {
            let text =
                digest.map_or(text.to_owned(), |_| format!("{text}sha256:{}", "0".repeat(64)));
            let NamedSource::Image(ImageSource::Layout(layout)) = source(&text).unwrap() else {
                panic!("{text}");
            };
            assert_eq!((layout.path, layout.name.as_deref()), ("/".into(), Some("v1")));
            assert_eq!(layout.digest.is_some(), digest.is_some());
        }
        for text in ["g=https://h/r.git#v1", "g=git@h:r.git", "h=http://h/file.tar"] {
            assert!(matches!(source(text).unwrap(), NamedSource::Remote(_)), "{text}");
        }
        let context = named("docker.io/library/base:latest::linux/arm64=/").unwrap();
        assert_eq!(context.name, "base");
        assert_eq!(context.platform.unwrap().to_string(), "linux/arm64");
        for text in [
            "base",
            "Base=/",
            "=/",
            "a=",
            "a=/nosuch-directory",
            "a=docker-image://",
            "a=docker-image://A",
            "a=oci-layout:///nosuch-directory",
            "a=oci-layout:///@sha256:1",
            "a=git://h/r#-x",
            "a::=/",
        ] {
            assert!(named(text).is_err(), "{text}");
        }
    }
}
