//! How an image of a registry is shown.

use davit_engine::{
    RemoteDocument, RemoteStatement, Remotes,
    image::{Descriptor, Document},
};
use serde_json::{Map, Value, json};

use crate::{
    error::CliError,
    format::{self, visible},
};

/// Kinds of statements.
const PROVENANCE: &str = "https://slsa.dev/provenance/";
const SBOM: &str = "https://spdx.dev/Document";
/// Most images of an index whose configs are read for a template.
const MOST_CONFIGS: usize = 100;

/// The names, types and digests, in buildx's lines.
pub(super) fn text(found: &RemoteDocument) -> String {
    let name = found.reference.to_string();
    let top = &found.descriptor;
    let mut lines = vec![
        format!("Name:      {name}"),
        format!("MediaType: {}", top.media_type),
        format!("Digest:    {}", top.digest),
    ];
    if let Document::Index(index) = &found.document {
        let entries = &index.value().manifests;
        // Columns are as wide as the longest head.
        let is_annotated = entries.iter().any(|entry| !entry.annotations.is_empty());
        let width = if is_annotated { 13 } else { 11 };
        lines.extend([" ".repeat(11), "Manifests: ".to_owned()]);
        for (number, entry) in entries.iter().enumerate() {
            if number > 0 {
                lines.push(" ".repeat(2 + width));
            }
            lines.extend(entry_lines(&name, entry, width));
        }
    }
    lines.iter().map(|line| visible(line) + "\n").collect()
}

fn entry_lines(name: &str, entry: &Descriptor, width: usize) -> Vec<String> {
    let row = |head: &str, value: &str| format!("  {head:width$}{value}");
    let mut lines = vec![
        row("Name:", &format!("{name}@{}", entry.digest)),
        row("MediaType:", entry.media_type.as_str()),
    ];
    lines.extend(entry.platform.as_ref().map(|it| row("Platform:", &it.to_string())));
    if !entry.annotations.is_empty() {
        lines.push(row("Annotations:", ""));
        // Values stand in one column, too.
        let facts = entry.annotations.iter();
        let longest = facts.clone().map(|(key, _)| key.chars().count()).max().unwrap_or(0) + 2;
        lines
            .extend(facts.map(|(key, value)| format!("    {:longest$}{value}", format!("{key}:"))));
    }
    lines
}

/// Renders a template over `.Name`, `.Manifest`, `.Image`, `.Provenance` and `.SBOM`; what is not in the
/// document itself is read if the template speaks of it.
///
/// # Errors
/// A malformed template, or a config that the registry does not give.
pub(super) fn formatted(
    template: &str,
    found: &RemoteDocument,
    remotes: &Remotes,
) -> Result<String, CliError> {
    format::check(if template == "json" { "" } else { template })?;
    let failed = |error: serde_json::Error| CliError::user(error.to_string());
    let mut manifest = Map::new();
    if matches!(found.document, Document::Index(_)) {
        manifest.insert("schemaVersion".to_owned(), json!(2));
    }
    if let Value::Object(fields) = serde_json::to_value(&found.descriptor).map_err(failed)? {
        manifest.extend(fields);
    }
    let is_json = template.trim() == "json" || is_whole(template);
    let speaks = |words: &[&str]| is_json || words.iter().any(|word| template.contains(word));
    let has_image = speaks(&["Image", "image"]);
    let (shape, image) = match &found.document {
        Document::Manifest(document) => {
            let has_image = has_image && document.value().is_image();
            let image = has_image.then(|| remotes.config(&found.reference, document.value()));
            ("RemoteImage", image.transpose()?.unwrap_or(Value::Null))
        }
        Document::Index(index) => {
            let entries = serde_json::to_value(&index.value().manifests).map_err(failed)?;
            manifest.insert("manifests".to_owned(), entries);
            let images = if has_image {
                configs(found, &index.value().manifests, remotes)?
            } else {
                Map::new()
            };
            ("RemoteIndex", Value::Object(images))
        }
    };
    let mut fields = json!({"name": found.reference.to_string(), "manifest": manifest});
    if !image.is_null() {
        fields["image"] = image;
    }
    if speaks(&["Provenance", "provenance", "SBOM", "sbom"]) {
        add_attested(&mut fields, found, remotes)?;
    }
    format::render_shaped(template, shape, &fields)
}

/// Whether a template shows all that there is: `{{json .}}`.
fn is_whole(template: &str) -> bool {
    let words: Vec<&str> = template.split(['{', '}', ' ']).filter(|it| !it.is_empty()).collect();
    words.windows(2).any(|pair| pair == ["json", "."])
}

/// Adds what is attested, by platform where there are several.
fn add_attested(
    fields: &mut Value,
    found: &RemoteDocument,
    remotes: &Remotes,
) -> Result<(), CliError> {
    let all = remotes.attested(found)?;
    for (field, of) in
        [("provenance", provenance as fn(&[RemoteStatement]) -> Option<Value>), ("sbom", sbom)]
    {
        let told: Map<String, Value> = all
            .iter()
            .filter_map(|(platform, statements)| Some((platform.clone(), of(statements)?)))
            .collect();
        let value = match (all.len(), told) {
            (_, told) if told.is_empty() => continue,
            (1, told) => told.into_iter().next().map_or(Value::Null, |(_, value)| value),
            (_, told) => Value::Object(told),
        };
        fields[field] = value;
    }
    Ok(())
}

fn provenance(statements: &[RemoteStatement]) -> Option<Value> {
    let mut found = statements.iter().filter(|it| it.predicate_type.starts_with(PROVENANCE));
    found.next().map(|it| json!({"SLSA": it.predicate}))
}

fn sbom(statements: &[RemoteStatement]) -> Option<Value> {
    let mut found = statements.iter().filter(|it| it.predicate_type == SBOM);
    let mut fields = json!({"SPDX": found.next()?.predicate});
    let more: Vec<&Value> = found.map(|it| &it.predicate).collect();
    if !more.is_empty() {
        fields["AdditionalSPDXs"] = json!(more);
    }
    Some(fields)
}

/// The configs of an index's images, by platform.
fn configs(
    found: &RemoteDocument,
    entries: &[Descriptor],
    remotes: &Remotes,
) -> Result<Map<String, Value>, CliError> {
    let mut images = Map::new();
    for entry in entries.iter().filter(|entry| !entry.is_attestation()).take(MOST_CONFIGS) {
        let Some(platform) = &entry.platform else { continue };
        let reference = found.reference.repository().with_digest(entry.digest);
        let document = remotes.document(&reference)?.document;
        if let Document::Manifest(manifest) = document
            && manifest.value().is_image()
        {
            images.insert(platform.to_string(), remotes.config(&reference, manifest.value())?);
        }
    }
    Ok(images)
}
