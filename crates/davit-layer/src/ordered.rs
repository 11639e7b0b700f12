//! Many workers, one consumer, one order.
//!
//! Workers take pieces of work in order and may be at most a window ahead of the consumer, so memory
//! is bounded however slow the disk or however long one piece takes.

use std::{
    collections::HashMap,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

/// Fewer pieces than this are not worth a thread.
const PIECES_FOR_THREADS: usize = 3;

/// Work that is cut into numbered pieces.
pub(crate) trait Work: Sync {
    /// What a worker makes of a piece; used again for later ones.
    type Product: Default + Send;
    /// Why it cannot.
    type Error: Send;

    /// Number of pieces.
    fn count(&self) -> usize;

    /// Whether workers leave this piece to the consumer.
    fn is_consumers(&self, _piece: usize) -> bool {
        false
    }

    /// Makes the product of a piece, in the buffers of an earlier one. Called from any thread.
    fn produce(&self, piece: usize, product: Self::Product) -> Result<Self::Product, Self::Error>;

    /// The error for a worker that panicked.
    fn panicked(&self) -> Self::Error;
}

/// What happens to the products, one after the other.
pub(crate) type Consume<'c, W> =
    dyn FnMut(usize, Option<&<W as Work>::Product>) -> Result<(), <W as Work>::Error> + 'c;

/// Runs `work` on `workers` threads, at most `window` pieces ahead; `consume` gets the products in
/// order, on the calling thread, and `None` for the pieces that are the consumer's.
pub(crate) fn run<W: Work>(
    work: &W,
    workers: usize,
    window: usize,
    consume: &mut Consume<'_, W>,
) -> Result<(), W::Error> {
    let count = work.count();
    if count < PIECES_FOR_THREADS {
        return alone(work, consume);
    }
    let desk = Desk { work, window, state: Mutex::default(), changed: Condvar::new() };
    thread::scope(|scope| {
        let mut started = 0;
        for _ in 0..workers.clamp(1, 64).min(count) {
            let worker = thread::Builder::new().name("layer-worker".into());
            started += usize::from(worker.spawn_scoped(scope, || desk.work()).is_ok());
        }
        // Also when the consumer panics, the workers must end.
        let _closed = CloseOnDrop(&desk);
        if started == 0 { alone(work, consume) } else { desk.consume(consume) }
    })
}

fn alone<W: Work>(work: &W, consume: &mut Consume<'_, W>) -> Result<(), W::Error> {
    let mut product = W::Product::default();
    for piece in 0..work.count() {
        if work.is_consumers(piece) {
            consume(piece, None)?;
        } else {
            product = work.produce(piece, product)?;
            consume(piece, Some(&product))?;
        }
    }
    Ok(())
}

/// Where workers and consumer meet.
struct Desk<'w, W: Work> {
    work: &'w W,
    window: usize,
    state: Mutex<State<W::Product, W::Error>>,
    changed: Condvar,
}

struct State<P, E> {
    /// The piece that the next free worker takes.
    next: usize,
    /// The piece that is consumed next.
    turn: usize,
    done: HashMap<usize, Result<P, E>>,
    /// Buffers to use again.
    spare: Vec<P>,
    closed: bool,
}

impl<P, E> Default for State<P, E> {
    fn default() -> Self {
        Self { next: 0, turn: 0, done: HashMap::new(), spare: Vec::new(), closed: false }
    }
}

impl<W: Work> Desk<'_, W> {
    /// A thread that panics leaves nothing half done in the state.
    fn lock(&self) -> MutexGuard<'_, State<W::Product, W::Error>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'g>(
        &self,
        state: MutexGuard<'g, State<W::Product, W::Error>>,
    ) -> MutexGuard<'g, State<W::Product, W::Error>> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// What each worker does.
    fn work(&self) {
        while let Some((piece, product)) = self.take() {
            let mut answer = Answer { desk: self, piece, result: None };
            answer.result = Some(self.work.produce(piece, product));
        }
    }

    /// The next piece for a worker; `None` when there is none.
    fn take(&self) -> Option<(usize, W::Product)> {
        let mut state = self.lock();
        loop {
            while state.next < self.work.count() && self.work.is_consumers(state.next) {
                state.next += 1;
            }
            if state.closed || state.next >= self.work.count() {
                return None;
            }
            if state.next < state.turn + self.window {
                let piece = state.next;
                state.next += 1;
                return Some((piece, state.spare.pop().unwrap_or_default()));
            }
            state = self.wait(state);
        }
    }

    fn consume(&self, consume: &mut Consume<'_, W>) -> Result<(), W::Error> {
        for piece in 0..self.work.count() {
            let spare = if self.work.is_consumers(piece) {
                consume(piece, None)?;
                None
            } else {
                let product = self.get(piece)?;
                consume(piece, Some(&product))?;
                Some(product)
            };
            let mut state = self.lock();
            state.turn = piece + 1;
            state.spare.extend(spare);
            drop(state);
            self.changed.notify_all();
        }
        Ok(())
    }

    /// Waits for the product of `piece`.
    fn get(&self, piece: usize) -> Result<W::Product, W::Error> {
        let mut state = self.lock();
        loop {
            if let Some(result) = state.done.remove(&piece) {
                return result;
            }
            state = self.wait(state);
        }
    }
}

/// Answers for a piece also if producing it panics, so that the consumer does not wait for ever.
struct Answer<'d, 'w, W: Work> {
    desk: &'d Desk<'w, W>,
    piece: usize,
    result: Option<Result<W::Product, W::Error>>,
}

impl<W: Work> Drop for Answer<'_, '_, W> {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or_else(|| Err(self.desk.work.panicked()));
        self.desk.lock().done.insert(self.piece, result);
        self.desk.changed.notify_all();
    }
}

/// Tells the workers to end.
struct CloseOnDrop<'d, 'w, W: Work>(&'d Desk<'w, W>);

impl<W: Work> Drop for CloseOnDrop<'_, '_, W> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Numbers {
        count: usize,
        fails_at: usize,
        ahead: AtomicUsize,
        consumed: AtomicUsize,
    }

    impl Work for Numbers {
        type Product = usize;
        type Error = usize;

        fn count(&self) -> usize {
            self.count
        }

        fn is_consumers(&self, piece: usize) -> bool {
            piece % 10 == 3
        }

        fn produce(&self, piece: usize, _: usize) -> Result<usize, usize> {
            let ahead = piece - self.consumed.load(Ordering::SeqCst).min(piece);
            self.ahead.fetch_max(ahead, Ordering::SeqCst);
            if piece == self.fails_at { Err(piece) } else { Ok(piece * 2) }
        }

        fn panicked(&self) -> usize {
            usize::MAX
        }
    }

    fn numbers(count: usize, fails_at: usize) -> Numbers {
        Numbers { count, fails_at, ahead: AtomicUsize::new(0), consumed: AtomicUsize::new(0) }
    }

    #[test]
    fn products_come_in_order_and_not_too_far_ahead() {
        for (count, workers) in [(0, 1), (1, 4), (2, 2), (500, 1), (500, 4)] {
            let work = numbers(count, usize::MAX);
            let mut seen = Vec::new();
            let done = run(&work, workers, 5, &mut |piece, product| {
                assert_eq!(product.is_none(), piece % 10 == 3);
                seen.push((piece, product.copied().unwrap_or(piece * 2)));
                work.consumed.store(piece + 1, Ordering::SeqCst);
                Ok(())
            });
            assert_eq!(done, Ok(()));
            assert!(seen.iter().copied().eq((0..count).map(|piece| (piece, piece * 2))));
            assert!(work.ahead.into_inner() <= 5);
        }
    }

    #[test]
    fn the_first_error_ends_the_run() {
        for workers in [1, 4] {
            let done = run(&numbers(500, 77), workers, 5, &mut |_, _| Ok(()));
            assert_eq!(done, Err(77));
            let done = run(&numbers(500, usize::MAX), workers, 5, &mut |piece, _| {
                if piece == 99 { Err(1000) } else { Ok(()) }
            });
            assert_eq!(done, Err(1000));
        }
    }
}
