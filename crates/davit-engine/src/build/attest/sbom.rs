//! What an image holds: by the databases in its layers, or by a generator that ran.

use std::sync::atomic::AtomicBool;

use davit_build::{Built, LayerError, OpenedLayers, SBOM_DIRECTORY, Sbom, open_layers};
use davit_image::{DiffId, Digest, Timestamp};
use davit_layer::{Kind, Merged};
use davit_scan::{ScanError, Subject, Tree, scan, spdx};
use davit_store::Lease;
use serde_json::Value;

use super::{Attestation, AttestationScope, document::STATEMENT_BYTES, layers::StepChains};
use crate::{Engine, build::BuildFailure};

/// The kind of the statements.
const SPDX: &str = "https://spdx.dev/Document";
/// Name of the statement about the image itself.
const CORE: &str = "sbom";
/// How names of files end.
const SUFFIX: &str = ".spdx.json";
/// Most statements that a generator may write.
const MOST_STATEMENTS: usize = 100;

/// Why it is not found out what an image holds.
#[derive(Debug, thiserror::Error)]
pub enum SbomError {
    /// Its file system cannot be read.
    #[error("cannot look for packages")]
    Scan(#[from] ScanError),
    /// A layer is not here.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// What was found is more than a statement may hold.
    #[error("the SBOM would have {0} bytes")]
    TooLarge(u64),
    /// The generator wrote nothing.
    #[error("the generator {0} wrote no {CORE}{SUFFIX}")]
    Nothing(String),
    /// The generator wrote too many files.
    #[error("the generator {0} wrote more than {MOST_STATEMENTS} files")]
    TooMany(String),
    /// The generator wrote something else.
    #[error(
        "the generator {generator} wrote /{SBOM_DIRECTORY}/{name}, which is no statement of type {SPDX}"
    )]
    Statement {
        /// The generator.
        generator: String,
        /// The file.
        name: String,
    },
}

impl Engine {
    /// What is said of what an image, and further file systems of its build, hold.
    pub(super) fn sboms(
        &self,
        built: &Built,
        sbom: &Sbom,
        (lease, cancelled): (&Lease<'_>, &AtomicBool),
    ) -> Result<Vec<Attestation>, BuildFailure> {
        if let Some(generator) = &sbom.generator {
            let generator = generator.to_string();
            let layer = built.generated.ok_or_else(|| SbomError::Nothing(generator.clone()))?;
            return self.generated(layer, &generator, lease);
        }
        let own: Vec<DiffId> = built.outcome.layers.iter().map(|layer| layer.diff_id).collect();
        let created = built.outcome.config.created.unwrap_or(Timestamp::EPOCH);
        let held = (lease, cancelled);
        let mut all = vec![self.scanned(CORE, &own, created, held)?];
        for (name, layers) in &built.extras {
            all.push(self.scanned(&format!("{CORE}-{name}"), layers, created, held)?);
        }
        Ok(all)
    }

    fn scanned(
        &self,
        name: &str,
        layers: &[DiffId],
        created: Timestamp,
        (lease, cancelled): (&Lease<'_>, &AtomicBool),
    ) -> Result<Attestation, BuildFailure> {
        let identity: Vec<String> = layers.iter().map(ToString::to_string).collect();
        let (merged, tars) = self.opened(layers, lease)?;
        let mut inventory = scan(&Tree::new(&merged, &tars), cancelled).map_err(SbomError::from)?;
        let subject = Subject {
            name: name.to_owned(),
            identity: Digest::of(identity.join("\n").as_bytes()),
            // As old as the image: the same image gives the same document.
            created,
            tool: format!("davit-{}", env!("CARGO_PKG_VERSION")),
        };
        let mut predicate = spdx(&inventory, &subject);
        if predicate.to_string().len() as u64 > STATEMENT_BYTES {
            inventory.packages.iter_mut().for_each(|package| package.files.clear());
            predicate = spdx(&inventory, &subject);
        }
        let size = predicate.to_string().len() as u64;
        if size > STATEMENT_BYTES {
            return Err(SbomError::TooLarge(size).into());
        }
        Ok(attestation(format!("{name}{SUFFIX}"), predicate))
    }

    /// The tree of some layers, and their tars.
    fn opened(&self, layers: &[DiffId], lease: &Lease<'_>) -> Result<OpenedLayers, SbomError> {
        Ok(open_layers(self.store(), lease, layers)?)
    }

    /// What a generator wrote, the statement about the image first.
    fn generated(
        &self,
        layer: DiffId,
        generator: &str,
        lease: &Lease<'_>,
    ) -> Result<Vec<Attestation>, BuildFailure> {
        let (merged, tars) = self.opened(&[layer], lease)?;
        let names = merged.list(SBOM_DIRECTORY.as_bytes());
        if names.len() > MOST_STATEMENTS {
            return Err(SbomError::TooMany(generator.to_owned()).into());
        }
        let mut all = Vec::new();
        for name in names.iter().filter_map(|name| std::str::from_utf8(name).ok()) {
            if !is_file(&merged, name) {
                continue;
            }
            let wrong = || SbomError::Statement { generator: generator.into(), name: name.into() };
            let path = format!("{SBOM_DIRECTORY}/{name}");
            let bytes = Tree::new(&merged, &tars).read(&path).map_err(SbomError::from)?;
            let bytes = bytes.filter(|it| it.len() as u64 <= STATEMENT_BYTES).ok_or_else(wrong)?;
            let mut statement: Value = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
            if statement["predicateType"] != SPDX {
                return Err(wrong().into());
            }
            let predicate = statement.get_mut("predicate").map(Value::take).ok_or_else(wrong)?;
            all.push(attestation(name.to_owned(), predicate));
        }
        let core = format!("{CORE}{SUFFIX}");
        all.sort_by_key(|it| it.file_name != core);
        if all.first().is_none_or(|it| it.file_name != core) {
            return Err(SbomError::Nothing(generator.to_owned()).into());
        }
        Ok(all)
    }
}

fn is_file(merged: &Merged, name: &str) -> bool {
    let node = merged.find(format!("{SBOM_DIRECTORY}/{name}").as_bytes());
    node.is_some_and(|node| matches!(node.entry.kind, Kind::File { .. }))
}

fn attestation(file_name: String, predicate: Value) -> Attestation {
    let scope = AttestationScope::All;
    let chains = StepChains::default();
    Attestation { predicate_type: SPDX.to_owned(), predicate, chains, file_name, scope }
}
