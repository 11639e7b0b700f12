//! Attestations: where a result comes from (SLSA provenance) and what it holds (SBOM).
//!
//! ```text
//! davit-build: Provenance (facts) --slsa--> predicate \
//! davit-scan:  Inventory ----------sbom--> predicate  -> Attestation -> statement about one image
//!                                                         -> manifest with that image as subject
//! ```
//!
//! An image is the same with and without them: they refer to it. Only where an output asks for it do
//! they stand beside the images in one index, as `BuildKit` writes them.

pub(crate) mod document;
mod layers;
mod sbom;
mod slsa;
pub(super) mod vcs;

use std::{collections::BTreeMap, sync::atomic::AtomicBool};

use davit_build::{Attest, Built, Detail, Sbom};
use davit_image::{
    Descriptor, Digest, Document, Manifest, MediaType, Platform, Raw, Reference, Timestamp,
};
use davit_store::{Lease, Store, StoreError, StoredDocument};
use serde_json::Value;

pub use self::sbom::SbomError;
pub(super) use self::slsa::materials;
use self::{
    document::{ManifestShape, Statement},
    layers::StepChains,
    slsa::BuildRun,
};
use super::{
    BuildFailure,
    form::{AttestationPlace, Formed, FormedImage, ImageForm},
    output::BuildOutput,
};
use crate::{Engine, Referrers, origin::DOCUMENT_BYTES};

/// What of a build is attested.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attestations {
    /// Where its results come from.
    pub provenance: Option<ProvenanceOptions>,
    /// What they hold.
    pub sbom: Option<Sbom>,
    /// How much of the provenance the caller is told.
    pub reported: Option<Detail>,
}

/// How a provenance is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProvenanceOptions {
    /// How much it tells.
    pub detail: Detail,
    /// Which outputs have it.
    pub scope: AttestationScope,
    /// Who built it, as an address.
    pub builder_id: String,
    /// Whether the caller says that the same is built again from the same.
    pub reproducible: bool,
    /// Whether a build fails that reads what nobody else can read again.
    pub complete: bool,
    /// Its format.
    pub version: SlsaVersion,
    /// Name of its file among a result's files.
    pub file_name: Option<String>,
}

/// Which outputs have an attestation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttestationScope {
    /// All.
    #[default]
    All,
    /// Those that are images.
    Images,
    /// Images that are sent to a registry; one that does not take it is no failure.
    Pushed,
}

/// A version of SLSA's provenance format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlsaVersion {
    /// `https://slsa.dev/provenance/v1`
    #[default]
    V1,
    /// `https://slsa.dev/provenance/v0.2`
    V02,
}

/// What is attested of one image, whatever form it has.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Attestation {
    pub(super) predicate_type: String,
    pub(super) predicate: Value,
    /// Layers that the predicate tells, once it is known how they are named.
    chains: StepChains,
    pub(super) file_name: String,
    pub(super) scope: AttestationScope,
}

/// Who gets attestations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiver {
    Files,
    Image,
    Registry,
}

/// What a manifest of attestations is made of.
pub(crate) struct FormedAttestation {
    /// The image that it is about.
    pub(crate) subject: Digest,
    /// What names the statements.
    pub(crate) statements: Vec<Descriptor>,
    /// Statements, config and manifest.
    pub(crate) documents: Vec<StoredDocument>,
    pub(crate) descriptor: Descriptor,
}

impl Attestations {
    /// The provenance that some of these outputs has.
    fn wanted(&self, outputs: &[BuildOutput]) -> Option<&ProvenanceOptions> {
        let is_pushed = || outputs.iter().any(BuildOutput::is_pushed);
        let options = self.provenance.as_ref();
        options.filter(|it| it.scope != AttestationScope::Pushed || is_pushed())
    }

    /// What the builder has to gather; the record of a build has its materials in any case.
    pub(super) fn asked(&self, outputs: &[BuildOutput]) -> Attest {
        let own = self.wanted(outputs).map(|options| options.detail);
        let detail = own.max(self.reported).unwrap_or_default();
        Attest { provenance: Some(detail), sbom: self.sbom.clone() }
    }

    /// Whether a registry has to take what is attested.
    pub(super) fn referrers(&self) -> Referrers {
        let scope = self.provenance.as_ref().map(|options| options.scope);
        match scope == Some(AttestationScope::Pushed) && self.sbom.is_none() {
            true => Referrers::Wished,
            false => Referrers::Needed,
        }
    }
}

impl Attestation {
    pub(super) fn is_for(&self, receiver: Receiver) -> bool {
        match self.scope {
            AttestationScope::All => true,
            AttestationScope::Images => receiver != Receiver::Files,
            AttestationScope::Pushed => receiver == Receiver::Registry,
        }
    }
}

impl Attestation {
    /// What is said of an image with these layers.
    fn about(&self, layers: &[Descriptor]) -> Value {
        let mut predicate = self.predicate.clone();
        self.chains.add_to(&mut predicate, layers);
        predicate
    }

    /// Its name among the files of a result; `platform` tells those of several from each other.
    pub(super) fn exported_name(&self, prefix: &str, platform: Option<&str>) -> String {
        let name = format!("{prefix}{}", self.file_name);
        match (platform, name.rsplit_once('.')) {
            (None, _) => name,
            (Some(platform), Some((stem, end))) => format!("{stem}.{platform}.{end}"),
            (Some(platform), None) => format!("{name}.{platform}"),
        }
    }

    /// The statement about a result's files, for people to read as well.
    pub(super) fn exported(&self, subjects: Vec<(String, Digest)>) -> Vec<u8> {
        let predicate_type = self.predicate_type.clone();
        let statement = Statement { subjects, predicate_type, predicate: self.about(&[]) };
        serde_json::to_vec_pretty(&statement.value()).expect("JSON values are JSON")
    }
}

/// When a build began, by which id it is known, and of what.
pub(super) struct Begun {
    pub(super) id: String,
    pub(super) at: Timestamp,
    /// What is known of the repository of the caller's directories.
    pub(super) vcs: BTreeMap<String, String>,
}

/// What is told of a build's results.
pub(super) struct Told {
    /// What is attested of each image.
    pub(super) attested: Vec<Vec<Attestation>>,
    /// Whether a registry has to take that.
    pub(super) referrers: Referrers,
    /// What the caller is told of where each image comes from.
    pub(super) reported: Vec<Value>,
}

impl Engine {
    /// Writes what is told of a build's results.
    pub(super) fn tell(
        &self,
        (built, begun): (&[Built], &Begun),
        asked: &Attestations,
        (lease, outputs): (&Lease<'_>, &[BuildOutput]),
        cancelled: &AtomicBool,
    ) -> Result<Told, BuildFailure> {
        let finished = Timestamp::now();
        let attested = match outputs.iter().all(BuildOutput::is_nowhere) {
            true => Vec::new(),
            false => {
                let asked = (asked.wanted(outputs), asked.sbom.as_ref());
                let one = |built| self.attest((built, begun, finished), asked, (lease, cancelled));
                built.iter().map(one).collect::<Result<_, _>>()?
            }
        };
        let reported = asked.reported.map(|detail| {
            let own = asked.provenance.clone().unwrap_or_default();
            let version = SlsaVersion::V1;
            let options = ProvenanceOptions { detail, version, ..own };
            let run = BuildRun { begun, finished, options: &options };
            let facts = built.iter().filter_map(|built| built.provenance.as_ref());
            let told = |facts| {
                let mut predicate = slsa::predicate(facts, &run);
                // How an output names the image's own layers is not known yet.
                StepChains::of(facts, detail, self.store()).add_to(&mut predicate, &[]);
                predicate
            };
            facts.map(|facts| told(facts)).collect()
        });
        let (referrers, reported) = (asked.referrers(), reported.unwrap_or_default());
        Ok(Told { attested, referrers, reported })
    }

    /// Writes what is attested of one image.
    fn attest(
        &self,
        (built, begun, finished): (&Built, &Begun, Timestamp),
        (provenance, sbom): (Option<&ProvenanceOptions>, Option<&Sbom>),
        (lease, cancelled): (&Lease<'_>, &AtomicBool),
    ) -> Result<Vec<Attestation>, BuildFailure> {
        let mut all = match sbom {
            Some(sbom) => self.sboms(built, sbom, (lease, cancelled))?,
            None => Vec::new(),
        };
        if let (Some(options), Some(facts)) = (provenance, &built.provenance) {
            if options.complete && !facts.locals.is_empty() {
                return Err(BuildFailure::Incomplete(facts.locals.iter().cloned().collect()));
            }
            let run = BuildRun { begun, finished, options };
            let name = options.file_name.as_deref().unwrap_or("provenance.json");
            all.push(Attestation {
                predicate_type: slsa::predicate_type(options.version).to_owned(),
                predicate: slsa::predicate(facts, &run),
                chains: StepChains::of(facts, options.detail, self.store()),
                file_name: name.to_owned(),
                scope: options.scope,
            });
        }
        Ok(all)
    }
}

/// Writes the attestations of a build's images, and puts them where the form wants them.
pub(super) fn add_to(
    formed: &mut Formed,
    attested: &[Vec<Attestation>],
    (receiver, names): (Receiver, &[Reference]),
    (store, form): (&Store, &ImageForm),
) -> Result<(), StoreError> {
    let mut made = Vec::new();
    for (image, attested) in formed.images.iter().zip(attested) {
        let fitting: Vec<&Attestation> = attested.iter().filter(|it| it.is_for(receiver)).collect();
        if !fitting.is_empty() {
            made.push(formed_attestation(image, &fitting, names, (store, form))?);
        }
    }
    if !made.is_empty() {
        formed.add_attestations(made, form);
    }
    Ok(())
}

fn formed_attestation(
    image: &FormedImage,
    attested: &[&Attestation],
    names: &[Reference],
    (store, form): (&Store, &ImageForm),
) -> Result<FormedAttestation, StoreError> {
    let subject = &image.descriptor;
    let earlier = earlier_statements(store, &subject.digest)?;
    let statements = attested.iter().map(|attestation| {
        let predicate = attestation.about(&image.manifest.layers);
        let same = |it: &&Statement| {
            it.predicate_type == attestation.predicate_type
                && slsa::without_run(&it.predicate) == slsa::without_run(&predicate)
        };
        // What was told already of how the same came about stays as it is, with its times.
        let known = earlier.iter().find(same);
        Statement {
            subjects: subjects(names, &image.platform, &subject.digest),
            predicate_type: attestation.predicate_type.clone(),
            predicate: known.map_or_else(|| predicate.clone(), |it| it.predicate.clone()),
        }
    });
    let shape = match form.attestations {
        AttestationPlace::Referrers | AttestationPlace::Index => ManifestShape::Artifact,
        AttestationPlace::PlainIndex => ManifestShape::Image(image.platform.clone()),
    };
    let statements: Vec<Statement> = statements.collect();
    Ok(document::manifest(&statements, subject, &shape))
}

/// The names under which an image is attested.
fn subjects(names: &[Reference], platform: &Platform, digest: &Digest) -> Vec<(String, Digest)> {
    if names.is_empty() {
        return vec![("_".to_owned(), *digest)];
    }
    let purl = |name| davit_scan::image_purl("docker", name, Some(platform));
    names.iter().map(|name| (purl(name), *digest)).collect()
}

fn earlier_statements(store: &Store, subject: &Digest) -> Result<Vec<Statement>, StoreError> {
    let mut found = Vec::new();
    for (_, manifest) in referrers(store, subject)? {
        found.extend(document::statements(store, manifest.value())?);
    }
    Ok(found)
}

/// The manifests that refer to a manifest here: those that say so themselves.
pub(crate) fn referrers(
    store: &Store,
    subject: &Digest,
) -> Result<Vec<(Descriptor, Raw<Manifest>)>, StoreError> {
    let mut found = Vec::new();
    for target in store.referrers(subject)? {
        let bytes = store.read_blob(&target.digest, DOCUMENT_BYTES)?;
        let Ok(Document::Manifest(manifest)) = Document::parse(bytes, Some(&target.media_type))
        else {
            continue;
        };
        if manifest.value().subject.as_ref().is_some_and(|it| it.digest == *subject) {
            let mut descriptor = target.descriptor();
            descriptor.artifact_type.clone_from(&manifest.value().artifact_type);
            found.push((descriptor, manifest));
        }
    }
    Ok(found)
}

/// Whether a manifest is one of attestations.
pub(crate) fn is_attestation(manifest: &Manifest) -> bool {
    let statement = MediaType::new(document::STATEMENT);
    !manifest.layers.is_empty() && manifest.layers.iter().all(|it| it.media_type == statement)
}
