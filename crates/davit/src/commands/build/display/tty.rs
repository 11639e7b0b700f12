//! For a terminal: finished steps as lines, running ones with their last lines of output.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use davit_engine::{
    build::{BuildEvent, StepId, StepInfo},
    image::Timestamp,
};
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    Display, SAME, by_hand, cut, name, reason,
    tail::{SHOWN, Tail},
};
use crate::{
    commands::{build::warnings::Gathered, container::stream},
    environment,
    printer::{self, Footer},
};

/// Width of a terminal that does not say it.
const COLUMNS: usize = 80;
/// What stands beside the name of a running step: the sign that it runs, and for how long.
const BESIDE: usize = 12;
/// The least that is shown of a name, in characters.
const LEAST: usize = 16;
const TICK: Duration = Duration::from_millis(120);

/// How many lines of the output of running steps are shown, where that is another number.
const LINES: &str = "BUILDKIT_TTY_LOG_LINES";
/// Each line is drawn anew with the next one.
const MOST_LINES: usize = 200;

pub(super) struct Tty {
    footer: Footer,
    lines: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    steps: Arc<[StepInfo]>,
    running: HashMap<StepId, (ProgressBar, Tail)>,
    found: Gathered,
}

impl Tty {
    pub(super) fn new() -> Self {
        let lines = environment::variable_text(LINES).and_then(|text| text.parse().ok());
        let lines =
            lines.filter(|lines| *lines > 0).map_or(SHOWN, |lines: usize| lines.min(MOST_LINES));
        Self { footer: Footer::new(), lines, state: Mutex::new(State::default()) }
    }

    fn start(&self, state: &mut State, id: StepId) {
        let style = ProgressStyle::with_template("{spinner} {prefix:.bold} {elapsed}\n{msg:.dim}");
        let bar = self.footer.add();
        bar.set_style(style.expect("the template is well-formed"));
        bar.set_prefix(beside(&name(&state.steps, id), BESIDE));
        bar.enable_steady_tick(TICK);
        state.running.insert(id, (bar, Tail::new(self.lines)));
    }

    fn finish(&self, state: &mut State, id: StepId, text: &str) {
        if let Some((bar, _)) = state.running.remove(&id) {
            bar.finish_and_clear();
            self.footer.remove(&bar);
        }
        let name = beside(&name(&state.steps, id), " =>  ".len() + text.len());
        printer::note(&format!(" => {name} {text}"));
    }
}

/// Width of the terminal, in columns.
fn columns() -> usize {
    stream::size().map_or(COLUMNS, |(_, columns)| columns.into())
}

/// A name that leaves room for so much else in its line.
fn beside(name: &str, rest: usize) -> String {
    cut(name, columns().saturating_sub(rest).max(LEAST))
}

impl Display for Tty {
    fn show_at(&self, _at: Timestamp, event: BuildEvent) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            BuildEvent::Read(_) => {}
            BuildEvent::Checked(checks) => state.found.add(checks),
            BuildEvent::Planned(steps) => state.steps = steps,
            BuildEvent::Started(id) => self.start(&mut state, id),
            BuildEvent::Cached(id) => self.finish(&mut state, id, "(cached)"),
            BuildEvent::SameResult(id) => {
                let text = "same result as before";
                let name = beside(&name(&state.steps, id), "    : ".len() + text.len());
                printer::note(&format!("    {name}: {text}"));
            }
            BuildEvent::Missed(id, miss) => {
                // A reason is read whole.
                let name = beside(&name(&state.steps, id), columns() / 2);
                printer::note(&format!("    {name}: {}", reason(&miss)));
            }
            BuildEvent::Begun(_) | BuildEvent::Progress { .. } => {}
            BuildEvent::Output(id, _, bytes) => {
                let steps = state.running.len();
                if let Some((bar, tail)) = state.running.get_mut(&id) {
                    tail.push(&bytes);
                    bar.set_message(tail.text(steps, columns()));
                }
            }
            BuildEvent::Finished(id, time) => {
                self.finish(&mut state, id, &format!("{:.1}s", time.as_secs_f64()));
            }
            BuildEvent::Failed(id) => self.finish(&mut state, id, "failed"),
            BuildEvent::Compared(None) => printer::note(SAME),
            // The error says it.
            BuildEvent::Compared(Some(_)) => {}
            BuildEvent::ByHand(step) => {
                state.running.drain().for_each(|(_, (bar, _))| bar.finish_and_clear());
                by_hand(step);
            }
            BuildEvent::Warning(text) => printer::error(&format!("warning: {text}")),
        }
    }

    fn end(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, (bar, _)) in state.running.drain() {
            bar.finish_and_clear();
        }
        state.found.summary().iter().for_each(|text| printer::error(text));
    }
}
