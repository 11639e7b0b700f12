//! The two threads of a read and the buffers between them.

use std::{
    io::{self, Write},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use davit_image::{Compression, DiffId, Digest, Digester};

use super::{
    LayerDecoder, Progress, ReadError, ReadOptions, algorithm, gzip_checksum, source::CountedSource,
};
use crate::{
    Decoder, LayerFacts,
    decode::read_full,
    tar::{Parsed, Parser, ParserOptions},
};

/// Size of a buffer between the threads.
const BUFFER_SIZE: usize = 256 << 10;
/// Buffers that may wait for the second thread; two more are being filled and emptied.
const BUFFERS_WAITING: usize = 6;

/// What both threads found.
pub(super) struct Read {
    pub(super) compression: Compression,
    pub(super) facts: LayerFacts,
    pub(super) parsed: Parsed,
}

/// A buffer and how much of it is filled.
struct Piece {
    bytes: Vec<u8>,
    length: usize,
}

pub(super) fn run(
    source: &mut CountedSource<'_>,
    tar: &mut (dyn Write + Send),
    options: &ReadOptions<'_>,
) -> Result<Read, ReadError> {
    let parser_options =
        ParserOptions { limits: options.limits, whiteout_names: options.whiteout_names };
    let diff_algorithm = algorithm(options.expected.diff_id.map(|id| id.digest()));
    // A plain stream is its own tar: one digest serves as both.
    let is_digested = AtomicBool::new(false);
    let sink = Sink {
        tar,
        digester: Digester::new(diff_algorithm),
        parser: Parser::new(parser_options),
        size: 0,
    };
    let (full, filled) = sync_channel::<Piece>(BUFFERS_WAITING);
    let (empty, emptied) = sync_channel::<Vec<u8>>(BUFFERS_WAITING + 2);
    thread::scope(|scope| {
        let consumer = thread::Builder::new()
            .name("layer".into())
            .spawn_scoped(scope, || sink.consume(filled, empty, &is_digested))
            .map_err(ReadError::Read)?;
        let start = |compression| {
            let same = diff_algorithm == algorithm(options.expected.blob);
            is_digested.store(compression == Compression::None && same, Ordering::Relaxed);
        };
        let produced = produce(source, full, &emptied, options, &start);
        let consumed = match consumer.join() {
            Ok(consumed) => consumed,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        match (produced, consumed) {
            (Ok(compression), Ok(consumed)) => {
                let diff_id = DiffId::new(consumed.digest.unwrap_or_else(|| source.digest()));
                let facts = LayerFacts { diff_id, tar_size: consumed.size };
                Ok(Read { compression, facts, parsed: consumed.parsed })
            }
            // A producer that found nobody at the other end has nothing to report itself.
            (Err(Some(error)), _) | (_, Err(error)) => Err(error),
            (Err(None), Ok(_)) => {
                Err(ReadError::Read(io::Error::other("the second thread ended early")))
            }
        }
    })
}

/// Decompresses into buffers until the stream ends. `Err(None)`: the consumer has gone.
fn produce(
    source: &mut CountedSource<'_>,
    full: SyncSender<Piece>,
    emptied: &Receiver<Vec<u8>>,
    options: &ReadOptions<'_>,
    start: &dyn Fn(Compression),
) -> Result<Compression, Option<ReadError>> {
    let window_log = options.limits.zstd_window_log;
    let decoder = Decoder::new(&mut *source, window_log, gzip_checksum(&options.expected));
    let mut decoder = match decoder {
        Ok(decoder) => decoder,
        Err(error) => return Err(Some(source.take_fault().unwrap_or(ReadError::Read(error)))),
    };
    let compression = decoder.compression();
    start(compression);
    let mut made = 0;
    let mut plain_bytes = 0;
    loop {
        let mut bytes = match emptied.try_recv() {
            Ok(bytes) => bytes,
            Err(_) if made < BUFFERS_WAITING + 2 => {
                made += 1;
                vec![0; BUFFER_SIZE]
            }
            Err(_) => emptied.recv().map_err(|_| None)?,
        };
        let length = match read_full(&mut decoder, &mut bytes) {
            Ok(length) => length,
            Err(error) => return Err(Some(decode_error(decoder, error))),
        };
        if length == 0 {
            return Ok(compression);
        }
        plain_bytes += length as u64;
        let blob_bytes = decoder.source().count();
        check_growth(plain_bytes, blob_bytes, options).map_err(Some)?;
        if let Some(progress) = options.progress {
            progress(Progress { blob_bytes, plain_bytes });
        }
        full.send(Piece { bytes, length }).map_err(|_| None)?;
    }
}

fn decode_error(mut decoder: LayerDecoder<'_, '_>, error: io::Error) -> ReadError {
    let compression = decoder.compression();
    let fault = decoder.source().take_fault();
    fault.unwrap_or(ReadError::Decompress { compression, source: error })
}

fn check_growth(plain: u64, blob: u64, options: &ReadOptions<'_>) -> Result<(), ReadError> {
    let limits = &options.limits;
    if plain > limits.plain_bytes {
        return Err(ReadError::TooLarge { limit: limits.plain_bytes });
    }
    if plain > limits.ratio_from && plain / limits.ratio.max(1) > blob {
        return Err(ReadError::Ratio { limit: limits.ratio });
    }
    Ok(())
}

/// The second thread: everything that happens to plain bytes.
struct Sink<'a> {
    tar: &'a mut (dyn Write + Send),
    digester: Digester,
    parser: Parser,
    size: u64,
}

/// What the second thread found.
struct Consumed {
    /// `None` if the first thread has digested the same bytes.
    digest: Option<Digest>,
    size: u64,
    parsed: Parsed,
}

impl Sink<'_> {
    fn consume(
        mut self,
        filled: Receiver<Piece>,
        empty: SyncSender<Vec<u8>>,
        is_digested: &AtomicBool,
    ) -> Result<Consumed, ReadError> {
        while let Ok(Piece { bytes, length }) = filled.recv() {
            let content = &bytes[..length];
            self.parser.feed(content)?;
            if !is_digested.load(Ordering::Relaxed) {
                self.digester.update(content);
            }
            self.tar.write_all(content).map_err(ReadError::WriteTar)?;
            self.size += length as u64;
            // The producer may have ended; then nobody needs the buffer.
            let _returned = empty.try_send(bytes);
        }
        self.tar.flush().map_err(ReadError::WriteTar)?;
        let digest = (!is_digested.load(Ordering::Relaxed)).then(|| self.digester.finish());
        Ok(Consumed { digest, size: self.size, parsed: self.parser.finish()? })
    }
}
