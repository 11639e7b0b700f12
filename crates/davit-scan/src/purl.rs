//! Package URLs (`pkg:TYPE/NAMESPACE/NAME@VERSION?QUALIFIERS`).

use std::fmt::Write as _;

use davit_image::{Platform, Reference};

use crate::{Distro, Package, PackageKind};

/// Percent-encodes what may stand nowhere in a package URL as it is.
#[must_use]
pub fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' | b':' => {
                encoded.push(char::from(byte));
            }
            _ => {
                // Writing to a string cannot fail.
                let _written = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

/// The package URL of an image: `pkg:docker/NAME@TAG?platform=...`; `digest` is that of the index or
/// manifest which was named.
#[must_use]
pub fn image_purl(kind: &str, name: &Reference, platform: Option<&Platform>) -> String {
    let repository = name.repository().familiar();
    let path: Vec<String> = repository.split('/').map(encoded).collect();
    let mut purl = format!("pkg:{kind}/{}", path.join("/"));
    if let Some(tag) = name.tag() {
        let _written = write!(purl, "@{}", encoded(tag.as_str()));
    }
    let digest = name.digest().map(|digest| format!("digest={}", encoded(&digest.to_string())));
    // As other builders write it: the slash is no part of a value.
    let platform = platform.map(|it| format!("platform={}", encoded(&it.to_string())));
    let qualifiers: Vec<String> = digest.into_iter().chain(platform).collect();
    if !qualifiers.is_empty() {
        let _written = write!(purl, "?{}", qualifiers.join("&"));
    }
    purl
}

impl Package {
    /// Its package URL; `distro` is that of the file system.
    #[must_use]
    pub fn purl(&self, distro: Option<&Distro>) -> String {
        let fallback = match self.kind {
            PackageKind::Deb => "debian",
            PackageKind::Apk => "alpine",
        };
        let namespace = distro.map_or(fallback, |distro| distro.id.as_str());
        let (name, version) = (encoded(&self.name), encoded(&self.version));
        let mut purl =
            format!("pkg:{}/{}/{name}@{version}", self.kind.purl_type(), encoded(namespace));
        let mut qualifiers = Vec::new();
        if !self.architecture.is_empty() {
            qualifiers.push(format!("arch={}", encoded(&self.architecture)));
        }
        qualifiers.extend(distro.map(|it| format!("distro={}", encoded(&it.qualifier()))));
        qualifiers.extend(self.source.as_ref().map(|(name, version)| {
            let version = if version.is_empty() { String::new() } else { format!("@{version}") };
            format!("upstream={}", encoded(&format!("{name}{version}")))
        }));
        if !qualifiers.is_empty() {
            let _written = write!(purl, "?{}", qualifiers.join("&"));
        }
        purl
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_have_urls() {
        let package = Package {
            name: "libstdc++6".to_owned(),
            version: "1:12.2.0-14+deb12u1".to_owned(),
            architecture: "amd64".to_owned(),
            source: Some(("gcc-12".to_owned(), "12.2.0-14".to_owned())),
            ..Package::default()
        };
        let distro =
            Distro { id: "debian".to_owned(), version: "12".to_owned(), ..Distro::default() };
        assert_eq!(
            package.purl(Some(&distro)),
            "pkg:deb/debian/libstdc%2B%2B6@1:12.2.0-14%2Bdeb12u1\
             ?arch=amd64&distro=debian-12&upstream=gcc-12%4012.2.0-14"
        );
        let bare = Package { name: "a".into(), version: "1".into(), ..Package::default() };
        assert_eq!(bare.purl(None), "pkg:deb/debian/a@1");
    }

    #[test]
    fn images_have_urls() {
        let platform: Platform = "linux/arm64".parse().unwrap();
        for (name, expected) in [
            ("foo:1", "pkg:docker/foo@1?platform=linux%2Farm64"),
            ("h:5000/a/b:x", "pkg:docker/h:5000/a/b@x?platform=linux%2Farm64"),
        ] {
            let name: Reference = name.parse().unwrap();
            assert_eq!(image_purl("docker", &name, Some(&platform)), expected);
        }
        let digest = format!("foo@sha256:{}", "0".repeat(64)).parse().unwrap();
        let expected = format!("pkg:docker/foo?digest=sha256:{}", "0".repeat(64));
        assert_eq!(image_purl("docker", &digest, None), expected);
    }
}
