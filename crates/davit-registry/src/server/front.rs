//! HTTP/1.1 without TLS, on the socket itself: bodies of files go by `sendfile(2)`, and a request costs
//! few system calls.
//!
//! Only what is plain is answered here (see [`head`]): requests for `/v2/` whose body, if any, has a
//! length. With the first request that is anything else the connection, and what was read of it, is
//! hyper's until its end. Both ways ask [`Front::reply`], so both have the same gate and counters.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use self::{
    head::{Head, Parsed},
    shared::Shared,
};
use super::{Front, HEAD_BYTES, HEAD_TIME};
use crate::pieces::{self, PIECE_BYTES};

mod head;
mod send;
mod shared;

/// How long a connection may wait for its next request.
const IDLE_TIME: Duration = Duration::from_secs(90);
/// Bytes that are read of heads at once.
const READ_BYTES: usize = 4 << 10;
/// How long a piece may wait for more bytes.
const PIECE_TIME: Duration = Duration::from_millis(5);
/// Bytes of a refused body that are read away, so that the client reads the refusal.
const LINGER_BYTES: u64 = 4 << 20;
/// How long they may take.
const LINGER_TIME: Duration = Duration::from_secs(2);

/// Serves a connection to its end.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    front: Front,
    stopped: watch::Receiver<bool>,
) {
    let stream = Arc::new(stream);
    let mut line = Line { stream, buffer: BytesMut::new(), stopped };
    loop {
        match line.next().await {
            Next::Head(head) => match line.answer(&front, peer, head).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return tracing::debug!(%error, %peer, "a connection failed"),
            },
            Next::Other => return line.hand_over(peer, front).await,
            Next::End => return,
        }
    }
}

/// A connection, and what was read of it but not understood yet.
struct Line {
    stream: Arc<TcpStream>,
    buffer: BytesMut,
    stopped: watch::Receiver<bool>,
}

/// What comes next on a connection.
enum Next {
    /// A request that is answered here.
    Head(Box<Head>),
    /// Something else.
    Other,
    /// Nothing.
    End,
}

impl Line {
    async fn next(&mut self) -> Next {
        let mut seen = 0;
        let mut until = Instant::now() + IDLE_TIME;
        loop {
            // What is not the start of a request shows at once; later only an end is looked for.
            let is_new = seen == 0 && !self.buffer.is_empty();
            if is_new || head::may_end(&self.buffer, seen) || self.buffer.len() >= HEAD_BYTES {
                match head::parse(&self.buffer) {
                    Parsed::Whole(head, bytes) => {
                        self.buffer.advance(bytes);
                        return Next::Head(head);
                    }
                    Parsed::Part if self.buffer.len() < HEAD_BYTES => {}
                    Parsed::Part | Parsed::Other => return Next::Other,
                }
            }
            if seen == 0 && !self.buffer.is_empty() {
                until = Instant::now() + HEAD_TIME;
            }
            seen = self.buffer.len();
            if !self.read_more(until).await {
                return Next::End;
            }
        }
    }

    /// Reads what is there, or waits for it; `false` at the end of the connection.
    async fn read_more(&mut self, until: Instant) -> bool {
        loop {
            self.buffer.reserve(READ_BYTES);
            match self.stream.try_read_buf(&mut self.buffer) {
                Ok(read) => return read > 0,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_reset) => return false,
            }
            let is_idle = self.buffer.is_empty();
            if is_idle {
                // Thousands of connections may wait.
                self.buffer = BytesMut::new();
            }
            tokio::select! {
                ready = timeout_at(until, self.stream.readable()) => {
                    if !matches!(ready, Ok(Ok(()))) {
                        return false;
                    }
                }
                _ = self.stopped.changed(), if is_idle => return false,
            }
        }
    }

    /// Answers a request; tells whether the connection goes on.
    async fn answer(
        &mut self,
        front: &Front,
        peer: SocketAddr,
        head: Box<Head>,
    ) -> io::Result<bool> {
        let Head { parts, body_bytes, is_last } = *head;
        let unread = Arc::new(AtomicU64::new(body_bytes));
        let body = if body_bytes == 0 { Body::empty() } else { self.body(&unread) };
        let reply = front.reply(peer, parts, body).await;
        let left = unread.load(Ordering::Acquire);
        let is_last = is_last || left > 0 || *self.stopped.borrow();
        let keep = if is_last { send::Keep::Close } else { send::Keep::Open };
        send::reply(&self.stream, reply, keep).await?;
        if left > 0 {
            linger(&self.stream).await;
        }
        Ok(!is_last)
    }

    /// The body of a request, of which the first bytes may have been read with its head.
    fn body(&mut self, unread: &Arc<AtomicU64>) -> Body {
        let whole = unread.load(Ordering::Relaxed);
        let here =
            usize::try_from(whole).map_or(self.buffer.len(), |all| all.min(self.buffer.len()));
        let first = self.buffer.split_to(here).freeze();
        let state = (Arc::clone(&self.stream), first, Arc::clone(unread));
        Body::from_stream(stream::try_unfold(state, |(stream, first, unread)| async move {
            let left = unread.load(Ordering::Relaxed);
            if left == 0 {
                return Ok::<_, io::Error>(None);
            }
            let piece = if first.is_empty() { read_piece(&stream, left).await? } else { first };
            unread.store(left - piece.len() as u64, Ordering::Release);
            Ok(Some((piece, (stream, Bytes::new(), unread))))
        }))
    }

    /// Gives the connection to hyper.
    async fn hand_over(self, peer: SocketAddr, front: Front) {
        let [read, write] = [(); 2].map(|()| Shared(Arc::clone(&self.stream)));
        let read = AsyncReadExt::chain(io::Cursor::new(self.buffer), read);
        let both = tokio::io::join(read, write);
        if super::serve_connection(both, peer, front, self.stopped).await.is_err() {
            // A head that is too long is refused before all of it was read.
            linger(&self.stream).await;
        }
    }
}

/// Reads away some of what nobody wants: a connection that is closed with bytes unread is reset, and its
/// client may never see why.
async fn linger(stream: &TcpStream) {
    // The client may have gone.
    let _gone = rustix::net::shutdown(stream, rustix::net::Shutdown::Write);
    let read_away = async {
        let mut left = LINGER_BYTES;
        while let Ok(piece) = read_piece(stream, left).await {
            left -= piece.len() as u64;
            if left == 0 {
                break;
            }
        }
    };
    // Whether it read the refusal is its own affair.
    let _late = timeout(LINGER_TIME, read_away).await;
}

/// Reads some bytes, `left` at most: as many as come without a pause.
async fn read_piece(stream: &TcpStream, left: u64) -> io::Result<Bytes> {
    let size = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
    let mut piece = pieces::take();
    loop {
        let room = size - piece.len();
        match stream.try_read_buf(&mut (&mut piece).limit(room)) {
            Ok(read) if read > 0 && piece.len() < size => {}
            // What came before an end is kept; the next read meets the end again.
            Ok(_) if !piece.is_empty() => return Ok(piece.freeze()),
            Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(_) if piece.is_empty() => stream.readable().await?,
            Err(_) => match timeout(PIECE_TIME, stream.readable()).await {
                Ok(ready) => ready?,
                Err(_elapsed) => return Ok(piece.freeze()),
            },
        }
    }
}
