//! Identities derived from digests: DiffID, ChainID and image ID (image-spec `config.md`).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Digest, DigestError};

macro_rules! digest_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Digest);

        impl $name {
            /// Wraps the digest that is this identity.
            #[must_use]
            pub const fn new(digest: Digest) -> Self {
                Self(digest)
            }

            /// The digest that is this identity.
            #[must_use]
            pub const fn digest(&self) -> Digest {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            fn from_str(text: &str) -> Result<Self, DigestError> {
                text.parse().map(Self)
            }
        }
    };
}

digest_newtype! {
    /// Digest of a layer's uncompressed tar (image-spec `config.md` § Layer DiffID).
    DiffId
}
digest_newtype! {
    /// Digest of a stack of layers (image-spec `config.md` § Layer ChainID).
    ChainId
}
digest_newtype! {
    /// Digest of an image's config JSON (image-spec `config.md` § ImageID).
    ImageId
}

impl ChainId {
    /// Computes the ChainID of `layers`, bottom first; `None` for no layer.
    #[must_use]
    pub fn of(layers: &[DiffId]) -> Option<Self> {
        let (first, rest) = layers.split_first()?;
        Some(rest.iter().fold(Self(first.digest()), |chain, layer| chain.push(*layer)))
    }

    /// Computes the ChainID of this stack with one more layer on top.
    #[must_use]
    pub fn push(self, layer: DiffId) -> Self {
        Self(Digest::of(format!("{self} {layer}").as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strategies::{check_json, check_refused, check_text, digest};

    fn diff_id(content: &str) -> DiffId {
        DiffId::new(Digest::of(content.as_bytes()))
    }

    #[test]
    fn chain_follows_the_specification() {
        let (a, b, c) = (diff_id("a"), diff_id("b"), diff_id("c"));
        assert_eq!(ChainId::of(&[]), None);
        assert_eq!(ChainId::of(&[a]), Some(ChainId::new(a.digest())));
        let ab = Digest::of(format!("{a} {b}").as_bytes());
        assert_eq!(ChainId::of(&[a, b]), Some(ChainId::new(ab)));
        let abc = Digest::of(format!("{ab} {c}").as_bytes());
        assert_eq!(ChainId::of(&[a, b, c]), Some(ChainId::new(abc)));
        assert_ne!(ChainId::of(&[b, a]), ChainId::of(&[a, b]));
    }

    #[test]
    fn refuses_what_is_no_digest() {
        const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let bad = [
            String::new(),
            HEX.to_owned(),
            HEX[..12].to_owned(),
            format!("sha256:{}", &HEX[1..]),
            format!("sha256:{HEX}0"),
            format!("sha256:{}", HEX.to_uppercase()),
            format!("sha256-{HEX}"),
            format!(" sha256:{HEX}"),
            format!("sha256:{HEX}\n"),
            format!("md5:{HEX}"),
            format!("sha512:{HEX}"),
        ];
        for text in &bad {
            let expected = text.parse::<Digest>().expect_err(text);
            assert_eq!(text.parse::<DiffId>(), Err(expected.clone()), "{text}");
            assert_eq!(text.parse::<ChainId>(), Err(expected.clone()), "{text}");
            assert_eq!(text.parse::<ImageId>(), Err(expected), "{text}");
        }
        let mut json: Vec<String> = bad.iter().map(|text| format!("{text:?}")).collect();
        json.extend(["null", "1", "[]", "{}"].map(str::to_owned));
        let json: Vec<&str> = json.iter().map(String::as_str).collect();
        check_refused::<DiffId>(&json);
        check_refused::<ChainId>(&json);
        check_refused::<ImageId>(&json);
    }

    proptest! {
        #[test]
        fn round_trips(digest in digest()) {
            check_text(&DiffId::new(digest));
            check_text(&ChainId::new(digest));
            check_text(&ImageId::new(digest));
            check_json(&DiffId::new(digest));
            check_json(&ChainId::new(digest));
            check_json(&ImageId::new(digest));
            // An identity is written as the digest that it is.
            prop_assert_eq!(DiffId::new(digest).to_string(), digest.to_string());
            prop_assert_eq!(DiffId::new(digest).digest(), digest);
        }
    }
}
