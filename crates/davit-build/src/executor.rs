//! Runs the nodes of a plan: those that are ready, the longest way to the end first.
//!
//! A node whose layer is the same upon every state is ready without the state below it: its layer is
//! made beside what leads there, and laid on when both are done.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Condvar, Mutex, PoisonError, atomic::Ordering},
};

use crate::{
    BuildEvent, StepId,
    definition::stands_alone,
    error::{BuildError, BuildErrorKind, Excerpt},
    plan::{Node, NodeId, Op, Plan},
    request::DockerfileText,
    shared::FinalStep,
    step::{Done, Session},
};

/// What the workers share.
struct Board {
    /// Nodes whose inputs are done.
    ready: Vec<NodeId>,
    /// Inputs of each node that are not done, of those that it is ready with.
    waiting: Vec<usize>,
    /// What nodes gave upon nothing, until the state below them is done.
    ahead: Vec<Option<Done>>,
    done: Vec<Option<Done>>,
    open: usize,
    error: Option<BuildError>,
}

/// Runs all nodes, each as soon as it is ready and there is a place for what it does, and gives what
/// each gave.
///
/// The first error stops the others; it is the one that is reported.
pub(crate) fn execute(
    session: &Session<'_, '_>,
    dockerfile: &DockerfileText,
) -> Result<Vec<Done>, BuildError> {
    let plan = session.plan;
    let waiting: Vec<usize> = plan.nodes.iter().map(|node| awaited(node).len()).collect();
    let ready = ids(plan).filter(|id| waiting[id.0 as usize] == 0).collect();
    let (ahead, done) = (vec![None; waiting.len()], vec![None; waiting.len()]);
    let open = waiting.len();
    let board = Mutex::new(Board { ready, waiting, ahead, done, open, error: None });
    let changed = Condvar::new();
    let worker =
        Worker { session, dockerfile, board: &board, changed: &changed, users: users(plan) };
    let workers = session.places.most().clamp(1, plan.nodes.len().max(1));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(|| worker.work())).collect();
        for thread in threads {
            if let Err(panic) = thread.join() {
                resume_unwind(panic);
            }
        }
    });
    let board = board.into_inner().unwrap_or_else(PoisonError::into_inner);
    match board.error {
        Some(error) => Err(error),
        None => Ok(board.done.into_iter().flatten().collect()),
    }
}

struct Worker<'w, 'b, 's> {
    session: &'w Session<'b, 's>,
    dockerfile: &'w DockerfileText,
    board: &'w Mutex<Board>,
    changed: &'w Condvar,
    users: Vec<Vec<User>>,
}

/// A node that reads another one.
#[derive(Clone, Copy)]
struct User {
    id: NodeId,
    /// Whether it does no more than lay its layer onto the other one's state.
    lays: bool,
}

impl Worker<'_, '_, '_> {
    fn work(&self) {
        while let Some((id, inputs)) = self.take() {
            let inputs: Vec<&Done> = inputs.iter().collect();
            let result = if self.session.is_cancelled() {
                Ok(Err(BuildError::new(BuildErrorKind::Cancelled)))
            } else {
                catch_unwind(AssertUnwindSafe(|| self.session.node(id, &inputs)))
            };
            match result {
                Ok(result) => self.finish(id, result),
                Err(panic) => {
                    // The others must not wait for what will never be done.
                    self.finish(id, Err(BuildError::new(BuildErrorKind::Cancelled)));
                    resume_unwind(panic);
                }
            }
        }
    }

    /// Waits for a node that is ready; `None` when all are done or one failed.
    fn take(&self) -> Option<(NodeId, Vec<Done>)> {
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if board.error.is_some() || board.open == 0 {
                return None;
            }
            let next = (0..board.ready.len()).max_by_key(|&at| {
                let id = board.ready[at];
                (self.session.weights[id.0 as usize], std::cmp::Reverse(id))
            });
            if let Some(at) = next {
                let id = board.ready.swap_remove(at);
                let node = self.session.plan.node(id);
                let nothing = stands_alone(&node.op).then(|| Done::base(id, Vec::new()));
                let done = |input: &NodeId| {
                    board.done[input.0 as usize].clone().expect("inputs of a ready node are done")
                };
                return Some((
                    id,
                    nothing.into_iter().chain(awaited(node).iter().map(done)).collect(),
                ));
            }
            board = self.changed.wait(board).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finish(&self, id: NodeId, result: Result<Done, BuildError>) {
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(done) => self.complete(&mut board, id, done),
            Err(error) => {
                // The others are told to stop, and fail as cancelled: the first error counts.
                self.session.stopped.store(true, Ordering::Relaxed);
                if board.error.is_none() {
                    (self.session.events)(BuildEvent::Failed(StepId(id.0)));
                    board.error = Some(self.place(id, error));
                }
            }
        }
        drop(board);
        self.changed.notify_all();
    }

    /// Takes note of what a node gave, tells it, and lets those go on that wait for it.
    fn complete(&self, board: &mut Board, id: NodeId, done: Done) {
        let node = self.session.plan.node(id);
        let below = stands_alone(&node.op).then(|| &board.done[node.inputs[0].0 as usize]);
        let done = match below {
            None => done,
            Some(Some(below)) => done.upon(below),
            Some(None) => {
                board.ahead[id.0 as usize] = Some(done);
                return;
            }
        };
        let mut complete = vec![(id, done)];
        while let Some((id, mut done)) = complete.pop() {
            self.tell(id, &mut done);
            board.open -= 1;
            for &User { id, lays } in &self.users[id.0 as usize] {
                if lays {
                    let ahead = board.ahead[id.0 as usize].take();
                    complete.extend(ahead.map(|alone| (id, alone.upon(&done))));
                    continue;
                }
                let waiting = &mut board.waiting[id.0 as usize];
                *waiting -= 1;
                if *waiting == 0 {
                    board.ready.push(id);
                }
            }
            board.done[id.0 as usize] = Some(done);
        }
    }

    /// Tells that a node is final.
    fn tell(&self, id: NodeId, done: &mut Done) {
        let Some(tell) = self.session.finals else { return };
        let in_result = self.session.in_result.contains(&id);
        let records = mem::take(&mut done.records);
        let (id, layers) = (StepId(id.0), done.state.layers.clone());
        tell(FinalStep { id, in_result, layers, records });
    }

    /// Says where in the Dockerfile an error belongs.
    fn place(&self, id: NodeId, error: BuildError) -> BuildError {
        let span = self.session.plan.node(id).span;
        match span {
            Some(span) if !matches!(error.kind, BuildErrorKind::Cancelled) => {
                error.at(Excerpt::new(&self.dockerfile.name, &self.dockerfile.bytes, span, ""))
            }
            _ => error,
        }
    }
}

fn ids(plan: &Plan) -> impl DoubleEndedIterator<Item = NodeId> + ExactSizeIterator {
    (0..plan.nodes.len()).map(|index| NodeId(u32::try_from(index).expect("nodes have u32 ids")))
}

/// The inputs that a node is ready with.
fn awaited(node: &Node) -> &[NodeId] {
    &node.inputs[usize::from(stands_alone(&node.op))..]
}

/// Nodes that read each node, once for each time that they read it.
fn users(plan: &Plan) -> Vec<Vec<User>> {
    let mut users = vec![Vec::new(); plan.nodes.len()];
    for id in ids(plan) {
        let node = plan.node(id);
        for (number, input) in node.inputs.iter().enumerate() {
            let lays = number == 0 && stands_alone(&node.op);
            users[input.0 as usize].push(User { id, lays });
        }
    }
    users
}

/// Weight of the heaviest way from each node to the end.
pub(crate) fn weights(plan: &Plan) -> Vec<u64> {
    let mut weights: Vec<u64> = vec![0; plan.nodes.len()];
    for id in ids(plan).rev() {
        let own = match plan.node(id).op {
            Op::Run(_) => 10,
            Op::Copy(_) => 3,
            _ => 1,
        };
        let total = weights[id.0 as usize] + own;
        weights[id.0 as usize] = total;
        for input in &plan.node(id).inputs {
            let input = &mut weights[input.0 as usize];
            *input = (*input).max(total);
        }
    }
    weights
}
