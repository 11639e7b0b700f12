//! Where blobs are, as a URL says it.

use std::{fmt, path::PathBuf};

use object_store::{aws::AmazonS3ConfigKey, azure::AzureConfigKey, gcp::GoogleConfigKey};
use url::Url;

/// Where the blobs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreLocation {
    /// In a directory, which nodes that share a database share too.
    Directory(PathBuf),
    /// In an object store.
    Objects(ObjectLocation),
}

/// A bucket, a prefix in it, and how it is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct ObjectLocation {
    /// Without a query.
    pub(super) url: Url,
    /// Names and values as `object_store` knows them; they hold secrets.
    pub(super) options: Vec<(String, String)>,
}

/// Kinds of object stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    S3,
    Google,
    Azure,
}

/// The text says of no store where it is.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StoreUrlError {
    /// Another scheme, or none.
    #[error("a store is file:DIR, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX")]
    Form,
    /// A directory that depends on where the server is started.
    #[error("file: takes an absolute path")]
    Relative,
    /// An unknown parameter.
    #[error("`{0}` is no setting of this kind of store")]
    Option(String),
}

impl StoreLocation {
    /// Reads a URL, and from the environment what belongs to its kind (`AWS_…`, `GOOGLE_…`,
    /// `AZURE_…`). Parameters of the query go before the environment; a plain `http:` endpoint is
    /// enough to allow it.
    ///
    /// ```
    /// use davit_registry::store::StoreLocation;
    ///
    /// let url = "s3://images/davit?endpoint=http://127.0.0.1:9000&region=eu-west-1";
    /// let environment = [("AWS_ACCESS_KEY_ID".to_owned(), "id".to_owned())];
    /// assert!(matches!(StoreLocation::parse(url, environment), Ok(StoreLocation::Objects(_))));
    /// ```
    ///
    /// # Errors
    /// [`StoreUrlError`].
    pub fn parse(
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, StoreUrlError> {
        if let Some(path) = text.strip_prefix("file:") {
            let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
            return if path.is_absolute() {
                Ok(Self::Directory(path))
            } else {
                Err(StoreUrlError::Relative)
            };
        }
        let mut url = Url::parse(text).map_err(|_error| StoreUrlError::Form)?;
        let kind = Kind::of(&url).ok_or(StoreUrlError::Form)?;
        if url.host_str().is_none_or(str::is_empty) {
            return Err(StoreUrlError::Form);
        }
        let known = |name: &str| kind.knows(name);
        let environment = environment.into_iter().filter(|(name, _)| {
            name.starts_with(kind.variables()) && known(&name.to_ascii_lowercase())
        });
        let mut options: Vec<_> =
            environment.map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
        for (name, value) in url.query_pairs() {
            if !known(&name) {
                return Err(StoreUrlError::Option(name.into_owned()));
            }
            options.push((name.into_owned(), value.into_owned()));
        }
        if options
            .iter()
            .any(|(name, value)| name.contains("endpoint") && value.starts_with("http://"))
        {
            options.insert(0, ("allow_http".to_owned(), "true".to_owned()));
        }
        url.set_query(None);
        Ok(Self::Objects(ObjectLocation { url, options }))
    }
}

impl ObjectLocation {
    pub(super) fn kind(&self) -> Kind {
        Kind::of(&self.url).unwrap_or(Kind::S3)
    }
}

impl Kind {
    fn of(url: &Url) -> Option<Self> {
        match url.scheme() {
            "s3" | "s3a" => Some(Self::S3),
            "gs" => Some(Self::Google),
            "az" | "azure" | "adl" | "abfs" | "abfss" => Some(Self::Azure),
            _ => None,
        }
    }

    const fn variables(self) -> &'static str {
        match self {
            Self::S3 => "AWS_",
            Self::Google => "GOOGLE_",
            Self::Azure => "AZURE_",
        }
    }

    fn knows(self, name: &str) -> bool {
        match self {
            Self::S3 => name.parse::<AmazonS3ConfigKey>().is_ok(),
            Self::Google => name.parse::<GoogleConfigKey>().is_ok(),
            Self::Azure => name.parse::<AzureConfigKey>().is_ok(),
        }
    }
}

impl fmt::Display for ObjectLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl fmt::Debug for ObjectLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.options.iter().map(|(name, _)| name).collect();
        f.debug_struct("ObjectLocation")
            .field("url", &self.url.as_str())
            .field("options", &names)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_the_environment() {
        let environment = || {
            [
                ("AWS_SECRET_ACCESS_KEY", "secret"),
                ("AWS_REGION", "here"),
                ("AWS_PAGER", ""),
                ("HOME", "/"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
        };
        let parse = |text: &str| StoreLocation::parse(text, environment());
        assert_eq!(parse("file:/a"), Ok(StoreLocation::Directory("/a".into())));
        assert_eq!(parse("file:///a/b"), Ok(StoreLocation::Directory("/a/b".into())));
        assert_eq!(parse("file:a"), Err(StoreUrlError::Relative));
        for bad in ["", "/a", "s3:", "s3://", "http://a/b", "s3:///a"] {
            assert_eq!(parse(bad), Err(StoreUrlError::Form), "{bad}");
        }
        let unknown = Err(StoreUrlError::Option("colour".into()));
        assert_eq!(parse("s3://b?colour=red"), unknown);
        let Ok(StoreLocation::Objects(found)) = parse("s3://b/c?region=there&endpoint=http://e")
        else {
            panic!("an object store");
        };
        let expected = [
            ("allow_http", "true"),
            ("aws_secret_access_key", "secret"),
            ("aws_region", "here"),
            ("region", "there"),
            ("endpoint", "http://e"),
        ];
        let options: Vec<_> = found.options.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(options, expected);
        let shown = format!("{found:?} {found}");
        assert!(shown.contains("s3://b/c") && !shown.contains("secret\""), "{shown}");
        let Ok(StoreLocation::Objects(found)) = parse("gs://b") else { panic!("an object store") };
        assert_eq!((found.kind(), &*found.options), (Kind::Google, &[][..]));
    }
}
