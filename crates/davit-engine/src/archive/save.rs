//! `save`: images as an OCI layout with Docker's `manifest.json` beside it, in one tar.
//!
//! Manifests and compressed layers are written as they were received, so that digests survive;
//! where a compressed layer was not kept, the image gets a manifest of plain layers.

pub(crate) mod built;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::{Path, PathBuf},
};

use davit_image::{
    Descriptor, Digest, Document, ImageId, Index, Manifest, MediaType, Platform, Raw, Reference,
};
use davit_store::{
    Lease, StoreError, Target,
    archive::{DockerImage, TarWriter, WholeFile, layout_file, named_descriptor},
};

use super::FileError;
use crate::{
    Engine,
    build::referrers,
    images::index::{Wanted, find_manifest, plain_manifest},
};

/// What to save.
#[derive(Clone, Debug, Default)]
pub struct SaveRequest {
    /// Names or ids; a repository without a tag stands for all its tags.
    pub names: Vec<String>,
    /// Only this platform of an index.
    pub platform: Option<Platform>,
}

/// What is to be written, gathered before the first byte.
#[derive(Default)]
struct Plan {
    /// New documents by digest; all other content comes from the store.
    made: BTreeMap<Digest, Vec<u8>>,
    /// Layers that are not in the store.
    files: BTreeMap<Digest, PathBuf>,
    blobs: BTreeSet<Digest>,
    index: Vec<Descriptor>,
    /// What refers to images; it stands behind them.
    referrers: Vec<Descriptor>,
    docker: Vec<DockerImage>,
    repositories: BTreeMap<String, BTreeMap<String, String>>,
}

struct Named {
    target: Target,
    references: Vec<Reference>,
    name: String,
}

impl Engine {
    /// Writes images as one tar stream, which Docker, Podman, skopeo and davit read.
    ///
    /// # Errors
    /// See [`FileError`]; a missing image or layer is found before the first byte is written.
    pub fn save_images(
        &self,
        request: &SaveRequest,
        sink: &mut dyn Write,
    ) -> Result<(), FileError> {
        let lease = self.store().lease("save")?;
        let mut plan = Plan::default();
        for named in self.named(&request.names)? {
            let target = self.chosen(&named, request.platform.as_ref())?;
            self.add_image(&mut plan, &Named { target, ..named })?;
        }
        self.write_plan(&lease, &plan, sink)
    }

    /// As [`Self::save_images`], into a file: one with the name is a whole archive.
    ///
    /// # Errors
    /// See [`FileError`]; what had the name has it still.
    pub fn save_images_to(&self, request: &SaveRequest, path: &Path) -> Result<(), FileError> {
        // Only its owner may read it, as Docker's.
        let mut file = WholeFile::output(path, 0o600)?;
        self.save_images(request, &mut file)?;
        Ok(file.finish()?)
    }

    /// Images by name, each once, with the names under which they are saved.
    fn named(&self, names: &[String]) -> Result<Vec<Named>, FileError> {
        let mut all: Vec<Named> = Vec::new();
        for name in names {
            for (target, reference) in self.targets_of(name)? {
                match all.iter_mut().find(|known| known.target.digest == target.digest) {
                    Some(known) => {
                        let new = reference.filter(|name| !known.references.contains(name));
                        known.references.extend(new);
                    }
                    None => all.push(Named {
                        target,
                        references: reference.into_iter().collect(),
                        name: name.clone(),
                    }),
                }
            }
        }
        Ok(all)
    }

    fn targets_of(&self, name: &str) -> Result<Vec<(Target, Option<Reference>)>, FileError> {
        if !has_tag(name)
            && let Ok(wanted) = name.parse::<Reference>()
        {
            let mut found = Vec::new();
            for image in self.images()? {
                for (target, references) in &image.targets {
                    let fits = references.iter().filter(|r| r.repository() == wanted.repository());
                    found.extend(fits.map(|r| (target.clone(), Some(r.clone()))));
                }
            }
            if !found.is_empty() {
                found.sort_by(|(_, a), (_, b)| a.cmp(b));
                return Ok(found);
            }
        }
        let find = self.find_image(name)?;
        Ok(vec![(find.target, find.reference)])
    }

    fn chosen(&self, named: &Named, platform: Option<&Platform>) -> Result<Target, FileError> {
        let Some(platform) = platform else { return Ok(named.target.clone()) };
        let refused =
            || FileError::Platform { name: named.name.clone(), platform: platform.to_string() };
        let top = named.target.descriptor();
        let found = find_manifest(self.store(), &top, Wanted::Platform(platform))?;
        let (descriptor, manifest) = found.ok_or_else(refused)?;
        let manifest = manifest.value();
        let image_id = manifest.is_image().then(|| ImageId::new(manifest.config.digest));
        Ok(Target::new(&descriptor, image_id))
    }

    fn add_image(&self, plan: &mut Plan, named: &Named) -> Result<(), FileError> {
        let descriptor = match self.document(&named.target)? {
            Document::Manifest(raw) => {
                let target = &named.target;
                self.add_manifest(plan, named, target, raw.value())?
            }
            Document::Index(raw) => self.add_index(plan, named, raw.value())?,
        };
        match named.references.as_slice() {
            [] => plan.index.push(descriptor),
            names => {
                let entries = names.iter().map(|name| named_descriptor(&descriptor, Some(name)));
                plan.index.extend(entries);
            }
        }
        Ok(())
    }

    /// Adds an index with those of its manifests whose content is here.
    fn add_index(
        &self,
        plan: &mut Plan,
        named: &Named,
        index: &Index,
    ) -> Result<Descriptor, FileError> {
        let (chosen, chosen_manifest) = self.manifest(&named.target)?;
        let own = self.add_manifest(plan, named, &chosen, &chosen_manifest)?;
        if own.digest != chosen.digest {
            // Its compressed layers are gone: the index would name what is not in the archive.
            return Ok(own);
        }
        plan.blobs.insert(named.target.digest);
        for entry in &index.manifests {
            if self.store().blob(&entry.digest)?.is_none() || entry.digest == chosen.digest {
                continue;
            }
            if let Document::Manifest(raw) = self.document(&Target::new(entry, None))?
                && self.is_whole(raw.value())?
            {
                self.add_referrers(plan, &entry.digest)?;
                plan.blobs.insert(entry.digest);
                plan.blobs.insert(raw.value().config.digest);
                plan.blobs.extend(raw.value().layers.iter().map(|layer| layer.digest));
            }
        }
        // What stands in the index is named by that.
        let is_within =
            |it: &Descriptor| index.manifests.iter().any(|entry| entry.digest == it.digest);
        plan.referrers.retain(|it| !is_within(it));
        Ok(named.target.descriptor())
    }

    fn is_whole(&self, manifest: &Manifest) -> Result<bool, FileError> {
        for descriptor in manifest.layers.iter().chain([&manifest.config]) {
            if !self.has_content(&descriptor.digest)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn has_content(&self, digest: &Digest) -> Result<bool, FileError> {
        let store = self.store();
        Ok(store.blob(digest)?.is_some()
            || store.layer(&davit_image::DiffId::new(*digest))?.is_some())
    }

    /// Adds one manifest with config and layers; yields the descriptor of what stands for it.
    fn add_manifest(
        &self,
        plan: &mut Plan,
        named: &Named,
        target: &Target,
        manifest: &Manifest,
    ) -> Result<Descriptor, FileError> {
        if manifest.is_image() && !self.is_whole(manifest)? {
            return self.add_plain(plan, named, manifest);
        }
        plan.blobs.insert(target.digest);
        self.add_content(plan, named, manifest)?;
        self.add_referrers(plan, &target.digest)?;
        Ok(target.descriptor())
    }

    /// Adds what refers to a manifest and is here.
    fn add_referrers(&self, plan: &mut Plan, subject: &Digest) -> Result<(), FileError> {
        for (descriptor, manifest) in referrers(self.store(), subject)? {
            let parts = manifest.value().layers.iter().chain([&manifest.value().config]);
            if self.is_whole(manifest.value())? && !plan.referrers.contains(&descriptor) {
                plan.blobs.extend(parts.map(|part| part.digest));
                plan.blobs.insert(descriptor.digest);
                plan.referrers.push(descriptor);
            }
        }
        Ok(())
    }

    /// Adds an image whose compressed layers are gone, with its plain ones.
    fn add_plain(
        &self,
        plan: &mut Plan,
        named: &Named,
        manifest: &Manifest,
    ) -> Result<Descriptor, FileError> {
        let plain = plain_manifest(self.store(), manifest)?;
        plan.made.insert(plain.digest(), plain.bytes().to_vec());
        self.add_content(plan, named, plain.value())?;
        Ok(Descriptor::of(MediaType::OCI_MANIFEST, plain.bytes()))
    }

    fn add_content(
        &self,
        plan: &mut Plan,
        named: &Named,
        manifest: &Manifest,
    ) -> Result<(), FileError> {
        for descriptor in manifest.layers.iter().chain([&manifest.config]) {
            if !self.has_content(&descriptor.digest)? {
                let name = named.name.clone();
                return Err(FileError::Missing { name, digest: descriptor.digest });
            }
            plan.blobs.insert(descriptor.digest);
        }
        if manifest.is_image() {
            let layers: Vec<String> =
                manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect();
            plan.add_docker(named, blob_path(&manifest.config.digest), layers);
        }
        Ok(())
    }

    fn write_plan(
        &self,
        lease: &Lease<'_>,
        plan: &Plan,
        sink: &mut dyn Write,
    ) -> Result<(), FileError> {
        let digests: Vec<Digest> = plan.blobs.iter().copied().collect();
        lease.keep(&digests)?;
        let mut tar = TarWriter::new(sink);
        tar.add_directory("blobs")?;
        tar.add_directory("blobs/sha256")?;
        for (digest, bytes) in &plan.made {
            tar.add_bytes(&blob_path(digest), bytes)?;
        }
        for digest in &digests {
            let found = self.store().open_content(digest)?;
            let (mut file, size) = found
                .ok_or_else(|| StoreError::NotFound { kind: "blob", name: digest.to_string() })?;
            tar.add_file(&blob_path(digest), size, &mut file)?;
        }
        for (digest, path) in &plan.files {
            let mut file = fs_err::File::open(path).map_err(FileError::Read)?;
            let size = file.metadata().map_err(FileError::Read)?.len();
            tar.add_file(&blob_path(digest), size, &mut file)?;
        }
        let index = Raw::write(Index::new(plan.entries()));
        tar.add_bytes("index.json", index.bytes())?;
        tar.add_bytes("manifest.json", &json(&plan.docker))?;
        tar.add_bytes("oci-layout", &layout_file())?;
        if !plan.repositories.is_empty() {
            tar.add_bytes("repositories", &json(&plan.repositories))?;
        }
        tar.finish()?;
        Ok(())
    }
}

impl Plan {
    /// What the index of the archive names.
    fn entries(&self) -> Vec<Descriptor> {
        self.index.iter().chain(&self.referrers).cloned().collect()
    }

    fn add_docker(&mut self, named: &Named, config: String, layers: Vec<String>) {
        let names: Vec<String> = named.references.iter().map(Reference::familiar).collect();
        if let Some(top) = layers.last().and_then(|path| path.rsplit('/').next()) {
            for reference in &named.references {
                if let Some(tag) = reference.tag() {
                    let repository = reference.repository().familiar();
                    let tags = self.repositories.entry(repository).or_default();
                    tags.insert(tag.to_string(), top.to_owned());
                }
            }
        }
        let repo_tags = if names.is_empty() { None } else { Some(names) };
        self.docker.push(DockerImage { config, repo_tags, layers });
    }
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data is JSON")
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// Whether a name has a tag or digest of its own, or is an id.
fn has_tag(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.contains([':', '@'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_names_with_a_tag() {
        for (name, expected) in [
            ("a", false),
            ("a:1", true),
            ("host:5000/a", false),
            ("host:5000/a:1", true),
            ("a@b", true),
        ] {
            assert_eq!(has_tag(name), expected, "{name}");
        }
    }
}
