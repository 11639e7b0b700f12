//! Where an image is or goes, as text: `docker://REF`, `store:REF`, `oci:PATH[:NAME]`,
//! `docker-archive:PATH[:REF]`, `dir:PATH`; a bare reference is the store.

use std::{fmt, path::PathBuf, str::FromStr};

use davit_image::{Reference, ReferenceError};

/// Where an image is or goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A registry.
    Registry(Reference),
    /// davit's store.
    Store(Reference),
    /// An OCI layout directory; the name is one of its index, any text.
    Layout {
        /// The directory.
        path: PathBuf,
        /// The image's name in it.
        name: Option<String>,
    },
    /// A `docker save` archive.
    DockerArchive {
        /// The file.
        path: PathBuf,
        /// The image's name in it.
        name: Option<String>,
    },
    /// A folder in the `dir:` form of containers/image.
    Folder(PathBuf),
}

/// Why a text is no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The reference is malformed.
    #[error("`{text}` names no image")]
    Reference {
        /// The text.
        text: String,
        /// Cause.
        #[source]
        source: ReferenceError,
    },
    /// The path is empty.
    #[error("`{0}` has no path")]
    NoPath(String),
    /// What other tools know.
    #[error(
        "`{0}` is no known kind of place: these are docker://, store:, oci:, docker-archive:, dir:"
    )]
    Scheme(String),
}

/// Schemes of containers/image that davit does not have. An image of such a name is `store:NAME`.
const FOREIGN: [&str; 7] =
    ["containers-storage", "docker-daemon", "oci-archive", "ostree", "sif", "tarball", "atomic"];

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let reference = |rest: &str| {
            rest.parse::<Reference>()
                .map_err(|source| PlaceError::Reference { text: text.to_owned(), source })
        };
        if let Some(rest) = text.strip_prefix("docker://") {
            return reference(rest).map(Self::Registry);
        }
        let path_and_name = |rest: &str| {
            let (path, name) = match rest.split_once(':') {
                Some((path, name)) => (path, Some(name.to_owned()).filter(|name| !name.is_empty())),
                None => (rest, None),
            };
            if path.is_empty() {
                return Err(PlaceError::NoPath(text.to_owned()));
            }
            Ok((PathBuf::from(path), name))
        };
        match text.split_once(':') {
            Some(("store", rest)) => reference(rest).map(Self::Store),
            Some(("oci", rest)) => {
                path_and_name(rest).map(|(path, name)| Self::Layout { path, name })
            }
            Some(("docker-archive", rest)) => {
                path_and_name(rest).map(|(path, name)| Self::DockerArchive { path, name })
            }
            // A path of this form takes no name, hence may hold colons.
            Some(("dir", "")) => Err(PlaceError::NoPath(text.to_owned())),
            Some(("dir", rest)) => Ok(Self::Folder(rest.into())),
            Some((scheme, rest)) if rest.starts_with("//") || FOREIGN.contains(&scheme) => {
                Err(PlaceError::Scheme(scheme.to_owned()))
            }
            _ => reference(text).map(Self::Store),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |f: &mut fmt::Formatter<'_>, form, path: &PathBuf, name: &Option<String>| {
            write!(f, "{form}:{}", path.display())?;
            name.as_ref().map_or(Ok(()), |name| write!(f, ":{name}"))
        };
        match self {
            Self::Registry(reference) => write!(f, "docker://{reference}"),
            Self::Store(reference) => write!(f, "store:{}", reference.familiar()),
            Self::Layout { path, name } => named(f, "oci", path, name),
            Self::DockerArchive { path, name } => named(f, "docker-archive", path, name),
            Self::Folder(path) => write!(f, "dir:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        for (text, shown) in [
            ("docker://alpine", "docker://docker.io/library/alpine:latest"),
            ("docker://localhost:5000/a/b:1", "docker://localhost:5000/a/b:1"),
            ("alpine", "store:alpine:latest"),
            ("store:localhost:5000/a", "store:localhost:5000/a:latest"),
            ("localhost:5000/a", "store:localhost:5000/a:latest"),
            ("oci:/a/b", "oci:/a/b"),
            ("oci:dir:v1", "oci:dir:v1"),
            ("oci:dir:", "oci:dir"),
            ("docker-archive:x.tar:a/b:1", "docker-archive:x.tar:a/b:1"),
            ("dir:/a:b", "dir:/a:b"),
            ("store:ostree:1", "store:ostree:1"),
        ] {
            let place: Place = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(place.to_string(), shown);
            assert_eq!(place.to_string().parse(), Ok(place), "{text}");
        }
        for text in [
            "",
            "oci:",
            "oci::v1",
            "dir:",
            "docker://",
            "docker://UPPER",
            "store:",
            "docker-archive:",
        ] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
        for text in ["oci-archive:s.tar", "containers-storage:x", "https://h/x"] {
            let error = text.parse::<Place>();
            assert!(matches!(error, Err(PlaceError::Scheme(_))), "{text}: {error:?}");
        }
    }
}
