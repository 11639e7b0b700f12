//! Paths of `/v2/`, read from their right end: a repository may be called `a/blobs/b/manifests`.

use std::borrow::Cow;

use http::Method;

use crate::name::RepositoryName;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Whether this is a registry, and whether the credential is good.
    Ping,
    /// Names of repositories.
    Catalog,
    /// Names of tags.
    Tags,
    /// Manifests that refer to one.
    Referrers,
    /// A manifest.
    GetManifest,
    /// Push a manifest.
    PutManifest,
    /// Delete a manifest or a tag.
    DeleteManifest,
    /// A blob.
    GetBlob,
    /// Delete a blob.
    DeleteBlob,
    /// Begin an upload, push a blob at once, or mount one.
    BeginUpload,
    /// How far an upload is.
    UploadStatus,
    /// Go on with an upload.
    AppendUpload,
    /// End an upload.
    FinishUpload,
    /// Give an upload up.
    CancelUpload,
}

/// Every route: method (`GET` answers `HEAD` too), path, operation. `{name}` has one part or more.
pub const ROUTES: &[(Method, &str, Operation)] = &[
    (Method::GET, "/v2/", Operation::Ping),
    (Method::GET, "/v2/_catalog", Operation::Catalog),
    (Method::GET, "/v2/{name}/tags/list", Operation::Tags),
    (Method::GET, "/v2/{name}/referrers/{digest}", Operation::Referrers),
    (Method::GET, "/v2/{name}/manifests/{reference}", Operation::GetManifest),
    (Method::PUT, "/v2/{name}/manifests/{reference}", Operation::PutManifest),
    (Method::DELETE, "/v2/{name}/manifests/{reference}", Operation::DeleteManifest),
    (Method::GET, "/v2/{name}/blobs/{digest}", Operation::GetBlob),
    (Method::DELETE, "/v2/{name}/blobs/{digest}", Operation::DeleteBlob),
    (Method::POST, "/v2/{name}/blobs/uploads/", Operation::BeginUpload),
    (Method::GET, "/v2/{name}/blobs/uploads/{session}", Operation::UploadStatus),
    (Method::PATCH, "/v2/{name}/blobs/uploads/{session}", Operation::AppendUpload),
    (Method::PUT, "/v2/{name}/blobs/uploads/{session}", Operation::FinishUpload),
    (Method::DELETE, "/v2/{name}/blobs/uploads/{session}", Operation::CancelUpload),
];

/// A request that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Not about one repository.
    Server(Operation),
    /// About one repository, and what the path names in it.
    Repository(Operation, RepositoryName, String),
}

impl Route {
    /// What is asked for.
    #[must_use]
    pub const fn operation(&self) -> Operation {
        match self {
            Self::Server(operation) | Self::Repository(operation, ..) => *operation,
        }
    }
}

/// Why a request has no route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// No such path.
    Path,
    /// The repository's name breaks the grammar.
    Name,
    /// The path does not take this method, but these.
    Method(Vec<Method>),
}

/// Finds the route of a request; the path is decoded once, here.
///
/// # Errors
/// See [`NoRoute`].
pub fn route(method: &Method, path: &str) -> Result<Route, NoRoute> {
    let path = decode(path).ok_or(NoRoute::Path)?;
    let rest = path.strip_prefix("/v2").ok_or(NoRoute::Path)?;
    match rest {
        "" | "/" => return Ok(Route::Server(operation(method, "/v2/")?)),
        "/_catalog" => return Ok(Route::Server(operation(method, "/v2/_catalog")?)),
        _ => {}
    }
    let (name, template, last) = split(rest).ok_or(NoRoute::Path)?;
    let operation = operation(method, template)?;
    let name = name.parse().map_err(|_error| NoRoute::Name)?;
    Ok(Route::Repository(operation, name, last.to_owned()))
}

/// Repository, template and last part of what follows `/v2`.
fn split(rest: &str) -> Option<(&str, &'static str, &str)> {
    let rest = rest.strip_prefix('/')?;
    let (before, last) = rest.rsplit_once('/')?;
    let (before, kind) = before.rsplit_once('/')?;
    if kind == "uploads"
        && let Some(name) = before.strip_suffix("/blobs")
    {
        let template = if last.is_empty() {
            "/v2/{name}/blobs/uploads/"
        } else {
            "/v2/{name}/blobs/uploads/{session}"
        };
        return Some((name, template, last));
    }
    let template = match (kind, last) {
        ("blobs", "uploads") => "/v2/{name}/blobs/uploads/",
        ("blobs", _) => "/v2/{name}/blobs/{digest}",
        ("manifests", _) => "/v2/{name}/manifests/{reference}",
        ("referrers", _) => "/v2/{name}/referrers/{digest}",
        ("tags", "list") => "/v2/{name}/tags/list",
        _ => return None,
    };
    Some((before, template, last))
}

fn operation(method: &Method, template: &str) -> Result<Operation, NoRoute> {
    let of_path = || ROUTES.iter().filter(|(_, path, _)| *path == template);
    let wanted = if method == Method::HEAD { &Method::GET } else { method };
    let found = of_path().find(|(method, _, _)| method == wanted);
    found.map(|(_, _, operation)| *operation).ok_or_else(|| {
        let mut allowed: Vec<Method> = of_path().map(|(method, _, _)| method.clone()).collect();
        if allowed.contains(&Method::GET) {
            allowed.push(Method::HEAD);
        }
        NoRoute::Method(allowed)
    })
}

/// Decodes `%XX`; `None` where it is malformed, no UTF-8, or hides a `/` or a control character.
fn decode(path: &str) -> Option<Cow<'_, str>> {
    if !path.contains('%') {
        return Some(path.into());
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let value = digit(rest.next())? * 16 + digit(rest.next())?;
        let byte = u8::try_from(value).ok()?;
        if byte == b'/' || byte.is_ascii_control() {
            return None;
        }
        bytes.push(byte);
    }
    Some(String::from_utf8(bytes).ok()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: &Method, path: &str) -> String {
        match route(method, path) {
            Ok(Route::Server(operation)) => format!("{operation:?}"),
            Ok(Route::Repository(operation, name, last)) => format!("{operation:?} {name} {last}"),
            Err(error) => format!("{error:?}"),
        }
    }

    #[test]
    fn reads_paths_from_the_right() {
        let get = &Method::GET;
        for (path, expected) in [
            ("/v2", "Ping"),
            ("/v2/", "Ping"),
            ("/v2/_catalog", "Catalog"),
            ("/v2/a/tags/list", "Tags a list"),
            ("/v2/a/b/manifests/v1", "GetManifest a/b v1"),
            ("/v2/a/blobs/b/manifests/x", "GetManifest a/blobs/b x"),
            ("/v2/a/blobs/sha256%3Aab", "GetBlob a sha256:ab"),
            ("/v2/manifests/manifests/manifests", "GetManifest manifests manifests"),
            ("/v2/a/blobs/uploads/1", "UploadStatus a 1"),
            ("/v2/a/blobs/uploads/blobs/x", "GetBlob a/blobs/uploads x"),
            ("/v2/a/blobs/uploads/", "Method([POST])"),
            ("/v2/A/manifests/v1", "Name"),
            ("/v2//manifests/v1", "Name"),
            ("/v2/a/../b/manifests/v1", "Name"),
            ("/v2/a%2Fb/manifests/v1", "Path"),
            ("/v2/a%00/manifests/v1", "Path"),
            ("/v2/a%zz/manifests/v1", "Path"),
            ("/v2/a", "Path"),
            ("/v2/manifests/v1", "Path"),
            ("/v2x/", "Path"),
            ("/v2/a/tags/lists", "Path"),
            ("/v1/a/tags/list", "Path"),
        ] {
            assert_eq!(of(get, path), expected, "{path}");
        }
        assert_eq!(of(&Method::POST, "/v2/a/blobs/uploads"), "BeginUpload a uploads");
        assert_eq!(of(&Method::HEAD, "/v2/a/blobs/x"), "GetBlob a x");
        assert_eq!(of(&Method::POST, "/v2/a/blobs/x"), "Method([GET, DELETE, HEAD])");
    }
}
