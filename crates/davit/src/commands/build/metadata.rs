//! `--metadata-file`: what became of a build, for programs.

use std::path::Path;

use davit_engine::build::BuildReport;
use serde_json::{Map, Value, json};

use crate::error::{CliError, io_error};

/// Where it comes from; the platform follows where there are several.
const PROVENANCE: &str = "buildx.build.provenance";

/// Writes the file, whole.
pub(super) fn write(path: &Path, report: &BuildReport) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(&Value::Object(facts(report)));
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
