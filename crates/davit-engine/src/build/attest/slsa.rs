//! Provenance predicates of SLSA, in the form that `BuildKit` gives them.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use davit_build::{Built, Detail, Material, Provenance, ProvenanceStep};
use davit_image::{Digest, Platform, Reference, Timestamp};
use davit_scan::{encoded, image_purl};
use serde_json::{Map, Value, json};

use super::{Begun, ProvenanceOptions, SlsaVersion};
use crate::build::BuildMaterial;

/// What the fields mean.
const BUILD_TYPE: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const BUILD_TYPE_02: &str = "https://mobyproject.org/buildkit@v1";
const METADATA_02: &str = "https://mobyproject.org/buildkit@v1#metadata";
const HERMETIC_02: &str = "https://mobyproject.org/buildkit@v1#hermetic";
/// The language that the Dockerfile was read in.
const DOCKERFILE_VERSION: &str = "1.26.0";
/// Frontend arguments that only a full provenance has.
const OWN_ARGUMENTS: [&str; 2] = ["build-arg:", "label:"];

/// One run of the builder.
pub(super) struct BuildRun<'a> {
    pub(super) begun: &'a Begun,
    pub(super) finished: Timestamp,
    pub(super) options: &'a ProvenanceOptions,
}

pub(super) const fn predicate_type(version: SlsaVersion) -> &'static str {
    match version {
        SlsaVersion::V1 => "https://slsa.dev/provenance/v1",
        SlsaVersion::V02 => "https://slsa.dev/provenance/v0.2",
    }
}

/// Writes where a result comes from.
pub(super) fn predicate(facts: &Provenance, run: &BuildRun<'_>) -> Value {
    let parts = Parts::of(facts, run);
    match run.options.version {
        SlsaVersion::V1 => parts.v1(run),
        SlsaVersion::V02 => parts.v02(run),
    }
}

/// What was read for a build's images, each once.
pub(in crate::build) fn materials(built: &[Built]) -> Vec<BuildMaterial> {
    const MOST: usize = 300;
    let mut found: Vec<BuildMaterial> = Vec::new();
    let facts = built.iter().filter_map(|built| built.provenance.as_ref());
    for material in facts.flat_map(|facts| &facts.materials) {
        let (uri, digests) = located(material);
        let digests = digests.iter().filter_map(Value::as_object).flatten();
        let digests = digests
            .map(|(algorithm, hex)| format!("{algorithm}:{}", hex.as_str().unwrap_or_default()));
        let material = BuildMaterial { uri, digests: digests.collect() };
        if found.len() < MOST && !found.contains(&material) {
            found.push(material);
        }
    }
    found
}

/// A predicate without what differs from one run to the next.
pub(super) fn without_run(predicate: &Value) -> Value {
    let mut rest = predicate.clone();
    for (object, keys) in [
        ("/runDetails/metadata", ["invocationId", "startedOn", "finishedOn"]),
        ("/metadata", ["buildInvocationID", "buildStartedOn", "buildFinishedOn"]),
    ] {
        if let Some(Value::Object(fields)) = rest.pointer_mut(object) {
            for key in keys {
                fields.shift_remove(key);
            }
        }
    }
    rest
}

/// The parts of a predicate of either version.
struct Parts {
    config_source: Value,
    request: Map<String, Value>,
    dependencies: Vec<Value>,
    build_config: Option<Value>,
    /// What `BuildKit` adds of its own.
    metadata: Map<String, Value>,
    is_request_complete: bool,
    is_complete: bool,
    is_hermetic: bool,
}

impl Parts {
    fn of(facts: &Provenance, run: &BuildRun<'_>) -> Self {
        let is_own = |key: &str| OWN_ARGUMENTS.iter().any(|own| key.starts_with(own));
        let is_full = run.options.detail == Detail::Max;
        let arguments: BTreeMap<&String, &String> =
            facts.arguments.iter().filter(|(key, _)| is_full || !is_own(key)).collect();
        let mut request = Map::new();
        request.insert("frontend".to_owned(), json!("dockerfile.v0"));
        if !arguments.is_empty() {
            request.insert("args".to_owned(), json!(arguments));
        }
        if is_full {
            for (key, ids) in [("secrets", &facts.secrets), ("ssh", &facts.agents)] {
                if !ids.is_empty() {
                    request.insert(key.to_owned(), ids.iter().map(id_of).collect());
                }
            }
        }
        if !facts.locals.is_empty() {
            let locals = facts.locals.iter().map(|name| json!({"name": name}));
            request.insert("locals".to_owned(), locals.collect());
        }
        let details = facts.details.as_ref().filter(|_| is_full);
        let mut metadata = Map::new();
        if !run.begun.vcs.is_empty() {
            metadata.insert("vcs".to_owned(), json!(run.begun.vcs));
        }
        if let Some(details) = details {
            metadata.insert("source".to_owned(), source(facts, details));
        }
        let is_complete = facts.locals.is_empty();
        Self {
            config_source: config_source(facts),
            dependencies: facts.materials.iter().map(dependency).collect(),
            build_config: details.map(|details| build_config(&details.steps)),
            is_request_complete: arguments.len() == facts.arguments.len()
                && (is_full || (facts.secrets.is_empty() && facts.agents.is_empty())),
            is_hermetic: is_complete && !facts.uses_network,
            is_complete,
            request,
            metadata,
        }
    }

    fn v1(self, run: &BuildRun<'_>) -> Value {
        let mut internal = Map::new();
        if let Some(build_config) = self.build_config {
            internal.insert("buildConfig".to_owned(), build_config);
        }
        internal.insert("builderPlatform".to_owned(), json!(Platform::host().to_string()));
        internal.insert("dockerfileVersion".to_owned(), json!(DOCKERFILE_VERSION));
        let mut definition = json!({
            "buildType": BUILD_TYPE,
            "externalParameters": {"configSource": self.config_source, "request": self.request},
            "internalParameters": internal,
        });
        if !self.dependencies.is_empty() {
            definition["resolvedDependencies"] = json!(self.dependencies);
        }
        let mut metadata = json!({
            "invocationId": run.begun.id,
            "startedOn": run.begun.at.to_string(),
            "finishedOn": run.finished.to_string(),
            "buildkit_metadata": self.metadata,
            "buildkit_completeness": {
                "request": self.is_request_complete,
                "resolvedDependencies": self.is_complete,
            },
        });
        if self.is_hermetic {
            metadata["buildkit_hermetic"] = json!(true);
        }
        if run.options.reproducible {
            metadata["buildkit_reproducible"] = json!(true);
        }
        let details = json!({"builder": {"id": run.options.builder_id}, "metadata": metadata});
        json!({"buildDefinition": definition, "runDetails": details})
    }

    fn v02(mut self, run: &BuildRun<'_>) -> Value {
        // Here a path has another name.
        if let Some(path) =
            self.config_source.as_object_mut().and_then(|it| it.shift_remove("path"))
        {
            self.config_source["entryPoint"] = path;
        }
        let mut metadata = json!({
            "buildInvocationID": run.begun.id,
            "buildStartedOn": run.begun.at.to_string(),
            "buildFinishedOn": run.finished.to_string(),
            "completeness": {
                "parameters": self.is_request_complete,
                "environment": true,
                "materials": self.is_complete,
            },
            "reproducible": run.options.reproducible,
        });
        metadata[METADATA_02] = json!(self.metadata);
        if self.is_hermetic {
            metadata[HERMETIC_02] = json!(true);
        }
        let environment = json!({
            "platform": Platform::host().to_string(), "dockerfileVersion": DOCKERFILE_VERSION,
        });
        let mut predicate = json!({
            "builder": {"id": run.options.builder_id},
            "buildType": BUILD_TYPE_02,
            "materials": self.dependencies,
            "invocation": {
                "configSource": self.config_source,
                "parameters": self.request,
                "environment": environment,
            },
        });
        if let Some(build_config) = self.build_config {
            predicate["buildConfig"] = build_config;
        }
        predicate["metadata"] = metadata;
        predicate
    }
}

fn id_of((id, optional): (&String, &bool)) -> Value {
    let mut fields = json!({"id": id});
    if *optional {
        fields["optional"] = json!(true);
    }
    fields
}

fn config_source(facts: &Provenance) -> Value {
    let mut fields = Map::new();
    if let Some(origin) = &facts.origin {
        let (uri, digest) = located(origin);
        let uri = match origin {
            Material::Git { fragment, .. } => format!("{uri}{fragment}"),
            _ => uri,
        };
        fields.insert("uri".to_owned(), json!(uri));
        fields.extend(digest.map(|digest| ("digest".to_owned(), digest)));
    }
    fields.insert("path".to_owned(), json!(facts.dockerfile));
    Value::Object(fields)
}

fn dependency(material: &Material) -> Value {
    let (uri, digest) = located(material);
    let mut fields = json!({"uri": uri});
    if let Some(digest) = digest {
        fields["digest"] = digest;
    }
    fields
}

/// Where a material is, and what tells it from others there.
fn located(material: &Material) -> (String, Option<Value>) {
    let one = |algorithm: &str, hex: String| {
        let mut digests = Map::new();
        digests.insert(algorithm.to_owned(), json!(hex));
        Some(Value::Object(digests))
    };
    let of_digest = |digest: &Digest| one(digest.algorithm().name(), digest.hex());
    match material {
        Material::Image { name, digest, platform, local } => {
            let kind = if *local { "oci" } else { "docker" };
            let uri = match name.parse::<Reference>() {
                Ok(name) => image_purl(kind, &name, Some(platform)),
                Err(_) => format!("pkg:{kind}/{}", encoded(name)),
            };
            (uri, of_digest(digest))
        }
        Material::Http { address, digest } => {
            (address.clone(), digest.as_ref().and_then(of_digest))
        }
        Material::Git { address, commit, .. } => {
            // The length tells the algorithm: 64 digits are SHA-256.
            let digest = commit.as_ref().and_then(|commit| {
                let algorithm = if commit.len() == 64 { "sha256" } else { "sha1" };
                one(algorithm, commit.clone())
            });
            (address.clone(), digest)
        }
    }
}

/// The steps, and which of them a digest stands for.
fn build_config(steps: &[ProvenanceStep]) -> Value {
    let (mut definition, mut digests) = (Vec::new(), BTreeMap::new());
    for step in steps {
        let mut fields = json!({"id": step.id, "op": step.op});
        if !step.inputs.is_empty() {
            fields["inputs"] = json!(step.inputs);
        }
        let text = json!([step.op, step.inputs]).to_string();
        digests.insert(Digest::of(text.as_bytes()).to_string(), step.id.clone());
        definition.push(fields);
    }
    json!({"llbDefinition": definition, "digestMapping": digests})
}

/// The Dockerfile, and where in it the steps are.
fn source(facts: &Provenance, details: &davit_build::Details) -> Value {
    let locations = details.steps.iter().map(|step| {
        let place = step.lines.map_or_else(
            || json!({}),
            |(first, last)| {
                let range = json!({"start": {"line": first}, "end": {"line": last}});
                json!({"locations": [{"ranges": [range]}]})
            },
        );
        (step.id.clone(), place)
    });
    json!({
        "locations": locations.collect::<Map<_, _>>(),
        "infos": [{
            "filename": facts.dockerfile,
            "language": "Dockerfile",
            "data": STANDARD.encode(&details.text),
        }],
    })
}
