//! What an index is made of: the bytes that buildx writes for the same sources.

use std::collections::BTreeMap;

use davit_image::{Descriptor, Digest, Document, Index, MediaType, Platform, Reference};

use super::{
    IndexRequest, IndexSource, PlannedIndex, RemoteDocument, RemoteError, Remotes, SingleImage,
};
use crate::{
    build::{Annotation, AnnotationLevel},
    pull::platforms,
};

/// Prefix of Docker's own media types.
const DOCKER: &str = "application/vnd.docker.";
/// The annotation by which an attestation names what it is of.
const ATTESTED: &str = "vnd.docker.reference.digest";

/// Entries of an index in order, each once, and where they are.
#[derive(Default)]
struct Entries {
    descriptors: Vec<Descriptor>,
    places: BTreeMap<Digest, Reference>,
}

impl Remotes {
    /// Works out an index. Reads documents and configs; changes nothing. Blocks.
    ///
    /// # Errors
    /// [`RemoteError::Read`], [`RemoteError::Config`], and what the request has that cannot be.
    pub fn plan(&self, request: &IndexRequest) -> Result<PlannedIndex, RemoteError> {
        let mut found = Vec::new();
        for source in &request.sources {
            found.push((source, self.document(&source.reference)?));
        }
        if let [(source, only)] = &found[..]
            && stays(request, source, only)
        {
            let (descriptor, bytes) = (only.descriptor.clone(), only.document.bytes().to_vec());
            let parts = vec![only.reference.repository().with_digest(descriptor.digest)];
            return Ok(PlannedIndex { descriptor, bytes, parts });
        }
        let mut entries = Entries::default();
        for (source, found) in &found {
            self.add(source, found, &mut entries)?;
        }
        entries.keep(&request.platforms)?;
        if entries.descriptors.is_empty() {
            return Err(RemoteError::Empty);
        }
        let mut index = Index::new(entries.descriptors);
        if index.manifests.iter().all(|it| it.media_type.as_str().starts_with(DOCKER)) {
            index.media_type = Some(MediaType::DOCKER_INDEX);
        }
        for annotation in &request.annotations {
            annotate(&mut index, annotation)?;
        }
        let bytes = serde_json::to_vec_pretty(&index).expect("the image model serialises to JSON");
        let media_type = index.media_type.unwrap_or(MediaType::OCI_INDEX);
        let descriptor = Descriptor::of(media_type, &bytes);
        let parts = entries.places;
        let parts = index.manifests.iter().filter_map(|it| parts.get(&it.digest).cloned());
        Ok(PlannedIndex { descriptor, bytes, parts: parts.collect() })
    }

    /// Adds an image, or all that an index names.
    fn add(
        &self,
        source: &IndexSource,
        found: &RemoteDocument,
        entries: &mut Entries,
    ) -> Result<(), RemoteError> {
        let repository = found.reference.repository();
        let mut add = |descriptor: Descriptor| {
            let place = repository.with_digest(descriptor.digest);
            entries.add(descriptor, place);
        };
        match &found.document {
            Document::Index(index) => index.value().manifests.iter().cloned().for_each(add),
            Document::Manifest(_) => {
                let mut descriptor = found.descriptor.clone();
                let said = source.said.as_ref();
                if let Some(said) = said {
                    descriptor.annotations.clone_from(&said.annotations);
                    descriptor.artifact_type.clone_from(&said.artifact_type);
                }
                descriptor.platform = match said.and_then(|said| said.platform.clone()) {
                    Some(platform) => Some(platform),
                    None => self.platform(found)?,
                };
                add(descriptor);
            }
        }
        Ok(())
    }
}

/// Whether a single source is taken as it is.
fn stays(request: &IndexRequest, source: &IndexSource, found: &RemoteDocument) -> bool {
    let is_whole = request.annotations.is_empty() && request.platforms.is_empty();
    let is_index = matches!(found.document, Document::Index(_));
    is_whole && source.said.is_none() && (is_index || request.single == SingleImage::Copy)
}

impl Entries {
    /// Adds an entry; one that is there already gets what it lacks.
    fn add(&mut self, descriptor: Descriptor, place: Reference) {
        self.places.entry(descriptor.digest).or_insert(place);
        match self.descriptors.iter_mut().find(|it| it.digest == descriptor.digest) {
            Some(known) => {
                known.annotations.extend(descriptor.annotations);
                known.platform = known.platform.take().or(descriptor.platform);
            }
            None => self.descriptors.push(descriptor),
        }
    }

    /// Leaves the entries for these platforms, and what attests them.
    fn keep(&mut self, wanted: &[Platform]) -> Result<(), RemoteError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let fits = |entry: &Descriptor, wanted: &Platform| {
            entry.platform.as_ref().is_some_and(|it| it.normalized() == wanted.normalized())
        };
        for platform in wanted {
            if !self.descriptors.iter().any(|entry| fits(entry, platform)) {
                let offered = platforms(&self.descriptors);
                return Err(RemoteError::Platform { platform: platform.clone(), offered });
            }
        }
        let kept: Vec<String> = self
            .descriptors
            .iter()
            .filter(|entry| wanted.iter().any(|platform| fits(entry, platform)))
            .map(|entry| entry.digest.to_string())
            .collect();
        self.descriptors.retain(|entry| {
            let digest = entry.digest.to_string();
            kept.contains(&digest)
                || entry.annotations.get(ATTESTED).is_some_and(|it| kept.contains(it))
        });
        Ok(())
    }
}

/// Writes an annotation; one of a single platform to the entries for it.
fn annotate(index: &mut Index, annotation: &Annotation) -> Result<(), RemoteError> {
    let fact = (annotation.key.clone(), annotation.value.clone());
    match (annotation.level, &annotation.platform) {
        _ if index.media_type == Some(MediaType::DOCKER_INDEX) => {
            // Docker's type has no annotations.
            index.media_type = Some(MediaType::OCI_INDEX);
            annotate(index, annotation)
        }
        (AnnotationLevel::Index, None) => {
            index.annotations.extend([fact]);
            Ok(())
        }
        (AnnotationLevel::ManifestDescriptor, wanted) => {
            let offered = platforms(&index.manifests);
            let mut is_found = false;
            for entry in &mut index.manifests {
                let found = entry.platform.as_ref().map(Platform::normalized);
                if wanted.as_ref().is_none_or(|wanted| found == Some(wanted.normalized())) {
                    entry.annotations.extend([fact.clone()]);
                    is_found = true;
                }
            }
            match wanted {
                Some(platform) if !is_found => {
                    Err(RemoteError::Platform { platform: platform.clone(), offered })
                }
                _ => Ok(()),
            }
        }
        _ => Err(RemoteError::Annotation(annotation.key.clone())),
    }
}
