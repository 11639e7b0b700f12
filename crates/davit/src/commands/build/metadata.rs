//! `--metadata-file`: what became of a build, for programs.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

use davit_engine::build::{BuildReport, Checks};
use serde_json::{Map, Value, json};

use super::display::json::values;
use crate::{
    environment,
    error::{CliError, io_error},
};

/// Lets the file have the warnings of the build checks.
const WITH_WARNINGS: &str = "BUILDX_METADATA_WARNINGS";
/// What they are called there.
const WARNINGS: &str = "buildx.build.warnings";

/// Where it comes from; the platform follows where there are several.
const PROVENANCE: &str = "buildx.build.provenance";

/// Gathers the warnings of a build, if anybody wants to have them.
#[derive(Default)]
pub(super) struct Warnings(Mutex<Vec<Value>>);

impl Warnings {
    /// Adds what the build checks found.
    pub(super) fn add(&self, checks: &Checks) {
        if environment::variable(WITH_WARNINGS).is_some_and(|it| it == "1" || it == "true") {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(values(checks));
        }
    }

    fn take(&self) -> Vec<Value> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Writes the file, whole.
pub(super) fn write(
    path: &Path,
    report: &BuildReport,
    warnings: &Warnings,
) -> Result<(), CliError> {
    let mut facts = facts(report);
    let warnings = warnings.take();
    if !warnings.is_empty() {
        facts.insert(WARNINGS.to_owned(), Value::Array(warnings));
    }
    let text = serde_json::to_string_pretty(&Value::Object(facts));
    let text = text.expect("JSON values are JSON");
    fs_err::write(path, text + "\n").map_err(io_error)
}

/// The facts under the names that buildx gives them.
pub(in crate::commands) fn facts(report: &BuildReport) -> Map<String, Value> {
    let mut facts = Map::new();
    facts.insert("buildx.build.ref".to_owned(), json!(report.reference));
    let provenance = report.provenance.iter().zip(&report.images);
    for (predicate, image) in provenance {
        let key = match &report.images[..] {
            [_] => PROVENANCE.to_owned(),
            _ => format!("{PROVENANCE}/{}", image.config.platform()),
        };
        facts.insert(key, predicate.clone());
    }
    let Some(exported) = &report.exported else { return facts };
    if report.images.len() == 1 {
        let id = exported.image.to_string();
        facts.insert("containerimage.config.digest".to_owned(), json!(id));
    }
    let digest = exported.descriptor.digest.to_string();
    facts.insert("containerimage.descriptor".to_owned(), json!(exported.descriptor));
    facts.insert("containerimage.digest".to_owned(), json!(digest));
    if !exported.names.is_empty() {
        let names: Vec<String> = exported.names.iter().map(ToString::to_string).collect();
        facts.insert("image.name".to_owned(), json!(names.join(",")));
    }
    facts
}
