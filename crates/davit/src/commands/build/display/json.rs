//! Every event as one line of JSON.

use davit_engine::build::{BuildEvent, LogStream};
use serde_json::json;

use super::{Display, reason};
use crate::printer;

pub(super) struct Json;

impl Display for Json {
    fn show(&self, event: BuildEvent) {
        let value = match event {
            BuildEvent::Planned(steps) => {
                let steps: Vec<_> = steps
                    .iter()
                    .map(|step| json!({"step": step.id.0, "name": step.name, "line": step.line}))
                    .collect();
                json!({"event": "planned", "steps": steps})
            }
            BuildEvent::Started(id) => json!({"event": "started", "step": id.0}),
            BuildEvent::Cached(id) => json!({"event": "cached", "step": id.0}),
            BuildEvent::SameResult(id) => json!({"event": "same-result", "step": id.0}),
            BuildEvent::Missed(id, miss) => {
                json!({"event": "missed", "step": id.0, "reason": reason(&miss)})
            }
            BuildEvent::Output(id, stream, bytes) => {
                let stream = if stream == LogStream::Stdout { "stdout" } else { "stderr" };
                let text = String::from_utf8_lossy(&bytes);
                json!({"event": "output", "step": id.0, "stream": stream, "text": text})
            }
            BuildEvent::Progress { step, done_bytes, total_bytes } => {
                json!({"event": "progress", "step": step.0, "bytes": done_bytes, "total": total_bytes})
            }
            BuildEvent::Finished(id, time) => {
                json!({"event": "finished", "step": id.0, "seconds": time.as_secs_f64()})
            }
            BuildEvent::Failed(id) => json!({"event": "failed", "step": id.0}),
            BuildEvent::Warning(text) => json!({"event": "warning", "text": text}),
        };
        printer::note(&value.to_string());
    }
}
