//! Keys of an `--output` that is an image: its names, its form, and who gets it.

use davit_engine::{
    BlobAccess, CompressionScope, LayerCompression, RemoteName,
    build::{Annotation, AttestationPlace, ImageForm, ImagePlace, MediaTypes},
    image::{Compression, Reference},
};

use super::{Kind, annotation, switch};

/// What an output says of its image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ImageKeys {
    pub(super) names: Vec<Reference>,
    annotations: Vec<Annotation>,
    types: MediaTypes,
    compression: Option<(Compression, BlobAccess)>,
    level: Option<u32>,
    force_compression: bool,
    push: bool,
    by_digest: bool,
    unstored: bool,
    /// Whether attestations stand in the index, and in which form.
    inline: bool,
    artifact: Option<bool>,
    pub(super) rewrite_timestamp: bool,
}

impl ImageKeys {
    /// Takes a key; `false` if it is none of an image.
    pub(super) fn set(&mut self, kind: Kind, key: &str, value: &str) -> Result<bool, String> {
        let on = || switch(key, value);
        match key {
            "name" => {
                let name = |name: &str| {
                    name.parse::<Reference>().map_err(|error| format!("name `{name}`: {error}"))
                };
                self.names = value.split(',').map(name).collect::<Result<_, _>>()?;
            }
            "push" if kind == Kind::Image => self.push = on()?,
            "push-by-digest" if kind == Kind::Image => self.by_digest = on()?,
            "store" if kind == Kind::Image => self.unstored = !on()?,
            // An image can be mounted at once, and a digest leads to it.
            "unpack" | "name-canonical" if kind == Kind::Image => drop(on()?),
            "oci-artifact" => self.artifact = Some(on()?),
            "attestation-inline" => self.inline = on()?,
            "registry.insecure" if kind == Kind::Image => {
                if on()? {
                    let advice = "name the registry in certs.d or the configuration";
                    return Err(format!("`registry.insecure=true` is not supported: {advice}"));
                }
            }
            "prefer-nondist-layers" => {
                if !on()? {
                    let reason = "a layer that others serve keeps its media type";
                    return Err(format!(
                        "`prefer-nondist-layers=false` is not supported: {reason}"
                    ));
                }
            }
            "dangling-name-prefix" | "danging-name-empty-only" => {
                let reason = "an image without a name is kept, and found by its id";
                return Err(format!("`{key}` is not supported: {reason}"));
            }
            "compatibility-version" => {
                let reason = "the bytes of layers are davit's own in any case";
                return Err(format!("`{key}` is not supported: {reason}"));
            }
            "oci-mediatypes" => {
                self.types = if on()? { MediaTypes::Oci } else { MediaTypes::Docker };
            }
            "compression" => self.compression = Some(compression(value)?),
            "compression-level" => {
                let level = value.parse().ok().filter(|level| *level <= 22);
                let wrong = || format!("`{value}` is no level of compression: 0 to 22");
                self.level = Some(level.ok_or_else(wrong)?);
            }
            "force-compression" => self.force_compression = on()?,
            "rewrite-timestamp" => self.rewrite_timestamp = on()?,
            _ => match annotation::of_key(key, value)? {
                Some(found) => self.annotations.push(found),
                None => return Ok(false),
            },
        }
        Ok(true)
    }

    /// Refuses keys that do not fit together.
    pub(super) fn check(&self) -> Result<(), String> {
        let gzip = !matches!(self.compression, Some((Compression::Zstd, _)));
        match self.level {
            Some(level) if gzip && level > 9 => {
                Err(format!("`compression-level={level}` is none of gzip and estargz: 0 to 9"))
            }
            _ if self.types == MediaTypes::Docker
                && self.attestations() != AttestationPlace::Referrers =>
            {
                Err("attestations in an index need oci-mediatypes=true".to_owned())
            }
            _ if self.by_digest && !self.push => Err("`push-by-digest` needs push=true".to_owned()),
            _ if self.unstored && !self.push => {
                Err("`store=false` without push=true leaves nothing; cacheonly does so".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Where attestations are; in the older form they cannot refer to an image.
    const fn attestations(&self) -> AttestationPlace {
        match (self.inline, self.artifact) {
            (_, Some(false)) => AttestationPlace::PlainIndex,
            (true, _) => AttestationPlace::Index,
            (false, _) => AttestationPlace::Referrers,
        }
    }

    /// Gives attestations the older form, where these media types have them and no key tells more.
    pub(super) fn without_artifact(&mut self) {
        if self.types == MediaTypes::Oci {
            self.artifact.get_or_insert(false);
        }
    }

    pub(super) const fn is_pushed(&self) -> bool {
        self.push
    }

    pub(super) fn push(&mut self) {
        self.push = true;
    }

    pub(super) fn form(&self, more: &[Annotation]) -> ImageForm {
        let annotations = more.iter().chain(&self.annotations).cloned().collect();
        let asked = self.compression.is_some() || self.level.is_some() || self.force_compression;
        let (format, access) = self.compression.unwrap_or((Compression::Gzip, BlobAccess::Whole));
        let compression = asked.then_some(LayerCompression {
            format,
            access,
            level: self.level,
            scope: match self.force_compression {
                true => CompressionScope::All,
                false => CompressionScope::New,
            },
        });
        let attestations = self.attestations();
        let types = self.types;
        ImageForm { annotations, types, compression, attestations, ..ImageForm::default() }
    }

    pub(super) const fn place(&self) -> ImagePlace {
        let name = if self.by_digest { RemoteName::Digest } else { RemoteName::Tag };
        match (self.push, self.unstored) {
            (false, _) => ImagePlace::Store,
            (true, false) => ImagePlace::StoreAndRegistry(name),
            (true, true) => ImagePlace::Registry(name),
        }
    }
}

fn compression(value: &str) -> Result<(Compression, BlobAccess), String> {
    match value {
        "uncompressed" => Ok((Compression::None, BlobAccess::Whole)),
        "gzip" => Ok((Compression::Gzip, BlobAccess::Whole)),
        "estargz" => Ok((Compression::Gzip, BlobAccess::Files)),
        "zstd" => Ok((Compression::Zstd, BlobAccess::Whole)),
        _ => Err(format!("compression `{value}` is none of uncompressed, gzip, estargz, zstd")),
    }
}
