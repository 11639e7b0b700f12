//! Many readers, one writer, one order.
//!
//! Readers take tasks in order and may be at most [`WINDOW`] tasks ahead of the writer, so memory is
//! bounded however slow the disk or however long one file takes.

use std::{
    collections::HashMap,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use super::{
    Sink, WriteError,
    batch::{Batch, Plan, Task},
};

/// Tasks that may be under way: each about 0.5 MiB, at most 1.5.
const WINDOW: usize = 12;
/// Fewer tasks than this are not worth a thread.
const TASKS_FOR_THREADS: usize = 3;

pub(super) fn run(plan: &Plan<'_>, sink: &mut Sink<'_>) -> Result<(), WriteError> {
    let tasks = plan.tasks();
    if tasks.len() < TASKS_FOR_THREADS {
        return alone(plan, &tasks, sink);
    }
    let desk = Desk::default();
    let readers = plan.options.readers.clamp(1, 64);
    thread::scope(|scope| {
        let mut started = 0;
        for _ in 0..readers {
            let reader = thread::Builder::new().name("layer-reader".into());
            let work = || read(plan, &tasks, &desk);
            started += usize::from(reader.spawn_scoped(scope, work).is_ok());
        }
        let written =
            if started == 0 { alone(plan, &tasks, sink) } else { write(&tasks, &desk, sink) };
        desk.close();
        written
    })
}

fn alone(plan: &Plan<'_>, tasks: &[Task], sink: &mut Sink<'_>) -> Result<(), WriteError> {
    let mut batch = Batch::default();
    for task in tasks {
        match task {
            Task::Large(position) => sink.stream(*position)?,
            Task::Batch(range) => {
                batch = plan.fill(range.clone(), batch)?;
                sink.write(&batch)?;
            }
        }
    }
    Ok(())
}

/// Where readers and writer meet.
#[derive(Default)]
struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The task that the next free reader takes.
    next: usize,
    /// The task that is written next.
    turn: usize,
    done: HashMap<usize, Result<Batch, WriteError>>,
    /// Buffers to use again.
    spare: Vec<Batch>,
    closed: bool,
}

impl Desk {
    /// A thread that panics leaves nothing half done in the state.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'g>(&self, state: MutexGuard<'g, State>) -> MutexGuard<'g, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// The next task for a reader; `None` when there is none.
    fn take(&self, tasks: &[Task]) -> Option<(usize, Batch)> {
        let mut state = self.lock();
        loop {
            while let Some(Task::Large(_)) = tasks.get(state.next) {
                state.next += 1;
            }
            if state.closed || state.next >= tasks.len() {
                return None;
            }
            if state.next < state.turn + WINDOW {
                let task = state.next;
                state.next += 1;
                return Some((task, state.spare.pop().unwrap_or_default()));
            }
            state = self.wait(state);
        }
    }

    fn put(&self, task: usize, result: Result<Batch, WriteError>) {
        self.lock().done.insert(task, result);
        self.changed.notify_all();
    }

    /// Waits for the batch of `task`.
    fn get(&self, task: usize) -> Result<Batch, WriteError> {
        let mut state = self.lock();
        loop {
            if let Some(result) = state.done.remove(&task) {
                return result;
            }
            state = self.wait(state);
        }
    }

    fn finish(&self, task: usize, spare: Option<Batch>) {
        let mut state = self.lock();
        state.turn = task + 1;
        state.spare.extend(spare);
        drop(state);
        self.changed.notify_all();
    }
}

fn read(plan: &Plan<'_>, tasks: &[Task], desk: &Desk) {
    while let Some((task, batch)) = desk.take(tasks) {
        // Readers only take batches; large files are the writer's.
        let Task::Batch(range) = &tasks[task] else { continue };
        let mut answer = Answer { desk, task, result: None };
        answer.result = Some(plan.fill(range.clone(), batch));
    }
}

/// Answers for a task also if the opener panics, so that the writer does not wait for ever.
struct Answer<'d> {
    desk: &'d Desk,
    task: usize,
    result: Option<Result<Batch, WriteError>>,
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        let panicked = || Err(WriteError::Write(std::io::Error::other("a reader panicked")));
        self.desk.put(self.task, self.result.take().unwrap_or_else(panicked));
    }
}

fn write(tasks: &[Task], desk: &Desk, sink: &mut Sink<'_>) -> Result<(), WriteError> {
    for (number, task) in tasks.iter().enumerate() {
        let spare = match task {
            Task::Large(position) => {
                sink.stream(*position)?;
                None
            }
            Task::Batch(_) => {
                let batch = desk.get(number)?;
                sink.write(&batch)?;
                Some(batch)
            }
        };
        desk.finish(number, spare);
    }
    Ok(())
}
