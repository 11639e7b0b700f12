//! `--explain=json`: why steps run, for programs.

use std::sync::{Arc, OnceLock};

use davit_engine::build::{BuildEvent, BuildOutput, BuildSink, Miss, StepInfo};
use serde_json::{Value, json};

use super::display::reason;
use crate::{error::CliError, printer};

/// `--explain`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Explain {
    /// In words, among the progress
    #[value(name = "true", alias = "1")]
    Words,
    /// As a JSON object per line on standard output
    Json,
    /// Not at all
    #[value(name = "false", alias = "0")]
    Never,
}

/// Prints why steps run.
#[derive(Debug, Default)]
pub(super) struct Explainer {
    steps: OnceLock<Arc<[StepInfo]>>,
}

impl Explainer {
    /// Takes note of an event.
    pub(super) fn show(&self, event: &BuildEvent) {
        match event {
            BuildEvent::Planned(steps) => self.steps.set(Arc::clone(steps)).unwrap_or_default(),
            BuildEvent::Missed(id, miss) => {
                let mut steps = self.steps.get().into_iter().flat_map(|steps| steps.iter());
                let step = steps.find(|step| step.id == *id).map(|step| step.name.as_str());
                let mut line = facts(miss);
                line["step"] = json!(step);
                if let Err(error) = printer::line(&line.to_string()) {
                    tracing::debug!(%error, "nobody reads why steps run");
                }
            }
            _ => {}
        }
    }
}

/// Refuses an explanation on standard output where a result goes there.
pub(super) fn check(explain: Explain, outputs: &[BuildOutput]) -> Result<(), CliError> {
    let is_taken = |output: &BuildOutput| {
        use BuildOutput::{Archive, Tar};
        matches!(output, Archive(.., BuildSink::Stream(_)) | Tar(BuildSink::Stream(_), _))
    };
    if explain == Explain::Json && outputs.iter().any(is_taken) {
        let text = "--explain=json and the result both go to standard output";
        return Err(CliError::usage(text).hint("give the result a file by dest=FILE"));
    }
    Ok(())
}

/// Why a step runs, for programs: `why` is `not-asked`, `first`, `component`, `file`, `before`,
/// `expired` or `gone`.
pub(super) fn facts(miss: &Miss) -> Value {
    let mut facts = match miss {
        Miss::NotAsked => json!({"why": "not-asked"}),
        Miss::First => json!({"why": "first"}),
        Miss::Component { label, before, now } => {
            json!({"why": "component", "component": label, "before": before, "now": now})
        }
        Miss::File { path, difference } => {
            json!({"why": "file", "path": path, "difference": difference})
        }
        Miss::Before(step) => json!({"why": "before", "changed": step}),
        Miss::Expired { age } => json!({"why": "expired", "ageSeconds": age.as_secs()}),
        Miss::Gone => json!({"why": "gone"}),
    };
    facts["text"] = json!(reason(miss));
    facts
}
