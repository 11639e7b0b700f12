//! Every event as lines: `#2 [2/3] RUN make`, `#2 0.132 output`, `#2 DONE 0.4s`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use davit_engine::{
    build::{BuildEvent, StepId, StepInfo},
    image::Timestamp,
};

use super::{Display, SAME, by_hand, name, reason};
use crate::{commands::build::warnings::Gathered, printer};

/// Longest output that is held back for its line end, in bytes.
const PARTIAL_LIMIT: usize = 64 * 1024;

#[derive(Default)]
pub(super) struct Plain {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    steps: Arc<[StepInfo]>,
    started: HashMap<StepId, Timestamp>,
    /// Output of each step that has no line end yet.
    partial: HashMap<StepId, Vec<u8>>,
    last: Option<StepId>,
    found: Gathered,
}

impl State {
    fn number(&self, id: StepId) -> usize {
        self.steps.iter().position(|step| step.id == id).map_or(0, |at| at + 1)
    }

    /// The name of a step, to stand above its lines where another step wrote last.
    fn heading(&mut self, id: StepId) -> Option<String> {
        let before = self.last.replace(id);
        let gap = if before.is_some() { "\n" } else { "" };
        let number = self.number(id);
        (before != Some(id)).then(|| format!("{gap}#{number} {}", name(&self.steps, id)))
    }

    /// Writes a line of a step.
    fn line(&mut self, id: StepId, text: &str) {
        let heading = self.heading(id).map(|heading| heading + "\n").unwrap_or_default();
        printer::note(&format!("{heading}#{} {text}", self.number(id)));
    }

    /// What can be shown of a step's output with these new bytes: whole lines, and of an endless
    /// line what is too long to be held back.
    fn complete(&mut self, id: StepId, bytes: &[u8]) -> Vec<u8> {
        let mut text = self.partial.remove(&id).unwrap_or_default();
        let held = text.len();
        text.extend_from_slice(bytes);
        let line_end = bytes.iter().rposition(|&byte| byte == b'\n').map(|at| held + at + 1);
        let mut end = line_end.unwrap_or(0);
        if text.len() - end >= PARTIAL_LIMIT {
            // Not within a character.
            end += match std::str::from_utf8(&text[end..]) {
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                _ => text.len() - end,
            };
        }
        let rest = text.split_off(end);
        if !rest.is_empty() {
            self.partial.insert(id, rest);
        }
        text
    }

    fn output(&mut self, id: StepId, at: Timestamp, bytes: &[u8]) {
        let text = self.complete(id, bytes);
        let seconds = self.started.get(&id).map_or(0.0, |since| seconds_between(*since, at));
        for line in String::from_utf8_lossy(&text).lines() {
            self.line(id, &format!("{seconds:.3} {}", kept(line)));
        }
    }

    fn end(&mut self, id: StepId, at: Timestamp, text: &str) {
        if self.partial.contains_key(&id) {
            self.output(id, at, b"\n");
        }
        self.line(id, text);
    }
}

/// What a line shows in the end: a progress bar writes it anew again and again.
fn kept(line: &str) -> &str {
    let line = line.trim_end_matches('\r');
    line.rsplit('\r').next().unwrap_or(line)
}

/// Seconds from a time to a later one.
fn seconds_between(from: Timestamp, to: Timestamp) -> f64 {
    let seconds = to.unix_seconds().saturating_sub(from.unix_seconds());
    let rest = f64::from(to.nanoseconds()) - f64::from(from.nanoseconds());
    #[expect(clippy::cast_precision_loss, reason = "a build takes less than 2^52 seconds")]
    let seconds = seconds as f64;
    (seconds + rest / 1e9).max(0.0)
}

impl Display for Plain {
    fn show_at(&self, at: Timestamp, event: BuildEvent) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            BuildEvent::Read(_) => {}
            BuildEvent::Checked(checks) => state.found.add(checks),
            BuildEvent::Planned(steps) => state.steps = steps,
            BuildEvent::Started(id) => {
                state.started.insert(id, at);
                // A command may be silent for long.
                if let Some(heading) = state.heading(id) {
                    printer::note(&heading);
                }
            }
            BuildEvent::Cached(id) => state.line(id, "CACHED"),
            BuildEvent::SameResult(id) => state.line(id, "same result as before"),
            BuildEvent::Missed(id, miss) => {
                state.line(id, &format!("not cached: {}", reason(&miss)));
            }
            BuildEvent::Begun(_) | BuildEvent::Progress { .. } => {}
            BuildEvent::Output(id, _, bytes) => state.output(id, at, &bytes),
            BuildEvent::Finished(id, time) => {
                state.end(id, at, &format!("DONE {:.1}s", time.as_secs_f64()));
            }
            BuildEvent::Failed(id) => state.end(id, at, "ERROR"),
            BuildEvent::ByHand(step) => by_hand(step),
            BuildEvent::Compared(None) => printer::note(SAME),
            // The error says it.
            BuildEvent::Compared(Some(_)) => {}
            BuildEvent::Warning(text) => printer::error(&format!("warning: {text}")),
        }
    }

    fn end(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.found.summary().iter().for_each(|text| printer::error(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_what_it_became() {
        for (line, expected) in [("a", "a"), ("9%\r10%\r", "10%"), ("x\r", "x"), ("", "")] {
            assert_eq!(kept(line), expected);
        }
    }

    #[test]
    fn a_heading_stands_where_another_step_wrote_last() {
        let mut state = State::default();
        assert_eq!(state.heading(StepId(1)).map(|it| it.starts_with('\n')), Some(false));
        assert_eq!(state.heading(StepId(1)), None);
        assert_eq!(state.heading(StepId(2)).map(|it| it.starts_with('\n')), Some(true));
    }

    #[test]
    fn lines_come_whole_and_endless_ones_in_pieces() {
        let (mut state, id) = (State::default(), StepId(1));
        assert_eq!(state.complete(id, b"one\ntw"), b"one\n");
        assert_eq!(state.complete(id, b"o"), b"");
        assert_eq!(state.complete(id, b"\nth"), b"two\n");
        let mut shown = Vec::new();
        for _ in 0..3 * PARTIAL_LIMIT / 999 {
            let piece = state.complete(id, "\u{20ac}".repeat(333).as_bytes());
            assert!(std::str::from_utf8(&piece).is_ok(), "no character is cut");
            shown.extend(piece);
            assert!(state.partial.get(&id).is_none_or(|held| held.len() < PARTIAL_LIMIT));
        }
        assert!(shown.len() > PARTIAL_LIMIT);
        // Half a character at the very limit.
        state.partial.insert(id, vec![b'x'; PARTIAL_LIMIT - 1]);
        assert_eq!(state.complete(id, b"\xe2\x82").len(), PARTIAL_LIMIT - 1);
        assert_eq!(state.complete(id, b"\xac\n"), "\u{20ac}\n".as_bytes());
        for _ in 0..10 {
            state.complete(id, &[0xe2; PARTIAL_LIMIT]);
            assert!(state.partial.get(&id).is_none_or(|held| held.len() < PARTIAL_LIMIT));
        }
    }
}
