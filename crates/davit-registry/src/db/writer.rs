//! SQLite's one writer: transactions that arrive together share a commit.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::AtomicI64},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::sync::{mpsc, oneshot};

use super::{Connection, DbError, SameFile, Transaction, local_ms};

/// Transactions of one commit at most, so that the first waits for few others.
const GROUP: usize = 64;

/// A transaction that waits for its turn, and then for the commit.
pub(super) trait Work: Send {
    /// Runs it; `false` asks to undo it.
    fn run<'c>(&'c mut self, connection: &'c mut Connection) -> BoxFuture<'c, bool>;
    /// Tells the caller how it ended.
    fn finish(self: Box<Self>, commit: Result<(), Arc<DbError>>);
    /// Tells whether the writer ends after it.
    fn is_end(&self) -> bool {
        false
    }
}

pub(super) struct Pending<T: Transaction> {
    transaction: T,
    outcome: Option<Result<T::Output, T::Error>>,
    reply: oneshot::Sender<Result<T::Output, T::Error>>,
}

impl<T: Transaction> Pending<T> {
    pub(super) const fn new(
        transaction: T,
        reply: oneshot::Sender<Result<T::Output, T::Error>>,
    ) -> Self {
        Self { transaction, outcome: None, reply }
    }
}

impl<T: Transaction> Work for Pending<T> {
    fn run<'c>(&'c mut self, connection: &'c mut Connection) -> BoxFuture<'c, bool> {
        Box::pin(async move {
            // A panic is this caller's: it learns that its reply was dropped.
            let run = AssertUnwindSafe(self.transaction.run(connection)).catch_unwind();
            self.outcome = run.await.ok();
            matches!(self.outcome, Some(Ok(_)))
        })
    }

    fn finish(self: Box<Self>, commit: Result<(), Arc<DbError>>) {
        let outcome = match (self.outcome, commit) {
            (Some(Ok(output)), Ok(())) => Ok(output),
            (Some(Ok(_)), Err(error)) => Err(DbError::Commit(error).into()),
            (Some(Err(error)), _) => Err(error),
            (None, _) => return,
        };
        // The caller may have gone; the change is done.
        drop(self.reply.send(outcome));
    }
}

/// The last job: the writer ends, and says so.
pub(super) struct End(pub(super) oneshot::Sender<()>);

impl Work for End {
    fn run<'c>(&'c mut self, _connection: &'c mut Connection) -> BoxFuture<'c, bool> {
        Box::pin(std::future::ready(true))
    }

    fn finish(self: Box<Self>, _commit: Result<(), Arc<DbError>>) {
        // The one who closes may have gone.
        let _gone = self.0.send(());
    }

    fn is_end(&self) -> bool {
        true
    }
}

/// Takes jobs until the last `Database` is gone or closed.
pub(super) async fn run(
    mut connection: Connection,
    mut jobs: mpsc::Receiver<Box<dyn Work>>,
    offset_ms: Arc<AtomicI64>,
    file: Arc<SameFile>,
) {
    let mut end = None;
    while let Some(first) = jobs.recv().await {
        connection.set_clock(local_ms(&offset_ms));
        let mut done: Vec<Box<dyn Work>> = Vec::new();
        let mut next = Some(first);
        let mut begun = Ok(());
        while let Some(mut job) = next.take() {
            if job.is_end() {
                end = Some(job);
                break;
            }
            if begun.is_ok() {
                begun = step(&mut connection, &mut job, done.is_empty()).await;
            }
            done.push(job);
            if done.len() < GROUP {
                next = jobs.try_recv().ok();
            }
        }
        let begun = begun.and_then(|()| file.check().map_err(DbError::Moved));
        let commit = commit(&mut connection, begun, done.is_empty()).await;
        for job in done {
            job.finish(commit.clone());
        }
        if end.is_some() {
            break;
        }
    }
    drop(connection);
    if let Some(end) = end {
        end.finish(Ok(()));
    }
}

/// Runs one job; what it changed is kept only when it succeeded.
async fn step(
    connection: &mut Connection,
    job: &mut Box<dyn Work>,
    is_first: bool,
) -> Result<(), DbError> {
    let (start, undo) = if is_first {
        ("BEGIN IMMEDIATE", "ROLLBACK; BEGIN IMMEDIATE")
    } else {
        ("SAVEPOINT job", "ROLLBACK TO job")
    };
    connection.script(start).await?;
    if !job.run(connection).await {
        connection.script(undo).await?;
    }
    if !is_first {
        connection.script("RELEASE job").await?;
    }
    Ok(())
}

async fn commit(
    connection: &mut Connection,
    begun: Result<(), DbError>,
    is_empty: bool,
) -> Result<(), Arc<DbError>> {
    if is_empty {
        return Ok(());
    }
    let ended = match begun {
        Ok(()) => connection.script("COMMIT").await,
        Err(error) => Err(error),
    };
    let Err(error) = ended else { return Ok(()) };
    // SQLite may have rolled back already, and says so with an error that tells nothing new.
    drop(connection.script("ROLLBACK").await);
    Err(Arc::new(error))
}
