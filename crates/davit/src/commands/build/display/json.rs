//! Every event as one line of JSON, in the form of BuildKit's `rawjson`: lists of vertexes (steps),
//! statuses, logs and warnings, bytes in base64.

use std::sync::{Arc, Mutex, PoisonError};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use davit_engine::{
    build::{BuildEvent, Checks, Difference, LogStream, StepId, StepInfo, Warning},
    image::{Digest, Timestamp},
};
use serde_json::{Map, Value, json};

use super::{Display, name, reason, shown};
use crate::{
    commands::build::{
        call::{location, source},
        explain::facts,
        warnings::short,
    },
    format::visible,
    printer,
};

/// Most bytes of Dockerfiles that warnings repeat.
const SOURCES_LIMIT: usize = 4 << 20;

#[derive(Default)]
pub(super) struct Json {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    steps: Arc<[StepInfo]>,
    /// When steps began.
    started: Map<String, Value>,
}

impl State {
    fn vertex(&self, id: StepId) -> Value {
        json!({"digest": self.digest(id), "name": name(&self.steps, id)})
    }

    /// What tells a step from the others of its build.
    fn digest(&self, id: StepId) -> String {
        Digest::of(format!("{} {}", id.0, name(&self.steps, id)).as_bytes()).to_string()
    }

    fn began(&mut self, id: StepId, now: &str) -> Value {
        let mut vertex = self.vertex(id);
        vertex["started"] = json!(now);
        self.started.insert(id.0.to_string(), vertex["started"].clone());
        vertex
    }

    fn ended(&self, id: StepId, now: &str, error: Option<&str>) -> Value {
        let mut vertex = self.vertex(id);
        let now = json!(now);
        vertex["started"] = self.started.get(&id.0.to_string()).unwrap_or(&now).clone();
        vertex["completed"] = now;
        if let Some(error) = error {
            vertex["error"] = json!(error);
        }
        vertex
    }

    fn status(
        &self,
        (id, now): (StepId, &str),
        text: &str,
        (current, total): (u64, Option<u64>),
    ) -> Value {
        let mut status =
            json!({"id": text, "vertex": self.digest(id), "current": current, "timestamp": now});
        if let Some(total) = total {
            status["total"] = json!(total);
        }
        status
    }

    fn line(&mut self, event: BuildEvent, now: &str) -> Option<Value> {
        let vertexes = |vertex: Value| Some(json!({"vertexes": [vertex]}));
        let statuses = |status: Value| Some(json!({"statuses": [status]}));
        match event {
            BuildEvent::Begun(_) | BuildEvent::ByHand(_) | BuildEvent::Read(_) => None,
            BuildEvent::Planned(steps) => {
                self.steps = steps;
                let all: Vec<_> = self.steps.iter().map(|step| self.vertex(step.id)).collect();
                Some(json!({"vertexes": all}))
            }
            BuildEvent::Started(id) => vertexes(self.began(id, now)),
            BuildEvent::Cached(id) => {
                let mut vertex = self.ended(id, now, None);
                vertex["cached"] = json!(true);
                vertexes(vertex)
            }
            BuildEvent::SameResult(id) => {
                statuses(self.status((id, now), "same result as before", (0, None)))
            }
            BuildEvent::Missed(id, miss) => {
                let status = self.status((id, now), &reason(&miss), (0, None));
                let mut missed = facts(&miss);
                missed["vertex"] = status["vertex"].clone();
                Some(json!({"statuses": [status], "missed": [missed]}))
            }
            BuildEvent::Output(id, stream, bytes) => {
                let stream = if stream == LogStream::Stdout { 1 } else { 2 };
                let (vertex, data) = (self.digest(id), BASE64.encode(&bytes));
                let log =
                    json!({"vertex": vertex, "stream": stream, "data": data, "timestamp": now});
                Some(json!({"logs": [log]}))
            }
            BuildEvent::Progress { step, done_bytes, total_bytes } => {
                statuses(self.status((step, now), "transferring", (done_bytes, total_bytes)))
            }
            BuildEvent::Finished(id, _) => vertexes(self.ended(id, now, None)),
            BuildEvent::Failed(id) => vertexes(self.ended(id, now, Some("the step failed"))),
            BuildEvent::Checked(checks) => {
                warnings(&checks, now);
                None
            }
            BuildEvent::Compared(None) => Some(json!({"repro": {"equal": true}})),
            BuildEvent::Compared(Some(found)) => Some(different(&found)),
            BuildEvent::Warning(text) => {
                Some(json!({"warnings": [{"level": 1, "short": BASE64.encode(text)}]}))
            }
        }
    }
}

impl Display for Json {
    fn show_at(&self, at: Timestamp, event: BuildEvent) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = state.line(event, &at.to_string()) {
            printer::note(&line.to_string());
        }
    }
}

/// How two builds differ.
fn different(found: &Difference) -> Value {
    let [first, second] = &found.values;
    let mut value = json!({
        "equal": false,
        "what": found.aspect.name(),
        "path": visible(&found.path),
        "first": visible(first),
        "second": visible(second),
    });
    let mut set = |name: &str, fact: Option<Value>| {
        if let Some(fact) = fact {
            value[name] = fact;
        }
    };
    set("platform", found.platform.as_ref().map(|platform| json!(platform)));
    set("layer", found.layer.map(|layer| json!(layer)));
    set("offset", found.offset.map(|offset| json!(offset)));
    set("step", found.step.as_ref().map(|step| json!(shown(&step.name))));
    set("line", found.step.as_ref().map(|step| json!(step.line)));
    json!({"repro": value})
}

/// Prints what the build checks found, each a line.
fn warnings(checks: &Checks, now: &str) {
    let (vertex, name) = reading(checks);
    let reading = json!({"digest": vertex, "name": name, "started": now, "completed": now});
    printer::note(&json!({"vertexes": [reading]}).to_string());
    for value in values(checks) {
        printer::note(&json!({"warnings": [value]}).to_string());
    }
}

/// The reading of the file, to which its warnings belong, since programs show them below a step.
fn reading(checks: &Checks) -> (String, String) {
    let name = format!("[internal] load build definition from {}", visible(&checks.file));
    (Digest::of(name.as_bytes()).to_string(), name)
}

/// What the build checks found: the warning in short, the rule's sentence, the place.
pub(in crate::commands::build) fn values(checks: &Checks) -> Vec<Value> {
    let (vertex, _) = reading(checks);
    let whole = source(&checks.file, &checks.text);
    let mut size = 0;
    let value = |warning: &Warning| {
        let short = format!("{} (line {})", short(warning), warning.span.first_line);
        let mut value = json!({
            "vertex": vertex,
            "level": 1,
            "short": BASE64.encode(short),
            "detail": [BASE64.encode(warning.rule.description())],
        });
        if let Some(url) = warning.rule.url() {
            value["url"] = json!(url);
        }
        size += checks.text.len();
        let is_small = size <= SOURCES_LIMIT;
        value["sourceInfo"] = if is_small { whole.clone() } else { source(&checks.file, b"") };
        value["range"] = location(warning.span)["ranges"].take();
        value
    };
    checks.warnings.iter().map(value).collect()
}
