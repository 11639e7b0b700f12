//! Media types of the OCI and Docker image formats.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};

/// A media type as received; the image formats' own are associated constants.
///
/// Any text is one. RFC 6838 has a grammar, but registries hold documents that break it (empty
/// types, types with parameters), image-spec `manifest.md` forbids to fail at a type that is not
/// known, and what is passed on must keep its digest. So a type is kept to the letter and means
/// something only where it equals a known one, letter case included.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MediaType(Cow<'static, str>);

/// How a layer blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compression {
    /// A plain tar.
    None,
    /// RFC 1952, any number of members.
    Gzip,
    /// RFC 8878, any number of frames.
    Zstd,
}

macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        impl MediaType {
            $($(#[$doc])* pub const $name: Self = Self(Cow::Borrowed($text));)*
        }
    };
}

constants! {
    /// OCI image manifest.
    OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    OCI_INDEX = "application/vnd.oci.image.index.v1+json";
    /// OCI image config.
    OCI_CONFIG = "application/vnd.oci.image.config.v1+json";
    /// OCI layer, plain tar.
    OCI_LAYER = "application/vnd.oci.image.layer.v1.tar";
    /// OCI layer, gzip.
    OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI layer, zstd.
    OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// OCI layer that must not be pushed, plain tar.
    OCI_NONDISTRIBUTABLE = "application/vnd.oci.image.layer.nondistributable.v1.tar";
    /// OCI layer that must not be pushed, gzip.
    OCI_NONDISTRIBUTABLE_GZIP = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    /// OCI layer that must not be pushed, zstd.
    OCI_NONDISTRIBUTABLE_ZSTD = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd";
    /// OCI empty descriptor content (`{}`).
    OCI_EMPTY = "application/vnd.oci.empty.v1+json";
    /// Docker manifest, schema 2.
    DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image config.
    DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json";
    /// Docker layer, plain tar.
    DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker layer, gzip.
    DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker layer, zstd, as Docker and containerd write it.
    DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd";
    /// Docker layer that is fetched from its `urls`.
    DOCKER_FOREIGN_LAYER_GZIP = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    /// Docker manifest, schema 1, which davit refuses.
    DOCKER_MANIFEST_V1 = "application/vnd.docker.distribution.manifest.v1+json";
    /// Docker manifest, schema 1, signed, which davit refuses.
    DOCKER_MANIFEST_V1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws";
}

impl MediaType {
    /// Wraps a media type as received.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Cow::Owned(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Tells an image manifest of either format.
    #[must_use]
    pub fn is_manifest(&self) -> bool {
        [Self::OCI_MANIFEST, Self::DOCKER_MANIFEST].contains(self)
    }

    /// Tells an index or manifest list.
    #[must_use]
    pub fn is_index(&self) -> bool {
        [Self::OCI_INDEX, Self::DOCKER_INDEX].contains(self)
    }

    /// Tells Docker's schema 1, signed or not.
    #[must_use]
    pub fn is_schema1(&self) -> bool {
        [Self::DOCKER_MANIFEST_V1, Self::DOCKER_MANIFEST_V1_SIGNED].contains(self)
    }

    /// Tells an image config of either format.
    #[must_use]
    pub fn is_config(&self) -> bool {
        [Self::OCI_CONFIG, Self::DOCKER_CONFIG].contains(self)
    }

    /// Tells a layer that registries do not serve to everyone.
    #[must_use]
    pub fn is_nondistributable(&self) -> bool {
        self.as_str().contains(".nondistributable.") || self.as_str().contains(".foreign.")
    }

    /// The compression that a layer's media type names; `None` where it is no layer.
    #[must_use]
    pub fn layer_compression(&self) -> Option<Compression> {
        let text = self.as_str();
        let docker = text.strip_prefix("application/vnd.docker.image.rootfs.");
        let suffix = match docker {
            Some(rest) => rest.strip_prefix("foreign.").unwrap_or(rest).strip_prefix("diff.tar")?,
            None => text
                .strip_prefix("application/vnd.oci.image.layer.")
                .map(|rest| rest.strip_prefix("nondistributable.").unwrap_or(rest))?
                .strip_prefix("v1.tar")?,
        };
        match suffix {
            "" => Some(Compression::None),
            "+gzip" | ".gzip" => Some(Compression::Gzip),
            "+zstd" | ".zstd" => Some(Compression::Zstd),
            _ => None,
        }
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strategies::{check_json, check_refused, media_type};

    #[test]
    fn names_the_compression_of_layers() {
        let cases = [
            (MediaType::OCI_LAYER, Some(Compression::None)),
            (MediaType::OCI_LAYER_GZIP, Some(Compression::Gzip)),
            (MediaType::OCI_LAYER_ZSTD, Some(Compression::Zstd)),
            (MediaType::OCI_NONDISTRIBUTABLE, Some(Compression::None)),
            (MediaType::OCI_NONDISTRIBUTABLE_ZSTD, Some(Compression::Zstd)),
            (MediaType::DOCKER_LAYER, Some(Compression::None)),
            (MediaType::DOCKER_LAYER_GZIP, Some(Compression::Gzip)),
            (MediaType::DOCKER_LAYER_ZSTD, Some(Compression::Zstd)),
            (MediaType::DOCKER_FOREIGN_LAYER_GZIP, Some(Compression::Gzip)),
            (MediaType::OCI_CONFIG, None),
            (MediaType::new("application/vnd.oci.image.layer.v1.tar+encrypted"), None),
            (MediaType::new(""), None),
        ];
        for (media_type, expected) in cases {
            assert_eq!(media_type.layer_compression(), expected, "{media_type}");
        }
    }

    #[test]
    fn sorts_documents() {
        assert!(MediaType::DOCKER_INDEX.is_index() && !MediaType::DOCKER_INDEX.is_manifest());
        assert!(MediaType::OCI_MANIFEST.is_manifest() && !MediaType::OCI_MANIFEST.is_index());
        assert!(MediaType::DOCKER_MANIFEST_V1_SIGNED.is_schema1());
        assert!(MediaType::DOCKER_FOREIGN_LAYER_GZIP.is_nondistributable());
        assert!(!MediaType::DOCKER_LAYER_GZIP.is_nondistributable());
    }

    #[test]
    fn keeps_odd_texts_and_takes_them_for_nothing_known() {
        let cases = [
            "",
            " ",
            "/",
            "tar",
            "application/",
            "text/html; charset=utf-8",
            "application/json",
            "application/vnd.cncf.helm.config.v1+json",
            "application/vnd.in-toto+json",
            "application/vnd.oci.image.manifest.v2+json",
            "application/vnd.oci.image.manifest.v1+json ",
            "application/vnd.oci.image.manifest.v1+json; charset=utf-8",
            "APPLICATION/VND.OCI.IMAGE.INDEX.V1+JSON",
            "application/vnd.docker.distribution.manifest.v1",
            "application/vnd.oci.image.layer.v1.tar+",
            "application/vnd.oci.image.layer.v1.tar+GZIP",
            "application/vnd.docker.image.rootfs.diff.tarball",
            "line\nbreak\0",
            "é\u{202e}",
        ];
        for text in cases {
            let odd = MediaType::new(text);
            assert_eq!((odd.as_str(), odd.to_string().as_str()), (text, text));
            check_json(&odd);
            let known = [odd.is_manifest(), odd.is_index(), odd.is_schema1(), odd.is_config()];
            assert_eq!(known, [false; 4], "{text}");
            assert!(!odd.is_nondistributable(), "{text}");
            assert_eq!(odd.layer_compression(), None, "{text}");
        }
        check_refused::<MediaType>(&["null", "1", "[]", "{}", r#"["a/b"]"#]);
    }

    proptest! {
        #[test]
        fn round_trips(media_type in media_type()) {
            check_json(&media_type);
            prop_assert_eq!(MediaType::new(media_type.to_string()), media_type);
        }
    }
}
