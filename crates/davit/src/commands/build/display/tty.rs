//! For a terminal: finished steps as lines, running ones with their last line of output.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use davit_engine::build::{BuildEvent, StepId, StepInfo};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Display, name, reason};
use crate::{
    commands::build::warnings::Gathered,
    printer::{self, Footer},
};

const TICK: Duration = Duration::from_millis(120);

pub(super) struct Tty {
    footer: Footer,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    steps: Arc<[StepInfo]>,
    running: HashMap<StepId, ProgressBar>,
    found: Gathered,
}

impl Tty {
    pub(super) fn new() -> Self {
        Self { footer: Footer::new(), state: Mutex::new(State::default()) }
    }

    fn start(&self, state: &mut State, id: StepId) {
        let style =
            ProgressStyle::with_template("{spinner} {prefix:.bold} {elapsed}\n    {wide_msg:.dim}");
        let bar = self.footer.add();
        bar.set_style(style.expect("the template is well-formed"));
        bar.set_prefix(name(&state.steps, id));
        bar.enable_steady_tick(TICK);
        state.running.insert(id, bar);
    }

    fn finish(&self, state: &mut State, id: StepId, text: &str) {
        if let Some(bar) = state.running.remove(&id) {
            bar.finish_and_clear();
            self.footer.remove(&bar);
        }
        printer::note(&format!(" => {} {text}", name(&state.steps, id)));
    }
}

impl Display for Tty {
    fn show(&self, event: BuildEvent) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            BuildEvent::Checked(checks) => state.found.add(checks),
            BuildEvent::Planned(steps) => state.steps = steps,
            BuildEvent::Started(id) => self.start(&mut state, id),
            BuildEvent::Cached(id) => self.finish(&mut state, id, "(cached)"),
            BuildEvent::SameResult(id) => {
                printer::note(&format!("    {}: same result as before", name(&state.steps, id)));
            }
            BuildEvent::Missed(id, miss) => {
                printer::note(&format!("    {}: {}", name(&state.steps, id), reason(&miss)));
            }
            BuildEvent::Progress { .. } => {}
            BuildEvent::Output(id, _, bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                let last = text.lines().rev().find(|line| !line.trim().is_empty());
                if let (Some(bar), Some(last)) = (state.running.get(&id), last) {
                    bar.set_message(last.replace(char::is_control, " "));
                }
            }
            BuildEvent::Finished(id, time) => {
                self.finish(&mut state, id, &format!("{:.1}s", time.as_secs_f64()));
            }
            BuildEvent::Failed(id) => self.finish(&mut state, id, "failed"),
            BuildEvent::Warning(text) => printer::error(&format!("warning: {text}")),
        }
    }

    fn end(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, bar) in state.running.drain() {
            bar.finish_and_clear();
        }
        state.found.summary().iter().for_each(|text| printer::error(text));
    }
}
