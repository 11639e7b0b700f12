//! The head of a request, where it is plain enough to be answered without hyper.
//!
//! A request is plain when all who read it must agree on where it ends (RFC 9112 § 6): HTTP/1.1, one
//! `Host`, no `Transfer-Encoding`, at most one `Content-Length`, which is a number, and that only with a
//! method that has a body. What is not plain is no error here: hyper decides.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header, request::Parts};

use super::super::HEADERS;

/// Digits of a length at most: more would not fit.
const LENGTH_DIGITS: usize = 18;

/// A plain request.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) parts: Parts,
    /// Bytes that follow.
    pub(super) body_bytes: u64,
    /// Whether the client wants no reply after this one.
    pub(super) is_last: bool,
}

/// What some bytes are the start of.
#[derive(Debug)]
pub(super) enum Parsed {
    /// A plain request, whose head has so many bytes.
    Whole(Box<Head>, usize),
    /// A request, as far as it goes.
    Part,
    /// Anything else.
    Other,
}

/// Tells whether a head may end in the bytes that follow those that were `seen`.
pub(super) fn may_end(buffer: &[u8], seen: usize) -> bool {
    let fresh = &buffer[seen.saturating_sub(3)..];
    let ends =
        |at: usize| fresh[at + 1..].starts_with(b"\n") || fresh[at + 1..].starts_with(b"\r\n");
    fresh.iter().enumerate().any(|(at, byte)| *byte == b'\n' && ends(at))
}

/// Reads the head of a request.
pub(super) fn parse(buffer: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(buffer) {
        Ok(httparse::Status::Complete(bytes)) => {
            plain(&request).map_or(Parsed::Other, |head| Parsed::Whole(head, bytes))
        }
        Ok(httparse::Status::Partial) => Parsed::Part,
        Err(_) => Parsed::Other,
    }
}

fn plain(request: &httparse::Request<'_, '_>) -> Option<Box<Head>> {
    let (method, path) = (request.method?, request.path?);
    if request.version != Some(1) || !path.starts_with("/v2/") {
        return None;
    }
    let method = Method::from_bytes(method.as_bytes()).ok()?;
    let has_body = match method {
        Method::GET | Method::HEAD | Method::DELETE => false,
        Method::POST | Method::PUT | Method::PATCH => true,
        _ => return None,
    };
    let mut headers = HeaderMap::with_capacity(request.headers.len());
    for header in &*request.headers {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(header.value).ok()?);
    }
    let odd = [header::TRANSFER_ENCODING, header::UPGRADE, header::EXPECT, header::TE];
    if odd.iter().any(|name| headers.contains_key(name)) || count(&headers, &header::HOST) != 1 {
        return None;
    }
    let body_bytes = match count(&headers, &header::CONTENT_LENGTH) {
        0 => 0,
        1 => number(headers.get(header::CONTENT_LENGTH)?)?,
        _ => return None,
    };
    if body_bytes > 0 && !has_body {
        return None;
    }
    let is_last = match count(&headers, &header::CONNECTION) {
        0 => false,
        1 => is_close(headers.get(header::CONNECTION)?)?,
        _ => return None,
    };
    let mut whole = Request::new(());
    *whole.method_mut() = method;
    *whole.uri_mut() = path.parse::<Uri>().ok()?;
    *whole.headers_mut() = headers;
    Some(Box::new(Head { parts: whole.into_parts().0, body_bytes, is_last }))
}

fn count(headers: &HeaderMap, name: &HeaderName) -> usize {
    headers.get_all(name).iter().count()
}

fn number(value: &HeaderValue) -> Option<u64> {
    let text = value.as_bytes();
    let is_number =
        (1..=LENGTH_DIGITS).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    if is_number { value.to_str().ok()?.parse().ok() } else { None }
}

/// `None` where it asks for more than to keep or close the connection.
fn is_close(value: &HeaderValue) -> Option<bool> {
    let text = value.as_bytes();
    if text.eq_ignore_ascii_case(b"close") {
        Some(true)
    } else {
        text.eq_ignore_ascii_case(b"keep-alive").then_some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Method, path, length of the body, and whether it is the last; or what it is instead.
    fn of(text: &str) -> String {
        match parse(text.as_bytes()) {
            Parsed::Whole(head, bytes) => {
                let Head { parts, body_bytes, is_last } = *head;
                assert_eq!(bytes, text.len());
                format!("{} {} {body_bytes} {is_last}", parts.method, parts.uri)
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn plain_requests_are_read_and_others_left_alone() {
        for (line, fields, expected) in [
            ("GET /v2/", "", "GET /v2/ 0 false"),
            (
                "HEAD /v2/a/blobs/x?y=%20",
                "Accept: a\r\nAccept: b\r\n",
                "HEAD /v2/a/blobs/x?y=%20 0 false",
            ),
            ("GET /v2/a", "Connection: Close\r\n", "GET /v2/a 0 true"),
            ("GET /v2/a", "Connection: keep-alive\r\nContent-Length: 0\r\n", "GET /v2/a 0 false"),
            ("PUT /v2/a", "Content-Length: 12\r\n", "PUT /v2/a 12 false"),
            ("POST /v2/a", "", "POST /v2/a 0 false"),
            // Where requests end is disputed.
            ("PUT /v2/a", "Content-Length: 1\r\nContent-Length: 1\r\n", "Other"),
            ("PUT /v2/a", "Content-Length: 1, 1\r\n", "Other"),
            ("PUT /v2/a", "Content-Length: +1\r\n", "Other"),
            ("PUT /v2/a", "Content-Length: 0x1\r\n", "Other"),
            ("PUT /v2/a", "Content-Length: \r\n", "Other"),
            ("PUT /v2/a", "Content-Length: 99999999999999999999\r\n", "Other"),
            ("PUT /v2/a", "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", "Other"),
            ("PUT /v2/a", "Transfer-Encoding: chunked\r\n", "Other"),
            ("PUT /v2/a", "Transfer-Encoding : chunked\r\n", "Other"),
            ("GET /v2/a", "Content-Length: 1\r\n", "Other"),
            ("GET /v2/a", "Accept: a\r\n b\r\n", "Other"),
            // Hyper's.
            ("GET /v2/a", "Host: b\r\n", "Other"),
            ("GET /v2/a", "Upgrade: h2c\r\n", "Other"),
            ("GET /v2/a", "Connection: close, te\r\n", "Other"),
            ("GET /v2/a", "Connection: close\r\nConnection: close\r\n", "Other"),
            ("PUT /v2/a", "Expect: 100-continue\r\nContent-Length: 1\r\n", "Other"),
            ("GET /healthz", "", "Other"),
            ("GET http://a/v2/", "", "Other"),
            ("OPTIONS /v2/a", "", "Other"),
            ("get /v2/a", "", "Other"),
        ] {
            let head = format!("{line} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            assert_eq!(of(&head), expected, "{head}");
        }
        assert_eq!(of("GET /v2/ HTTP/1.0\r\nHost: a\r\n\r\n"), "Other");
        assert_eq!(of("GET /v2/ HTTP/1.1\r\n\r\n"), "Other");
        assert_eq!(of("PRI * HTTP/2.0\r\n\r\n"), "Other");
        assert_eq!(of("\x16\x03\x01\x02"), "Other");
        assert_eq!(of("GET /v2/ HTTP/1.1\r\nHost: a\r\n"), "Part");
        let many = format!("GET /v2/ HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(HEADERS + 1));
        assert_eq!(of(&many), "Other");
    }

    #[test]
    fn ends_are_seen_wherever_reads_cut_them() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for seen in 0..head.len() {
            assert!(may_end(head, seen), "{seen}");
            assert!(!may_end(&head[..head.len() - 1], seen), "{seen}");
        }
        assert!(may_end(b"a\n\n", 2) && !may_end(b"", 0));
    }
}
