//! Shows the engine's progress on standard error: bars on a terminal, lines elsewhere.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use davit_engine::{Event, Progress, Silent};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::printer;

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
    /// Nothing.
    Quiet,
}

/// Opens a display for `mode`; `terminal` tells whether standard error is one.
#[must_use]
pub(crate) fn open(mode: ProgressMode, terminal: bool) -> Arc<dyn Progress> {
    match mode {
        ProgressMode::Quiet => Arc::new(Silent),
        ProgressMode::Tty => Arc::new(Bars::default()),
        ProgressMode::Auto if terminal => Arc::new(Bars::default()),
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

/// One bar for each item.
#[derive(Default)]
struct Bars {
    display: MultiProgress,
    items: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    fn bar(&self, item: &str) -> ProgressBar {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = items.entry(item.to_owned()).or_insert_with(|| {
            let bar = self.display.add(ProgressBar::new_spinner());
            bar.set_prefix(item.to_owned());
            bar
        });
        bar.clone()
    }
}

impl Progress for Bars {
    fn report(&self, event: Event<'_>) {
        match event {
            Event::Message(text) => self.display.suspend(|| printer::note(text)),
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
