//! Takes note of a build while it runs.

use std::{
    io,
    sync::{Mutex, PoisonError, atomic::AtomicBool, atomic::Ordering},
    time::Instant,
};

use davit_build::{BuildErrorKind, BuildEvent, Excerpt, one_line, without_secrets};
use davit_image::{MediaType, Platform};
use davit_store::{BuildStatus, Lease, StoreError};

use super::{
    BuildProblem, BuildResult, BuildSpec, StepState,
    facts::{self, checked, cut, warn},
    log::{self, Writer},
};
use crate::{
    Engine,
    build::{BuildCommand, BuildFailure, BuildReport, PREDICATE_TYPE},
};

/// Last lines of a failed command's output that are kept with the record.
const TAIL: usize = 16;

/// The record of one build and its log. What cannot be written is lost; the build goes on.
pub(in crate::build) struct Recorder<'e> {
    engine: &'e Engine,
    id: String,
    begun: Instant,
    state: Mutex<State>,
    has_log: AtomicBool,
}

struct State {
    spec: BuildSpec,
    log: Log,
}

/// The log of a build. One that runs nothing has none: its record says all.
enum Log {
    /// Nothing ran yet.
    Waiting(Vec<u8>),
    Open(Writer),
    Lost,
}

impl<'e> Recorder<'e> {
    /// Records that a build begins.
    pub(in crate::build) fn begin(
        engine: &'e Engine,
        lease: &Lease<'_>,
        command: &BuildCommand,
    ) -> Self {
        let spec = facts::of(command);
        let recorder = Self {
            engine,
            id: lease.id().to_owned(),
            begun: Instant::now(),
            state: Mutex::new(State { spec, log: Log::Waiting(Vec::new()) }),
            has_log: AtomicBool::new(false),
        };
        recorder.kept(|spec| engine.store().begin_build(lease, spec));
        recorder
    }

    /// Its name for `BuildEvent::Begun`.
    pub(in crate::build) fn id(&self) -> &str {
        &self.id
    }

    fn at_us(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Writes the record, which may fail.
    fn kept(&self, write: impl FnOnce(&serde_json::Value) -> Result<(), StoreError>) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let spec = serde_json::to_value(&state.spec).expect("a record is plain data");
        drop(state);
        if let Err(error) = write(&spec) {
            tracing::warn!(error = &error as &dyn std::error::Error, "a build is not recorded");
        }
    }

    /// Takes note of an event.
    pub(in crate::build) fn note(&self, event: &BuildEvent) {
        let at_us = self.at_us();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { spec, log } = &mut *state;
        spec.note(event, at_us);
        match event {
            BuildEvent::Warning(text) => warn(&mut spec.warnings, text),
            BuildEvent::Checked(checks) => {
                checked(checks).iter().for_each(|text| warn(&mut spec.warnings, text));
            }
            _ => {}
        }
        let mut record = Vec::new();
        log::encode(at_us, event, &mut record);
        let opens = matches!(event, BuildEvent::Started(_) | BuildEvent::Failed(_));
        let written = match log {
            Log::Waiting(before) => {
                before.append(&mut record);
                if opens { self.open(log) } else { Ok(()) }
            }
            Log::Open(writer) => {
                if let BuildEvent::Output(_, _, bytes) = event
                    && !writer.has_room(record.len())
                {
                    spec.dropped_bytes += bytes.len() as u64;
                    return;
                }
                writer.write(&record)
            }
            Log::Lost => Ok(()),
        };
        if let Err(error) = written {
            *log = Log::Lost;
            tracing::warn!(%error, "the log of the build is lost");
        }
        let is_new = opens && !self.has_log.swap(true, Ordering::Relaxed);
        drop(state);
        if is_new {
            // Whoever looks while it runs sees its steps, and so does who finds it killed.
            self.kept(|spec| self.engine.store().note_build(&self.id, spec));
        }
    }

    fn open(&self, log: &mut Log) -> io::Result<()> {
        let Log::Waiting(records) = log else { return Ok(()) };
        let path = self.engine.store().layout().build_log(&self.id);
        *log = Log::Open(Writer::create(&path, records)?);
        Ok(())
    }

    /// Records how the build ended.
    pub(in crate::build) fn end(
        self,
        outcome: &Result<BuildReport, BuildFailure>,
        platforms: &[Platform],
    ) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let log = std::mem::replace(&mut state.log, Log::Lost);
        let status = match outcome {
            Ok(report) => {
                state.spec.results = results(report, platforms);
                state.spec.materials.clone_from(&report.materials);
                BuildStatus::Completed
            }
            Err(failure) => {
                let steps = &state.spec.steps;
                let failed = steps.iter().find(|step| step.state == StepState::Failed);
                let step = failed.map(|step| step.name.clone()).unwrap_or_default();
                state.spec.problem = Some(problem(failure, step));
                if failure.is_cancelled() { BuildStatus::Canceled } else { BuildStatus::Error }
            }
        };
        drop(state);
        let limits = self.engine.history_limits();
        let store = self.engine.store();
        self.kept(|spec| store.end_build((&self.id, status), spec, limits.builds));
        let Log::Open(writer) = log else { return };
        if let Err(error) = writer.finish() {
            tracing::warn!(%error, "the log of the build is lost");
        }
        // The next build tries again.
        if let Err(error) = store.trim_builds(&limits) {
            tracing::warn!(%error, "old logs of builds remain");
        }
    }
}

/// The documents that a build gave.
fn results(report: &BuildReport, platforms: &[Platform]) -> Vec<BuildResult> {
    let mut results = Vec::new();
    if let Some(exported) = &report.exported {
        let kind = exported.descriptor.media_type.to_string();
        results.push(BuildResult { digest: exported.descriptor.digest, kind, platform: None });
    }
    for (image, platform) in report.images.iter().zip(platforms) {
        let platform = Some(platform.to_string());
        let mut add = |digest, kind: MediaType| {
            let result = BuildResult { digest, kind: kind.to_string(), platform: platform.clone() };
            if !results.iter().any(|known| known.digest == digest) {
                results.push(result);
            }
        };
        add(image.manifest, MediaType::OCI_MANIFEST);
        add(image.image.digest(), MediaType::OCI_CONFIG);
    }
    let statements = report.exported.iter().flat_map(|exported| &exported.statements);
    results.extend(statements.filter_map(|(platform, statement)| {
        let kind = statement.annotations.get(PREDICATE_TYPE)?.clone();
        Some(BuildResult { digest: statement.digest, kind, platform: Some(platform.to_string()) })
    }));
    results
}

fn problem(failure: &BuildFailure, step: String) -> BuildProblem {
    let error = failure.build_error();
    let tail = match error.map(|error| &error.kind) {
        Some(BuildErrorKind::Command { tail, .. }) => {
            tail[tail.len().saturating_sub(TAIL)..].iter().map(|line| cut(line)).collect()
        }
        _ => Vec::new(),
    };
    let excerpt = error.and_then(|error| error.excerpt.as_deref());
    let source = excerpt.map(source_lines).unwrap_or_default();
    let message = cut(&without_secrets(&one_line(failure)));
    BuildProblem { message, step, tail, source }
}

/// The lines around a place, those of it marked.
fn source_lines(excerpt: &Excerpt) -> String {
    let mut text = format!("{}\n--------------------\n", excerpt.file);
    let (mut start, mut number) = (0, excerpt.first_line);
    for line in excerpt.text.split_inclusive('\n').take(50) {
        let end = start + line.len();
        let is_marked = start < excerpt.range.end && excerpt.range.start < end;
        let mark = if is_marked { ">>>" } else { "   " };
        text.push_str(&format!("{number:4} | {mark} {}\n", cut(&without_secrets(line.trim_end()))));
        (start, number) = (end, number + 1);
    }
    text.push_str("--------------------\n");
    text
}
