//! `GET` and `HEAD` of manifests and blobs.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use bytes::Bytes;
use davit_image::Digest;
use http::{Method, StatusCode, header, request::Parts};
use uuid::Uuid;

use super::{
    ranges,
    reply::{Content, Reply, Segment},
    request::{digest, target, text, validators},
};
use crate::{
    auth::Caller, blobs, events, fault::Fault, manifests, name::RepositoryName, registry::Registry,
    store::Stored,
};

/// What is named by its digest stays as it is; only who may see it changes.
pub(super) const FOREVER: &str = "private, max-age=31536000, immutable";

pub(super) async fn manifest(
    registry: &Registry,
    (caller, name): (&Caller, &RepositoryName),
    reference: &str,
    parts: &Parts,
) -> Result<Reply, Fault> {
    let target = target(reference)?;
    let stored = manifests::find(registry, name, &target).await?;
    if parts.method == Method::GET {
        let tag = Some(reference).filter(|_| matches!(target, manifests::Target::Tag(_)));
        events::pulled(registry, name, (stored.digest, tag), caller.account());
        registry.pulls.note(name, &stored.digest);
    }
    let reply = if is_known(parts, &stored.digest) {
        Reply::new(StatusCode::NOT_MODIFIED)
    } else {
        Reply::bytes(StatusCode::OK, &stored.media_type, stored.body.clone())
    };
    let reply = reply.with_digest(&stored.digest);
    Ok(match target {
        manifests::Target::Digest(_) => reply.with(header::CACHE_CONTROL, FOREVER),
        manifests::Target::Tag(_) => reply,
    })
}

pub(super) async fn blob(
    registry: &Registry,
    name: &RepositoryName,
    reference: &str,
    parts: &Parts,
) -> Result<Reply, Fault> {
    let digest = digest(reference)?;
    let blob = blobs::find(registry, name, &digest).await?;
    if is_known(parts, &digest) {
        return Ok(Reply::new(StatusCode::NOT_MODIFIED).with_digest(&digest));
    }
    let size = blob.size_bytes;
    let wanted = text(&parts.headers, &header::RANGE).filter(|_| is_same(parts, &digest));
    let ranges = wanted.map(|wanted| ranges::parse(wanted, size)).transpose()?.flatten();
    let reply = match ranges.as_deref() {
        None => sized(Reply::new(StatusCode::OK), size)
            .with(header::CONTENT_TYPE, "application/octet-stream"),
        Some([range]) => sized(Reply::new(StatusCode::PARTIAL_CONTENT), range.end - range.start)
            .with(header::CONTENT_TYPE, "application/octet-stream")
            .with(header::CONTENT_RANGE, &content_range(range, size)),
        Some(_) => Reply::new(StatusCode::PARTIAL_CONTENT),
    };
    let mut reply = reply
        .with_digest(&digest)
        .with(header::ACCEPT_RANGES, "bytes")
        .with(header::CACHE_CONTROL, FOREVER);
    let stored = registry.store.read(&blob.key)?;
    let segments = match ranges {
        Some(ranges) if ranges.len() > 1 => {
            let (boundary, segments, length) = multipart(&ranges, size);
            let kind = format!("multipart/byteranges; boundary={boundary}");
            reply = sized(reply, length).with(header::CONTENT_TYPE, &kind);
            segments
        }
        ranges => {
            let whole = 0..size;
            let range = ranges.and_then(|ranges| ranges.into_iter().next()).unwrap_or(whole);
            VecDeque::from([Segment::Part(range)])
        }
    };
    reply.content = match stored {
        Stored::File(file) => Content::File(Arc::new(file), segments),
        // Nothing is asked of the object store for a head.
        Stored::Remote(_) if parts.method == Method::HEAD => Content::None,
        Stored::Remote(remote) => {
            let first = segments.iter().find_map(Segment::part).unwrap_or_default();
            let first = remote.part(first).await?;
            Content::Remote(remote, first, segments)
        }
    };
    Ok(reply)
}

fn sized(reply: Reply, length: u64) -> Reply {
    reply.with(header::CONTENT_LENGTH, &length.to_string())
}

/// Tells whether the client has it (`If-None-Match`).
fn is_known(parts: &Parts, digest: &Digest) -> bool {
    let header = text(&parts.headers, &header::IF_NONE_MATCH);
    header.is_some_and(|header| validators(header).is_none_or(|known| known.contains(digest)))
}

/// Tells whether a range is meant of this content (`If-Range`).
fn is_same(parts: &Parts, digest: &Digest) -> bool {
    let header = text(&parts.headers, &header::IF_RANGE);
    header.is_none_or(|header| header.trim().trim_matches('"') == digest.to_string())
}

fn content_range(range: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end - 1)
}

/// Boundary, segments and length of several parts (RFC 9110 § 14.6).
fn multipart(ranges: &[Range<u64>], size: u64) -> (String, VecDeque<Segment>, u64) {
    let boundary = Uuid::now_v7().simple().to_string();
    let mut segments = VecDeque::new();
    let mut length = 0;
    for range in ranges {
        let head = format!(
            "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: {}\r\n\r\n",
            content_range(range, size)
        );
        length += head.len() as u64 + range.end - range.start;
        segments.push_back(Segment::Bytes(Bytes::from(head)));
        segments.push_back(Segment::Part(range.clone()));
    }
    let end = format!("\r\n--{boundary}--\r\n");
    length += end.len() as u64;
    segments.push_back(Segment::Bytes(Bytes::from(end)));
    (boundary, segments, length)
}
