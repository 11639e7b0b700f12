//! How an image leaves a build: annotations, media types and the compression of its layers.

use std::collections::BTreeMap;

use davit_build::Built;
use davit_image::{Descriptor, ImageId, Index, Manifest, MediaType, Platform, Raw};
use davit_store::StoredDocument;

use super::attest::{FormedAttestation, document::index_entry};
use crate::LayerCompression;

/// What of an image's form an output asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageForm {
    /// Facts that are written into its documents.
    pub annotations: Vec<Annotation>,
    /// Whose media types its documents have.
    pub types: MediaTypes,
    /// How its layers are compressed where they leave the store; `None`: as that is usual there.
    pub compression: Option<LayerCompression>,
    /// Where its attestations are.
    pub attestations: AttestationPlace,
    /// When an index names it.
    pub index: IndexUse,
}

/// When images of a build stand in an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IndexUse {
    /// Where there are several.
    #[default]
    Several,
    /// Always.
    Always,
}

/// Where attestations of an image are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttestationPlace {
    /// Beside it: they refer to it, and nothing that is part of it names them.
    #[default]
    Referrers,
    /// In one index with it; they refer to it as well.
    Index,
    /// In one index with it, in the form of an image.
    PlainIndex,
}

/// Whose media types documents have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MediaTypes {
    /// Those of the image specification.
    #[default]
    Oci,
    /// Docker's older ones.
    Docker,
}

/// A fact of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// Which document has it.
    pub level: AnnotationLevel,
    /// The platform whose image has it; `None` for all.
    pub platform: Option<Platform>,
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// Which document has an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnotationLevel {
    /// The manifest of each image.
    Manifest,
    /// What names that manifest in an index.
    ManifestDescriptor,
    /// The index of images for several platforms.
    Index,
    /// What names that index.
    IndexDescriptor,
}

/// Why an image cannot have a form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// An annotation of an index, and there is none.
    #[error("annotation `{0}` is for an index, which a build for one platform does not have")]
    NoIndex(String),
    /// An annotation of a platform that is not built for.
    #[error("annotation `{key}` is for {platform}, which this build is not for")]
    NoPlatform {
        /// Its name.
        key: String,
        /// The platform.
        platform: String,
    },
    /// `BUILDKIT_MULTI_PLATFORM` is false, and there are several.
    #[error("BUILDKIT_MULTI_PLATFORM is false, and the build is for several platforms")]
    OneForSeveral,
    /// A build argument that is true or false is neither.
    #[error("{name}={value} is neither true nor false")]
    NoTruth {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// An annotation where there is no place for one.
    #[error("annotation `{0}` has no place in Docker's media types")]
    NoPlace(String),
}

impl FormError {
    pub(super) fn hint(&self) -> Option<String> {
        let hint =
            "attestation-inline=true in --output, with --provenance or --sbom, makes an index";
        matches!(self, Self::NoIndex(_)).then(|| hint.to_owned())
    }
}

impl ImageForm {
    /// Refuses what images for these platforms cannot have.
    ///
    /// # Errors
    /// [`FormError`].
    pub fn check(&self, platforms: &[Platform]) -> Result<(), FormError> {
        for annotation in &self.annotations {
            let (level, key) = (annotation.level, annotation.key.clone());
            let of_index =
                matches!(level, AnnotationLevel::Index | AnnotationLevel::IndexDescriptor);
            if self.types == MediaTypes::Docker && level != AnnotationLevel::Manifest {
                return Err(FormError::NoPlace(key));
            }
            let has_index =
                self.attestations != AttestationPlace::Referrers || self.index == IndexUse::Always;
            if of_index && platforms.len() == 1 && !has_index {
                return Err(FormError::NoIndex(key));
            }
            if let Some(wanted) = annotation.platform.as_ref().filter(|_| !of_index)
                && !platforms.iter().any(|platform| is_same(platform, wanted))
            {
                let platform = wanted.to_string();
                return Err(FormError::NoPlatform { key, platform });
            }
        }
        Ok(())
    }

    fn annotations(
        &self,
        level: AnnotationLevel,
        platform: Option<&Platform>,
    ) -> BTreeMap<String, String> {
        let fits = |it: &&Annotation| {
            let own = match (&it.platform, platform) {
                (Some(wanted), Some(platform)) => is_same(platform, wanted),
                _ => true,
            };
            it.level == level && own
        };
        let found = self.annotations.iter().filter(fits);
        found.map(|it| (it.key.clone(), it.value.clone())).collect()
    }
}

fn is_same(one: &Platform, other: &Platform) -> bool {
    one.normalized() == other.normalized()
}

/// One image of a build in the form of an output.
pub(crate) struct FormedImage {
    pub(crate) platform: Platform,
    pub(crate) id: ImageId,
    pub(crate) config: StoredDocument,
    pub(crate) manifest: Manifest,
    /// What names the manifest.
    pub(crate) descriptor: Descriptor,
    /// The manifest's bytes.
    pub(crate) document: StoredDocument,
}

/// What a build gives in the form of an output.
pub(crate) struct Formed {
    pub(crate) images: Vec<FormedImage>,
    /// The index, where there are several images.
    pub(crate) index: Option<StoredDocument>,
    /// What names the whole.
    pub(crate) descriptor: Descriptor,
    /// What is attested of the images.
    pub(crate) attestations: Vec<FormedAttestation>,
    /// Where that is.
    pub(crate) place: AttestationPlace,
}

impl Formed {
    /// Brings what was built into a form.
    pub(crate) fn new(built: &[Built], platforms: &[Platform], form: &ImageForm) -> Self {
        let images = built.iter().zip(platforms);
        Self::of(
            images.map(|(built, platform)| FormedImage::new(built, platform, form)).collect(),
            form,
        )
    }

    /// Joins images, whose manifests have changed since they were formed.
    pub(crate) fn of(mut images: Vec<FormedImage>, form: &ImageForm) -> Self {
        for image in &mut images {
            image.describe(form);
        }
        let (attestations, place) = (Vec::new(), form.attestations);
        let descriptor = images[0].descriptor.clone();
        let mut formed = Self { images, index: None, descriptor, attestations, place };
        if formed.images.len() > 1 || form.index == IndexUse::Always {
            formed.write_index(form);
        }
        formed
    }

    /// Adds what is attested of the images.
    pub(crate) fn add_attestations(&mut self, made: Vec<FormedAttestation>, form: &ImageForm) {
        self.attestations = made;
        if self.place != AttestationPlace::Referrers {
            self.write_index(form);
        }
    }

    fn write_index(&mut self, form: &ImageForm) {
        let media_type = match form.types {
            MediaTypes::Oci => MediaType::OCI_INDEX,
            MediaTypes::Docker => MediaType::DOCKER_INDEX,
        };
        let images = self.images.iter().map(|image| image.descriptor.clone());
        let within = self.place != AttestationPlace::Referrers;
        let attestations = self.attestations.iter().filter(|_| within).map(index_entry);
        let index = Raw::write(Index {
            media_type: Some(media_type.clone()),
            annotations: form.annotations(AnnotationLevel::Index, None),
            ..Index::new(images.chain(attestations).collect())
        });
        let document = StoredDocument::new(media_type.clone(), index.bytes().to_vec());
        self.descriptor = Descriptor::of(media_type, &document.bytes);
        self.descriptor.annotations = form.annotations(AnnotationLevel::IndexDescriptor, None);
        self.index = Some(document);
    }

    /// What names each statement, with the platform that it is for.
    pub(crate) fn statements(&self) -> Vec<(Platform, Descriptor)> {
        let mut found = Vec::new();
        for made in &self.attestations {
            let image = self.images.iter().find(|image| image.descriptor.digest == made.subject);
            let platform = image.map(|image| &image.platform);
            let statements = made.statements.iter().cloned();
            found.extend(statements.filter_map(|it| Some((platform?.clone(), it))));
        }
        found
    }

    /// Attestations that nothing but the images leads to.
    pub(crate) fn referrers(&self) -> impl Iterator<Item = &FormedAttestation> {
        let beside = self.place == AttestationPlace::Referrers;
        self.attestations.iter().filter(move |_| beside)
    }

    /// The image that this machine uses, else the first one.
    pub(crate) fn own(&self) -> &FormedImage {
        let host = Platform::host();
        let best = |image: &&FormedImage| host.rank(&image.platform);
        let found = self.images.iter().filter(|image| best(image).is_some()).max_by_key(best);
        found.unwrap_or(&self.images[0])
    }

    /// All documents.
    pub(crate) fn documents(&self) -> Vec<StoredDocument> {
        let of_images = self.images.iter().flat_map(|image| [&image.config, &image.document]);
        let attested = self.attestations.iter().flat_map(|it| &it.documents);
        // An index comes behind what it names.
        of_images.chain(attested).chain(&self.index).cloned().collect()
    }
}

impl FormedImage {
    fn new(built: &Built, platform: &Platform, form: &ImageForm) -> Self {
        let mut manifest: Manifest =
            serde_json::from_slice(&built.manifest.bytes).expect("a manifest of our own is one");
        manifest.annotations.extend(form.annotations(AnnotationLevel::Manifest, Some(platform)));
        if form.types == MediaTypes::Docker {
            manifest.media_type = Some(MediaType::DOCKER_MANIFEST);
            manifest.config.media_type = MediaType::DOCKER_CONFIG;
            manifest.layers.iter_mut().for_each(|layer| layer.media_type = MediaType::DOCKER_LAYER);
        }
        let mut config = built.config.clone();
        config.media_type = manifest.config.media_type.clone();
        Self {
            platform: platform.clone(),
            id: built.outcome.image,
            config,
            descriptor: Descriptor::of(MediaType::OCI_MANIFEST, &built.manifest.bytes),
            document: built.manifest.clone(),
            manifest,
        }
    }

    /// Writes the manifest and names it.
    fn describe(&mut self, form: &ImageForm) {
        let media_type = match form.types {
            MediaTypes::Oci => MediaType::OCI_MANIFEST,
            MediaTypes::Docker => MediaType::DOCKER_MANIFEST,
        };
        let raw = Raw::write(self.manifest.clone());
        self.document = StoredDocument::new(media_type.clone(), raw.bytes().to_vec());
        self.descriptor = Descriptor::of(media_type, raw.bytes());
        self.descriptor.platform = Some(self.platform.clone());
        let platform = Some(&self.platform);
        self.descriptor.annotations =
            form.annotations(AnnotationLevel::ManifestDescriptor, platform);
    }

    /// Takes another config; [`Formed::of`] writes the manifest anew.
    pub(crate) fn set_config(&mut self, bytes: Vec<u8>) {
        self.config = StoredDocument::new(self.config.media_type.clone(), bytes);
        self.id = ImageId::new(self.config.digest);
        let config = &mut self.manifest.config;
        (config.digest, config.size) = (self.config.digest, self.config.bytes.len() as u64);
    }

    /// Whether documents have Docker's media types.
    pub(crate) fn is_docker(&self) -> bool {
        self.manifest.media_type.as_ref() == Some(&MediaType::DOCKER_MANIFEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotation(level: AnnotationLevel, platform: Option<&str>) -> Annotation {
        let platform = platform.map(|text| text.parse().unwrap());
        Annotation { level, platform, key: "k".to_owned(), value: "v".to_owned() }
    }

    #[test]
    fn annotations_have_their_places() {
        use AnnotationLevel::{Index, IndexDescriptor, Manifest, ManifestDescriptor};
        let platforms: Vec<Platform> =
            ["linux/amd64", "linux/arm64/v8"].map(|it| it.parse().unwrap()).to_vec();
        let check = |level, platform: Option<&str>, types, count: usize| {
            let annotations = vec![annotation(level, platform)];
            let form = ImageForm { annotations, types, ..ImageForm::default() };
            form.check(&platforms[..count]).map_err(|error| error.to_string())
        };
        for level in [Manifest, ManifestDescriptor, Index, IndexDescriptor] {
            assert_eq!(check(level, None, MediaTypes::Oci, 2), Ok(()), "{level:?}");
        }
        assert_eq!(check(Manifest, Some("linux/arm64"), MediaTypes::Oci, 2), Ok(()));
        for (level, platform, types, count, words) in [
            (Index, None, MediaTypes::Oci, 1, "is for an index"),
            (IndexDescriptor, None, MediaTypes::Oci, 1, "is for an index"),
            (Manifest, Some("linux/arm64"), MediaTypes::Oci, 1, "is for linux/arm64"),
            (ManifestDescriptor, None, MediaTypes::Docker, 2, "no place"),
        ] {
            let refused = check(level, platform, types, count).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
    }
}
