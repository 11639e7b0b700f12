//! Every event as lines: `#2 [2/3] RUN make`, `#2 0.132 output`, `#2 DONE 0.4s`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use davit_engine::build::{BuildEvent, StepId, StepInfo};

use super::{Display, name, reason};
use crate::printer;

pub(super) struct Plain {
    explain: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    steps: Arc<[StepInfo]>,
    started: HashMap<StepId, Instant>,
    /// Output of each step that has no line end yet.
    partial: HashMap<StepId, Vec<u8>>,
    last: Option<StepId>,
}

impl Plain {
    pub(super) fn new(explain: bool) -> Self {
        Self { explain, state: Mutex::new(State::default()) }
    }
}

impl State {
    fn number(&self, id: StepId) -> usize {
        self.steps.iter().position(|step| step.id == id).map_or(0, |at| at + 1)
    }

    /// Writes a line of a step, with its name above where another step wrote last.
    fn line(&mut self, id: StepId, text: &str) {
        let number = self.number(id);
        let mut all = String::new();
        if self.last != Some(id) {
            if self.last.is_some() {
                all.push('\n');
            }
            all.push_str(&format!("#{number} {}\n", name(&self.steps, id)));
            self.last = Some(id);
        }
        all.push_str(&format!("#{number} {text}"));
        printer::note(&all);
    }

    fn output(&mut self, id: StepId, bytes: &[u8]) {
        let mut text = self.partial.remove(&id).unwrap_or_default();
        text.extend_from_slice(bytes);
        let end = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let rest = text.split_off(end);
        if !rest.is_empty() {
            self.partial.insert(id, rest);
        }
        let seconds = self.started.get(&id).map_or(0.0, |since| since.elapsed().as_secs_f64());
        for line in String::from_utf8_lossy(&text).lines() {
            self.line(id, &format!("{seconds:.3} {line}"));
        }
    }

    fn end(&mut self, id: StepId, text: &str) {
        if self.partial.contains_key(&id) {
            self.output(id, b"\n");
        }
        self.line(id, text);
    }
}

impl Display for Plain {
    fn show(&self, event: BuildEvent) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            BuildEvent::Planned(steps) => state.steps = steps,
            BuildEvent::Started(id) => {
                state.started.insert(id, Instant::now());
            }
            BuildEvent::Cached(id) => state.line(id, "CACHED"),
            BuildEvent::SameResult(id) => state.line(id, "same result as before"),
            BuildEvent::Missed(id, miss) if self.explain => {
                state.line(id, &format!("not cached: {}", reason(&miss)));
            }
            BuildEvent::Missed(..) | BuildEvent::Progress { .. } => {}
            BuildEvent::Output(id, _, bytes) => state.output(id, &bytes),
            BuildEvent::Finished(id, time) => {
                state.end(id, &format!("DONE {:.1}s", time.as_secs_f64()));
            }
            BuildEvent::Failed(id) => state.end(id, "ERROR"),
            BuildEvent::Warning(text) => printer::error(&format!("warning: {text}")),
        }
    }
}
