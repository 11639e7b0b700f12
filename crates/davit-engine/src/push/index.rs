//! An index on its way out: with all that it names, or the one image of it that is here.

use std::collections::{HashMap, HashSet};

use davit_distribution::Target as RemoteTarget;
use davit_image::{Descriptor, Digest, Document, Index, Raw, Reference};
use davit_store::{Lease, Target};

use super::{Loaded, Novelty, Push, PushError, Rewrite, Sent};
use crate::{build::REFERENCE_DIGEST, images::index::Wanted, origin::MOST_NESTED};

/// An index that names other manifests where those were replaced; `None` if it names none of them.
///
/// An image of a build has plain layers here and compressed ones at the registry.
fn with_replaced(index: &Index, replaced: &HashMap<Digest, Descriptor>) -> Option<Raw<Index>> {
    let replace = |entry: &Descriptor| match replaced.get(&entry.digest) {
        Some(new) => Descriptor { digest: new.digest, size: new.size, ..entry.clone() },
        None => entry.clone(),
    };
    let replace = |entry: &Descriptor| {
        let mut entry = replace(entry);
        if let Some(new) = attested(&entry).and_then(|digest| replaced.get(&digest)) {
            entry.annotations.insert(REFERENCE_DIGEST.to_owned(), new.digest.to_string());
        }
        entry
    };
    let manifests: Vec<Descriptor> = index.manifests.iter().map(replace).collect();
    (manifests != index.manifests).then(|| Raw::write(Index { manifests, ..index.clone() }))
}

/// Which other entry of its index an entry attests.
fn attested(entry: &Descriptor) -> Option<Digest> {
    entry.annotations.get(REFERENCE_DIGEST).filter(|_| entry.is_attestation())?.parse().ok()
}

fn is_attested(index: &Index, digest: &Digest) -> bool {
    index.manifests.iter().any(|entry| attested(entry) == Some(*digest))
}

impl Loaded {
    /// Whether all layers are named by their plain tars: as those of an image that was built here.
    fn is_plain(&self) -> bool {
        let Some(config) = &self.image else { return false };
        let layers = self.manifest.value().layers.iter();
        layers.zip(&config.rootfs.diff_ids).all(|(layer, own)| layer.digest == own.digest())
    }
}

/// A part of an index that is here.
enum Part {
    Manifest(Box<Loaded>),
    Index(Box<Sent>),
}

impl Push<'_> {
    /// Pushes an index with all its images, if they are all here or at the registry; else the one
    /// image that is here.
    pub(super) fn push_index(
        &self,
        lease: &Lease<'_>,
        reference: &Reference,
        target: &Target,
        index: &Raw<Index>,
    ) -> Result<Sent, PushError> {
        let (mut parts, mut met) = (Vec::new(), HashSet::new());
        if !self.gather(index.value(), (MOST_NESTED, &mut met), &mut parts)? {
            return self.push_only_image(lease, reference, target);
        }
        let (mut replaced, mut novelty) = (HashMap::new(), Novelty::Document);
        // An index that came from elsewhere keeps its digest, as does one that others name.
        let is_known = |known: &Reference| known.digest() == Some(&target.digest);
        let is_own = parts.iter().all(|part| matches!(part, Part::Manifest(_)))
            && !self.images.iter().flat_map(|image| &image.repo_digests).any(is_known);
        for part in &parts {
            let made;
            let sent = match part {
                Part::Manifest(loaded) => {
                    let rewrite = match is_own && loaded.is_plain() {
                        true => Rewrite::Allowed,
                        false => Rewrite::Refused,
                    };
                    let about = attested(&loaded.descriptor).and_then(|digest| {
                        Some((
                            Descriptor { digest, ..loaded.descriptor.clone() },
                            replaced.get(&digest)?,
                        ))
                    });
                    let about = match &about {
                        Some((old, new)) => self.send_part(loaded, (old, new))?,
                        None => None,
                    };
                    made = match about {
                        Some(sent) => sent,
                        None => self.push_manifest(lease, loaded, rewrite)?,
                    };
                    replaced.insert(loaded.descriptor.digest, made.descriptor.clone());
                    if made.novelty == Novelty::Elsewhere {
                        novelty = made.novelty;
                    }
                    &made
                }
                Part::Index(index) => &**index,
            };
            self.put(&RemoteTarget::Digest(sent.descriptor.digest), sent)?;
        }
        // What refers to an image and is in the index as well has gone already.
        for part in &parts {
            if let Part::Manifest(loaded) = part
                && !is_attested(index.value(), &loaded.descriptor.digest)
                && let Some(new) = replaced.get(&loaded.descriptor.digest)
            {
                self.push_referrers(lease, &loaded.descriptor, new)?;
            }
        }
        let sent = match with_replaced(index.value(), &replaced) {
            None => Sent::index(target.descriptor(), index, target.image_id),
            Some(second) => {
                let media_type = target.media_type.clone();
                let descriptor = Descriptor::of(media_type, second.bytes());
                Sent { novelty, ..Sent::index(descriptor, &second, target.image_id) }
            }
        };
        self.name(lease, reference, sent)
    }

    /// Gathers what an index names and what is here, children before parents; false if something
    /// is neither here nor at the registry.
    fn gather(
        &self,
        index: &Index,
        (depth, met): (usize, &mut HashSet<Digest>),
        parts: &mut Vec<Part>,
    ) -> Result<bool, PushError> {
        let store = self.engine.store();
        for entry in &index.manifests {
            if met.contains(&entry.digest) {
                continue;
            }
            let here = store.blob(&entry.digest).map_err(|e| self.store_error(e))?.is_some();
            let document = if here { Some(self.document(entry)?) } else { None };
            let is_here = match document {
                Some(Document::Manifest(manifest)) if self.is_whole(manifest.value())? => {
                    parts.push(Part::Manifest(Box::new(self.load(entry.clone(), manifest)?)));
                    true
                }
                Some(Document::Index(inner)) if depth > 0 => {
                    let is_whole = self.gather(inner.value(), (depth - 1, &mut *met), parts)?;
                    parts.push(Part::Index(Box::new(Sent::index(entry.clone(), &inner, None))));
                    is_whole
                }
                _ => false,
            };
            if !is_here && !self.registry_has(entry)? {
                return Ok(false);
            }
            // Only what is here or there: what an index lacks that ended early is asked for again.
            met.insert(entry.digest);
        }
        Ok(true)
    }

    /// Pushes the image of an index whose other images are not here, and says so.
    fn push_only_image(
        &self,
        lease: &Lease<'_>,
        reference: &Reference,
        target: &Target,
    ) -> Result<Sent, PushError> {
        let found = match target.image_id {
            Some(id) => self.find(&target.descriptor(), Wanted::Image(id))?,
            None => None,
        };
        let loaded = found.ok_or_else(|| self.missing(target.digest))?;
        if let Some(config) = &loaded.image {
            self.message(&format!(
                "only the image for {} is here; it is pushed alone, without the index {}",
                config.platform(),
                target.digest
            ));
        }
        self.push_alone(lease, reference, &loaded)
    }
}
