//! Style, script and mark of the pages, in the program itself.

use std::sync::OnceLock;

use axum::body::Body;
use http::{HeaderValue, Method, Response, header, request::Parts};

use crate::auth::TokenHash;

const FILES: [(&str, &str, &[u8]); 3] = [
    ("/static/style.css", "text/css; charset=utf-8", include_bytes!("../../static/style.css")),
    ("/static/page.js", "text/javascript; charset=utf-8", include_bytes!("../../static/page.js")),
    ("/static/mark.svg", "image/svg+xml", include_bytes!("../../static/mark.svg")),
];

/// Names this version of the files, so that browsers may keep them for ever.
pub(super) fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        let all: Vec<u8> = FILES.iter().flat_map(|(.., bytes)| bytes.iter().copied()).collect();
        TokenHash::of(&all).to_string().chars().take(12).collect()
    })
}

/// The reply for a file; `None` if the request is for something else.
pub(super) fn file(parts: &Parts) -> Option<Response<Body>> {
    let (_, kind, bytes) = FILES.iter().find(|(path, ..)| *path == parts.uri.path())?;
    let body = match parts.method {
        Method::GET => Body::from(*bytes),
        Method::HEAD => Body::empty(),
        _ => return None,
    };
    let is_versioned = parts.uri.query().is_some_and(|query| query.ends_with(version()));
    let keep = if is_versioned { "public, max-age=31536000, immutable" } else { "no-cache" };
    let mut response = Response::new(body);
    for (name, value) in [
        (header::CONTENT_TYPE, *kind),
        (header::CACHE_CONTROL, keep),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Some(response)
}
