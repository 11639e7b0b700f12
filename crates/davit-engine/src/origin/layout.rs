//! An OCI layout directory as origin.

use std::{io::Read as _, path::Path};

use davit_image::{Descriptor, Digest, Document, Index};
use davit_store::archive::{ArchiveError, CONTAINERD_NAME, LayoutDir, REF_NAME};
use fs_err::File;

use super::{BlobRead, Origin, OriginError, Stop, from_offset, is_named};

/// One image of an OCI layout.
#[derive(Debug)]
pub(crate) struct Layout {
    directory: LayoutDir,
    top: Descriptor,
}

impl Layout {
    /// Opens the image of that name, or the only one.
    pub(crate) fn open(path: &Path, name: Option<&str>) -> Result<Self, OriginError> {
        let directory = LayoutDir::open(path)?;
        directory.check_version()?;
        let index = directory.read_file("index.json", super::MANIFEST_BYTES)?;
        let index = index.ok_or_else(|| ArchiveError::Layout("it has no index.json".to_owned()))?;
        let top = choose(&index, name)?;
        Ok(Self { directory, top })
    }

    /// Opens the image whose manifest or index has this digest, listed or not.
    pub(crate) fn open_digest(path: &Path, digest: &Digest) -> Result<Self, OriginError> {
        let directory = LayoutDir::open(path)?;
        directory.check_version()?;
        let blob = directory.open_blob(digest)?.ok_or(OriginError::Missing(*digest))?;
        let mut bytes = Vec::new();
        let limited = blob.take(super::MANIFEST_BYTES + 1).read_to_end(&mut bytes);
        limited.map_err(ArchiveError::Read)?;
        if bytes.len() as u64 > super::MANIFEST_BYTES {
            let what = "bytes in a document";
            return Err(ArchiveError::TooLarge { what, limit: super::MANIFEST_BYTES }.into());
        }
        if Digest::of_with(digest.algorithm(), &bytes) != *digest {
            return Err(OriginError::Wrong(*digest));
        }
        let size = bytes.len() as u64;
        let document = Document::parse(bytes, None)
            .map_err(|source| OriginError::Document { digest: *digest, source })?;
        let top = Descriptor::new(document.media_type(), *digest, size);
        Ok(Self { directory, top })
    }

    fn blob(&self, digest: &Digest) -> Result<File, OriginError> {
        self.directory.open_blob(digest)?.ok_or(OriginError::Missing(*digest))
    }
}

/// The manifest of that name in an `index.json`, or the only one.
pub(super) fn choose(index: &[u8], name: Option<&str>) -> Result<Descriptor, OriginError> {
    let index: Index = serde_json::from_slice(index)
        .map_err(|source| ArchiveError::Json { name: "index.json".to_owned(), source })?;
    let names = |entry: &Descriptor| -> Vec<String> {
        let keys = [CONTAINERD_NAME, REF_NAME];
        keys.iter().filter_map(|key| entry.annotations.get(*key).cloned()).collect()
    };
    // One name of each is enough: the short one is part of the full one.
    let first = |entry: &Descriptor| names(entry).into_iter().next();
    let offered = || index.manifests.iter().filter_map(first).collect();
    let mut found: Vec<_> = match name {
        Some(wanted) => {
            let fits = |entry: &&Descriptor| names(entry).iter().any(|name| is_named(wanted, name));
            index.manifests.iter().filter(fits).collect()
        }
        None => {
            // What is attested of an image lies beside it.
            let is_image = |entry: &&Descriptor| entry.artifact_type.is_none();
            let images: Vec<_> = index.manifests.iter().filter(is_image).collect();
            if images.is_empty() { index.manifests.iter().collect() } else { images }
        }
    };
    found.dedup_by_key(|entry| entry.digest);
    match (found[..].first(), name) {
        (None, None) => Err(ArchiveError::NoImages.into()),
        (None, Some(wanted)) => {
            Err(OriginError::Name { wanted: wanted.to_owned(), offered: offered() })
        }
        (Some(_), None) if found.len() > 1 => Err(OriginError::Several(offered())),
        // The name belongs to this layout, not to the image.
        (Some(entry), _) => Ok(Descriptor { annotations: Default::default(), ..(*entry).clone() }),
    }
}

impl Origin for Layout {
    fn resolve(&self) -> Result<Descriptor, OriginError> {
        Ok(self.top.clone())
    }

    fn stream(
        &self,
        descriptor: &Descriptor,
        offset: u64,
        _stop: &Stop,
    ) -> Result<Box<dyn BlobRead>, OriginError> {
        from_offset(self.blob(&descriptor.digest)?, offset)
    }
}

#[cfg(test)]
mod tests {
    use davit_image::{MediaType, Raw};

    use super::*;

    fn entry(content: &[u8], name: &str) -> Descriptor {
        let mut entry = Descriptor::of(MediaType::OCI_MANIFEST, content);
        if !name.is_empty() {
            entry.annotations.insert(REF_NAME.to_owned(), name.to_owned());
        }
        entry
    }

    #[test]
    fn chooses_by_name_or_the_only_one() {
        let two = Raw::write(Index::new(vec![entry(b"a", "v1"), entry(b"b", "x/y:2")]));
        let one = Raw::write(Index::new(vec![entry(b"a", "")]));
        let none = Raw::write(Index::new(Vec::new()));
        let digest = |content: &[u8]| Digest::of(content);
        assert_eq!(choose(two.bytes(), Some("v1")).unwrap().digest, digest(b"a"));
        assert_eq!(choose(two.bytes(), Some("docker.io/x/y:2")).unwrap().digest, digest(b"b"));
        assert_eq!(choose(one.bytes(), None).unwrap().digest, digest(b"a"));
        assert!(matches!(choose(two.bytes(), None), Err(OriginError::Several(_))));
        assert!(matches!(choose(two.bytes(), Some("v3")), Err(OriginError::Name { .. })));
        let mut entries = vec![entry(b"a", "latest"), entry(b"b", "2")];
        for (entry, name) in entries.iter_mut().zip(["x:latest", "x:2"]) {
            entry.annotations.insert(CONTAINERD_NAME.to_owned(), name.to_owned());
        }
        let named = Raw::write(Index::new(entries));
        let several = choose(named.bytes(), None).unwrap_err();
        assert!(matches!(several, OriginError::Several(names) if names == ["x:latest", "x:2"]));
        assert!(choose(none.bytes(), None).is_err());
        let mut told = entry(b"c", "");
        told.artifact_type = Some(MediaType::new("application/x"));
        let attested = Raw::write(Index::new(vec![entry(b"a", ""), told.clone()]));
        assert_eq!(choose(attested.bytes(), None).unwrap().digest, digest(b"a"));
        let alone = Raw::write(Index::new(vec![told]));
        assert_eq!(choose(alone.bytes(), None).unwrap().digest, digest(b"c"));
        assert!(choose(b"{", None).is_err());
    }
}
