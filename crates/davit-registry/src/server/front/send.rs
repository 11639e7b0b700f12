//! Replies, written to the socket: head and body in as few system calls as it takes.

use std::{
    fs::File,
    io::{self, IoSlice, Write as _},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::StreamExt as _;
use http::{HeaderName, StatusCode, header};
use rustix::{
    io::{Errno, ReadWriteFlags},
    net::SendFlags,
};
use time::OffsetDateTime;
use tokio::{io::Interest, net::TcpStream, time::timeout};

use crate::oci::{Reply, ReplyContent, Segment};

/// How long a client may take nothing of a reply.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of a file that are sent at once: others may have the thread between.
const PART_BYTES: u64 = 1 << 20;

/// Whether the connection stays open after the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    Open,
    Close,
}

/// Sends a reply.
///
/// # Errors
/// The client has gone or takes nothing, or a file cannot be read: the reply is cut off.
pub(super) async fn reply(stream: &TcpStream, reply: Reply, keep: Keep) -> io::Result<()> {
    let head = head_of(&reply, keep);
    match reply.content {
        ReplyContent::Bytes(body) => write(stream, &head, &body).await,
        ReplyContent::File(file, segments) => {
            write_before_more(stream, &head).await?;
            for segment in segments {
                match segment {
                    Segment::Bytes(bytes) => write_before_more(stream, &bytes).await?,
                    Segment::Part(range) => send_part(stream, &file, range).await?,
                }
            }
            Ok(())
        }
        content => {
            write(stream, &head, b"").await?;
            let reply = Reply { content, ..reply };
            let mut pieces = reply.into_response().into_body().into_data_stream();
            while let Some(piece) = pieces.next().await {
                write(stream, &piece.map_err(io::Error::other)?, b"").await?;
            }
            Ok(())
        }
    }
}

fn head_of(reply: &Reply, keep: Keep) -> Vec<u8> {
    let status = reply.head.status();
    let mut head = Vec::with_capacity(1024);
    let mut line = |parts: [&[u8]; 4]| parts.iter().for_each(|part| head.extend_from_slice(part));
    let reason = status.canonical_reason().unwrap_or("Status").as_bytes();
    line([b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", reason]);
    let mut field = |name: &HeaderName, value: &[u8]| {
        line([b"\r\n", name.as_str().as_bytes(), b": ", value]);
    };
    let is_bare = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    for (name, value) in reply.head.headers() {
        // A reply that has no content says no length (RFC 9110 § 8.6).
        if !is_bare || name != header::CONTENT_LENGTH {
            field(name, value.as_bytes());
        }
    }
    if keep == Keep::Close {
        field(&header::CONNECTION, b"close");
    }
    field(&header::DATE, &date());
    head.extend_from_slice(b"\r\n\r\n");
    head
}

/// The time of this second, as headers have it (RFC 9110 § 5.6.7).
fn date() -> [u8; 29] {
    static LAST: Mutex<(u64, [u8; 29])> = Mutex::new((0, *b"Thu, 01 Jan 1970 00:00:00 GMT"));

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if last.0 != now {
        let mut text = last.1;
        // It has just this length until the year 10000.
        let is_written = write!(&mut text[..], "{}", format_date(now)).is_ok();
        if is_written {
            *last = (now, text);
        }
    }
    last.1
}

fn format_date(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(0);
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (weekday, month) = (at.weekday().to_string(), at.month().to_string());
    format!(
        "{}, {:02} {} {} {:02}:{:02}:{:02} GMT",
        &weekday[..3],
        at.day(),
        &month[..3],
        at.year(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

/// Runs what writes, again when the client has taken something.
async fn writing(
    stream: &TcpStream,
    mut write: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    loop {
        match stream.try_io(Interest::WRITABLE, &mut write) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
        timeout(PATIENCE, stream.writable()).await??;
    }
}

async fn write(stream: &TcpStream, mut head: &[u8], mut body: &[u8]) -> io::Result<()> {
    while !head.is_empty() || !body.is_empty() {
        let both = [IoSlice::new(head), IoSlice::new(body)];
        let both = if head.is_empty() { &both[1..] } else { &both[..] };
        let written = writing(stream, || stream_writev(stream, both)).await?;
        let of_head = written.min(head.len());
        head = &head[of_head..];
        body = &body[written - of_head..];
    }
    Ok(())
}

fn stream_writev(stream: &TcpStream, both: &[IoSlice<'_>]) -> io::Result<usize> {
    Ok(rustix::io::writev(stream, both)?)
}

/// Writes bytes that the kernel may send together with what follows.
async fn write_before_more(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
    while !bytes.is_empty() {
        let sent = writing(stream, || Ok(rustix::net::send(stream, bytes, flags)?)).await?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

async fn send_part(stream: &TcpStream, file: &Arc<File>, mut range: Range<u64>) -> io::Result<()> {
    while !range.is_empty() {
        let end = range.end.min(range.start + PART_BYTES);
        warm(file, range.start..end).await?;
        while range.start < end {
            let count = usize::try_from(end - range.start).map_err(io::Error::other)?;
            let send = || {
                let mut at = range.start;
                Ok(rustix::fs::sendfile(stream, &**file, Some(&mut at), count)?)
            };
            range.start += writing(stream, send).await? as u64;
        }
        if !range.is_empty() {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// Brings a part of a file into memory, away from the threads that answer, unless it is there.
///
/// The last byte stands for all: what is read in order is there in order.
async fn warm(file: &Arc<File>, range: Range<u64>) -> io::Result<()> {
    let Some(last) = range.end.checked_sub(1) else { return Ok(()) };
    let mut byte = [0];
    let mut there = [io::IoSliceMut::new(&mut byte)];
    match rustix::io::preadv2(file, &mut there, last, ReadWriteFlags::NOWAIT) {
        // A file system that cannot tell is read as it is.
        Ok(_) | Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(Errno::AGAIN) => {}
        Err(error) => return Err(error.into()),
    }
    let file = Arc::clone(file);
    let read = move || read_through(&file, range);
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
}

fn read_through(file: &File, range: Range<u64>) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;

    let mut piece = vec![0; 64 << 10];
    let mut at = range.start;
    while at < range.end {
        match file.read_at(&mut piece, at)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => at += read as u64,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_as_headers_have_them() {
        assert_eq!(format_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(format_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert!(date().ends_with(b" GMT"));
    }
}
