//! Shows the engine's progress on standard error: bars on a terminal, lines elsewhere.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use davit_engine::{Event, Progress, Silent};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::printer::{self, Footer};

/// How progress is shown (`--progress`, `--quiet`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ProgressMode {
    /// Bars on a terminal, lines elsewhere.
    #[default]
    Auto,
    /// Bars.
    Tty,
    /// Lines.
    Plain,
    /// One JSON object per line, in the form of Docker's API.
    Json,
    /// Nothing.
    Quiet,
}

/// Opens a display for `mode`; `can_draw` tells whether standard error shows bars.
#[must_use]
pub(crate) fn open(mode: ProgressMode, can_draw: bool) -> Arc<dyn Progress> {
    match mode {
        ProgressMode::Quiet => Arc::new(Silent),
        ProgressMode::Tty => Arc::new(Bars::new()),
        ProgressMode::Json => Arc::new(Json::default()),
        ProgressMode::Auto if can_draw => Arc::new(Bars::new()),
        ProgressMode::Auto | ProgressMode::Plain => Arc::new(Lines),
    }
}

/// One line for each item that ends, and one for each message.
struct Lines;

impl Progress for Lines {
    fn report(&self, event: Event<'_>) {
        match event {
            Event::Message(text) => printer::note(text),
            Event::Done { item, status } => printer::note(&format!("{item}: {status}")),
            // A log that nobody watches needs no intermediate states.
            Event::Phase { .. } | Event::Position { .. } => {}
        }
    }
}

/// Time between two positions of one item.
const POSITION_PAUSE: Duration = Duration::from_millis(100);

/// `{"status":…,"progressDetail":{"current":…,"total":…},"id":…}`, as `POST /images/create` answers.
#[derive(Default)]
struct Json {
    items: Mutex<HashMap<String, Item>>,
}

/// What is known of an item on its way.
struct Item {
    phase: String,
    total_bytes: Option<u64>,
    shown: Instant,
}

impl Json {
    fn line(&self, event: Event<'_>) -> Option<Value> {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Message(text) => Some(json!({"status": text})),
            Event::Phase { item, phase, total_bytes } => {
                let known = Item { phase: phase.to_owned(), total_bytes, shown: Instant::now() };
                items.insert(item.to_owned(), known);
                Some(json!({"status": phase, "progressDetail": {}, "id": item}))
            }
            Event::Position { item, bytes } => {
                let known = items.get_mut(item)?;
                if known.shown.elapsed() < POSITION_PAUSE {
                    return None;
                }
                known.shown = Instant::now();
                let mut detail = json!({"current": bytes});
                if let Some(total) = known.total_bytes {
                    detail["total"] = total.into();
                }
                Some(json!({"status": known.phase, "progressDetail": detail, "id": item}))
            }
            Event::Done { item, status } => {
                items.remove(item);
                Some(json!({"status": status, "progressDetail": {}, "id": item}))
            }
        }
    }
}

impl Progress for Json {
    fn report(&self, event: Event<'_>) {
        if let Some(line) = self.line(event) {
            printer::note(&line.to_string());
        }
    }
}

/// One bar for each item, in order of appearance.
struct Bars {
    footer: Footer,
    items: Mutex<Vec<(String, ProgressBar)>>,
}

impl Bars {
    fn new() -> Self {
        Self { footer: Footer::new(), items: Mutex::default() }
    }

    fn bar(&self, item: &str) -> ProgressBar {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bar)) = items.iter().find(|(name, _)| name == item) {
            return bar.clone();
        }
        let bar = self.footer.add();
        bar.set_prefix(item.to_owned());
        items.push((item.to_owned(), bar.clone()));
        bar
    }

    /// Makes lines of the bars once all have ended: what is said then is about the whole.
    fn settle(&self) {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        if !items.iter().all(|(_, bar)| bar.is_finished()) {
            return;
        }
        for (item, bar) in items.drain(..) {
            bar.finish_and_clear();
            self.footer.remove(&bar);
            printer::note(&format!("{item}: {}", bar.message()));
        }
    }
}

impl Progress for Bars {
    fn report(&self, event: Event<'_>) {
        match event {
            Event::Message(text) => {
                self.settle();
                printer::note(text);
            }
            Event::Phase { item, phase, total_bytes } => {
                let bar = self.bar(item);
                bar.set_style(style(total_bytes.is_some()));
                bar.set_message(phase.to_owned());
                bar.set_position(0);
                match total_bytes {
                    Some(total) => bar.set_length(total),
                    None => bar.enable_steady_tick(Duration::from_millis(100)),
                }
            }
            Event::Position { item, bytes } => self.bar(item).set_position(bytes),
            Event::Done { item, status } => {
                let bar = self.bar(item);
                bar.set_style(style(false));
                bar.finish_with_message(status.to_owned());
            }
        }
    }
}

fn style(bytes: bool) -> ProgressStyle {
    let template = if bytes {
        "{prefix}: {msg} [{bar:30}] {decimal_bytes}/{decimal_total_bytes}"
    } else {
        "{prefix}: {msg}"
    };
    ProgressStyle::with_template(template).expect("a literal template").progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_dockers() {
        let display = Json::default();
        let item = "0123456789ab";
        let line = |status: &str, detail: Value| {
            Some(json!({"status": status, "progressDetail": detail, "id": item}))
        };
        let phase = Event::Phase { item, phase: "Downloading", total_bytes: Some(10) };
        assert_eq!(display.line(phase), line("Downloading", json!({})));
        assert_eq!(display.line(Event::Position { item, bytes: 1 }), None, "too soon to be told");
        display.items.lock().unwrap().get_mut(item).unwrap().shown -= POSITION_PAUSE;
        let position = display.line(Event::Position { item, bytes: 5 });
        assert_eq!(position, line("Downloading", json!({"current": 5, "total": 10})));
        let done = display.line(Event::Done { item, status: "Pull complete" });
        assert_eq!(done, line("Pull complete", json!({})));
        assert_eq!(display.line(Event::Position { item, bytes: 6 }), None, "it is over");
        assert_eq!(display.line(Event::Message("words")), Some(json!({"status": "words"})));
    }
}
