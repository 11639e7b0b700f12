//! Events of a build, in whatever order they come, to messages in the order of the Dockerfile.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use davit_build::{BuildEvent, StepId, StepInfo};
use davit_image::Digest;
use serde_json::{Value, json};

use super::{
    ClassicParameters, SHORT,
    steps::{self, Step},
};

/// Most bytes of what a step writes that wait until it is the step's turn.
const MOST_WAITING: usize = 1 << 20;

/// Whether a message is shown to those who want to know the id alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loudness {
    Usual,
    Always,
}

/// The stream of one build.
pub(super) struct Stream<'m> {
    messages: &'m (dyn Fn(&str) + Sync),
    is_quiet: bool,
    removes: bool,
    target: Option<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    steps: Vec<Progressing>,
    /// The instruction of each step of the build.
    places: BTreeMap<StepId, usize>,
    /// Whether it is known which steps the build has.
    is_planned: bool,
    /// The instruction whose turn it is.
    head: usize,
    /// Whether its first message is sent.
    is_open: bool,
    /// What tells the states so far apart.
    id: String,
}

struct Progressing {
    step: Step,
    /// Steps of the build that it still waits for.
    open: usize,
    is_started: bool,
    is_cached: bool,
    waiting: Vec<String>,
    waiting_bytes: usize,
}

impl<'m> Stream<'m> {
    pub(super) fn new(messages: &'m (dyn Fn(&str) + Sync), parameters: &ClassicParameters) -> Self {
        Self {
            messages,
            is_quiet: parameters.is_quiet(),
            removes: parameters.removes(),
            target: parameters.target().map(str::to_owned),
            state: Mutex::default(),
        }
    }

    fn send(&self, message: &Value) {
        (self.messages)(&format!("{message}\r\n"));
    }

    /// Sends a text of the stream.
    pub(super) fn text(&self, text: &str, loudness: Loudness) {
        if !self.is_quiet || loudness == Loudness::Always {
            self.send(&json!({ "stream": text }));
        }
    }

    /// Sends why there is no image.
    pub(super) fn fail(&self, code: i32, message: &str) {
        self.send(&json!({
            "errorDetail": { "code": code, "message": message },
            "error": message,
        }));
    }

    /// Sends what is left of the steps, and the id.
    pub(super) fn end(&self, id: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.steps.iter_mut().for_each(|step| step.open = 0);
        self.advance(&mut state, Some(id));
        drop(state);
        self.send(&json!({ "aux": { "ID": id } }));
    }

    /// Takes an event.
    pub(super) fn show(&self, event: BuildEvent) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            BuildEvent::Read(text) => {
                let steps = steps::of(&text, self.target.as_deref());
                state.steps = steps.into_iter().map(Progressing::new).collect();
            }
            BuildEvent::Planned(steps) => state.place(&steps),
            BuildEvent::Started(id) => {
                state.with(id, |step| step.is_started = true);
            }
            BuildEvent::Cached(id) => {
                state.with(id, |step| {
                    step.is_cached = !step.is_started;
                    step.open = step.open.saturating_sub(1);
                });
            }
            BuildEvent::Finished(id, _) => {
                state.with(id, |step| {
                    step.is_cached = false;
                    step.open = step.open.saturating_sub(1);
                });
            }
            BuildEvent::Output(id, _, bytes) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                state.with(id, |step| step.wait(text));
            }
            BuildEvent::Warning(text) => {
                drop(state);
                return self.text(&format!("[Warning] {text}\n"), Loudness::Usual);
            }
            _ => return,
        }
        self.advance(&mut state, None);
    }

    /// Sends what can be sent; `last` is the id of the whole, once all is done.
    fn advance(&self, state: &mut State, last: Option<&str>) {
        let total = state.steps.len();
        while let Some(mut step) = state.take() {
            let is_ready = step.open == 0 || step.is_started;
            if !state.is_open && is_ready {
                let text = &step.step.text;
                self.text(&format!("Step {}/{total} : {text}", state.head + 1), Loudness::Usual);
                self.text("\n", Loudness::Usual);
                let digest = Digest::of(format!("{}\n{text}", state.id).as_bytes());
                state.id = digest.hex();
                if step.is_cached {
                    self.text(" ---> Using cache\n", Loudness::Usual);
                } else if step.step.is_run && step.is_started {
                    let running = format!(" ---> Running in {}\n", short(&state.id));
                    self.text(&running, Loudness::Usual);
                }
                state.is_open = true;
            }
            if state.is_open {
                for text in std::mem::take(&mut step.waiting) {
                    self.text(&text, Loudness::Usual);
                }
                step.waiting_bytes = 0;
            }
            let is_done = step.open == 0 && state.is_open;
            if !is_done {
                state.put(step);
                return;
            }
            if step.step.is_run && step.is_started && self.removes {
                let removed =
                    format!(" ---> Removed intermediate container {}\n", short(&state.id));
                self.text(&removed, Loudness::Usual);
            }
            let is_last = state.head + 1 == total;
            if is_last && last.is_none() {
                // Its id is that of the image, which is not there yet.
                state.put(step);
                return;
            }
            let id = last.filter(|_| is_last).map(|id| id.rsplit(':').next().unwrap_or(id));
            self.text(&format!(" ---> {}\n", short(id.unwrap_or(&state.id))), Loudness::Usual);
            state.head += 1;
            state.is_open = false;
        }
    }
}

fn short(id: &str) -> &str {
    id.get(..SHORT).unwrap_or(id)
}

impl Progressing {
    const fn new(step: Step) -> Self {
        Self {
            step,
            open: 0,
            is_started: false,
            is_cached: false,
            waiting: Vec::new(),
            waiting_bytes: 0,
        }
    }

    fn wait(&mut self, text: String) {
        if self.waiting_bytes < MOST_WAITING {
            self.waiting_bytes += text.len();
            self.waiting.push(text);
        }
    }
}

impl State {
    /// Notes which instruction each step of the build belongs to.
    fn place(&mut self, infos: &[StepInfo]) {
        self.is_planned = true;
        self.places.clear();
        for step in &mut self.steps {
            step.open = 0;
        }
        for info in infos {
            let found = self.steps.iter().position(|step| step.step.line == info.line);
            if let Some(at) = found {
                self.places.insert(info.id, at);
                self.steps[at].open += 1;
            }
        }
    }

    fn with(&mut self, id: StepId, change: impl FnOnce(&mut Progressing)) {
        let place = self.places.get(&id).copied();
        if let Some(step) = place.and_then(|at| self.steps.get_mut(at)) {
            change(step);
        }
    }

    /// The step whose turn it is, which [`State::put`] gives back.
    fn take(&mut self) -> Option<Progressing> {
        if !self.is_planned {
            return None;
        }
        let empty = Step { text: String::new(), line: 0, is_run: false };
        let step = self.steps.get_mut(self.head)?;
        Some(std::mem::replace(step, Progressing::new(empty)))
    }

    fn put(&mut self, step: Progressing) {
        if let Some(place) = self.steps.get_mut(self.head) {
            *place = step;
        }
    }
}
