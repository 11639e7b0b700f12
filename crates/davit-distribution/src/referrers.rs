//! Referrers by tag: what lists manifests under their subject where the registry does not.
//!
//! A registry with the referrers API answers a manifest that has a `subject` with `OCI-Subject`. At
//! any other the client keeps an index for each subject, under a tag that is made of its digest
//! (distribution-spec § Pushing Manifests with Subject, § Referrers Tag Schema).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use davit_image::{Descriptor, Digest, Document, Index, MediaType, Raw, Tag};

use reqwest::Method;

use crate::{Error, Session, Target};

/// Longest algorithm in a referrers tag.
const ALGORITHM_CHARACTERS: usize = 32;
/// Longest part of the hexadecimal digest in a referrers tag.
const DIGEST_CHARACTERS: usize = 64;

/// Manifests that were put and that nothing lists yet, by the SHA-256 of their bytes: a manifest
/// that goes by digest and by tag is one.
pub(crate) type Unlisted = Arc<Mutex<BTreeMap<Digest, Referrer>>>;

/// A manifest with the digest of its subject.
#[derive(Debug)]
pub(crate) struct Referrer {
    subject: Digest,
    descriptor: Descriptor,
}

impl Referrer {
    /// What a list says of a manifest; `None` if it has no subject.
    pub(crate) fn of(target: &Target, media_type: &MediaType, bytes: &[u8]) -> Option<Self> {
        let document = Document::parse(bytes.to_vec(), Some(media_type)).ok()?;
        let named = |kind: &Option<MediaType>| {
            kind.clone().filter(|media_type| !media_type.as_str().is_empty())
        };
        let (subject, annotations, artifact_type) = match document {
            Document::Manifest(manifest) => {
                let manifest = manifest.into_value();
                let kind = named(&manifest.artifact_type).unwrap_or(manifest.config.media_type);
                (manifest.subject?, manifest.annotations, Some(kind))
            }
            Document::Index(index) => {
                let index = index.into_value();
                (index.subject?, index.annotations, named(&index.artifact_type))
            }
        };
        let digest = match target {
            Target::Digest(digest) => *digest,
            Target::Tag(_) => Digest::of(bytes),
        };
        let described = Descriptor::new(media_type.clone(), digest, bytes.len() as u64);
        let descriptor = Descriptor { annotations, artifact_type, ..described };
        Some(Self { subject: subject.digest, descriptor })
    }
}

impl Session {
    /// Lists what refers to a manifest: as the registry says it, or else by the tag that clients keep.
    /// Of a long list it is the beginning.
    ///
    /// # Errors
    /// What went wrong at the registry; that nothing refers to the manifest is none.
    pub async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, Error> {
        let origin = self.origin().await?;
        let call = self.call(&origin, Method::GET, &format!("referrers/{subject}"));
        let limit = self.client.config().limits.manifest;
        // A registry without the API knows no such address, or says anything there.
        match self.client.transport().fetch(&origin, &call, limit).await {
            Ok((_, body)) => {
                let parsed = Document::parse(body.into(), Some(&MediaType::OCI_INDEX));
                if let Ok(Document::Index(index)) = parsed {
                    return Ok(index.into_value().manifests);
                }
            }
            Err(error) if error.is_transient() => return Err(error),
            Err(_) => {}
        }
        match self.manifest(&Target::Tag(tag_of(subject))).await {
            Ok(found) => match found.document {
                Document::Index(index) => Ok(index.into_value().manifests),
                Document::Manifest(_) => Ok(Vec::new()),
            },
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Keeps in mind what the registry does not list.
    pub(crate) fn remember(&self, bytes: &[u8], referrer: Referrer) {
        let mut unlisted = self.unlisted.lock().unwrap_or_else(PoisonError::into_inner);
        unlisted.entry(Digest::of(bytes)).or_insert(referrer);
    }

    /// Lists the manifests that were put under their subjects, where the registry has not done so.
    ///
    /// Meant for the end, when everything else is there. Idempotent; two that list under one subject
    /// at a time may lose an entry, for which registries without the API offer no lock.
    ///
    /// # Errors
    /// [`Error::Referrers`] with the first tag that could not be written; the others are not tried.
    pub async fn list_referrers(&self) -> Result<(), Error> {
        let unlisted = {
            let mut unlisted = self.unlisted.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *unlisted)
        };
        let mut lists: BTreeMap<Digest, Vec<Descriptor>> = BTreeMap::new();
        for referrer in unlisted.into_values() {
            lists.entry(referrer.subject).or_default().push(referrer.descriptor);
        }
        for (subject, referrers) in lists {
            let tag = tag_of(&subject);
            self.extend_list(&tag, referrers).await.map_err(|source| Error::Referrers {
                tag: self.repository.with_tag(tag).to_string(),
                source: Box::new(source),
            })?;
        }
        Ok(())
    }

    async fn extend_list(&self, tag: &Tag, referrers: Vec<Descriptor>) -> Result<(), Error> {
        let target = Target::Tag(tag.clone());
        let (mut index, media_type) = match self.manifest(&target).await {
            Ok(found) => match found.document {
                Document::Index(index) => (index.into_value(), found.descriptor.media_type),
                Document::Manifest(_) => {
                    let url = self.repository.with_tag(tag.clone()).to_string();
                    let problem = "is no list of referrers, but an image".to_owned();
                    return Err(Error::Protocol { url, problem });
                }
            },
            Err(error) if error.is_not_found() => (Index::new(Vec::new()), MediaType::OCI_INDEX),
            Err(error) => return Err(error),
        };
        let known = index.manifests.len();
        for referrer in referrers {
            if !index.manifests.iter().any(|entry| entry.digest == referrer.digest) {
                index.manifests.push(referrer);
            }
        }
        if index.manifests.len() == known {
            return Ok(());
        }
        let bytes = Raw::write(index).bytes().to_vec();
        self.put_manifest(&target, &media_type, bytes).await
    }
}

fn tag_of(subject: &Digest) -> Tag {
    let mut algorithm = subject.algorithm().name().to_owned();
    algorithm.truncate(ALGORITHM_CHARACTERS);
    let mut hex = subject.hex();
    hex.truncate(DIGEST_CHARACTERS);
    format!("{algorithm}-{hex}").parse().expect("letters and digits within the length of a tag")
}

#[cfg(test)]
mod tests {
    use davit_image::Algorithm;

    use super::*;

    #[test]
    fn tags_are_cut_digests() {
        let sha256 = Digest::of(b"");
        assert_eq!(tag_of(&sha256).as_str(), format!("sha256-{}", sha256.hex()));
        let sha512 = Digest::of_with(Algorithm::Sha512, b"");
        assert_eq!(tag_of(&sha512).as_str(), format!("sha512-{}", &sha512.hex()[..64]));
    }
}
