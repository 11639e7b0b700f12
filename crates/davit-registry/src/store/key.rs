//! Names of stored objects.
//!
//! They are unique per upload, so that removing an old copy can never meet a new one of the same digest.
//! The UUID carries the time of its making, which lets a scan pass over what is young.

use std::{fmt, str::FromStr};

use davit_image::Digest;
use uuid::Uuid;

/// Name of one stored object: `blobs/sha256/3f/3fa1….UUID`, or `blobs/any/1b/UUID` where the name was
/// needed before the digest was known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    digest: Option<Digest>,
    upload: Uuid,
}

/// The text is no [`Key`].
#[derive(Debug, thiserror::Error)]
#[error("malformed name of a stored object: `{0}`")]
pub struct KeyError(String);

impl Key {
    /// A new name for bytes of this digest.
    pub(super) fn of(digest: Digest) -> Self {
        Self { digest: Some(digest), upload: Uuid::now_v7() }
    }

    /// A new name for bytes whose digest is not known yet.
    pub(super) fn unnamed() -> Self {
        Self { digest: None, upload: Uuid::now_v7() }
    }

    /// When it was made, in milliseconds since 1970 of the machine that made it.
    #[must_use]
    pub fn made_ms(&self) -> u64 {
        made_ms(&self.upload)
    }
}

/// The time in a UUID of version 7.
pub(super) fn made_ms(id: &Uuid) -> u64 {
    let (seconds, nanoseconds) = id.get_timestamp().map_or((0, 0), |time| time.to_unix());
    seconds * 1000 + u64::from(nanoseconds) / 1_000_000
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(digest) = &self.digest else {
            // The end of the UUID is random, its start is the time.
            let id = self.upload.to_string();
            return write!(f, "blobs/any/{}/{id}", &id[id.len() - 2..]);
        };
        let (algorithm, hex) = (digest.algorithm(), digest.hex());
        write!(f, "blobs/{algorithm}/{}/{hex}.{}", &hex[..2], self.upload)
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let fault = || KeyError(text.to_owned());
        let parts: Vec<&str> = text.split('/').collect();
        let ["blobs", algorithm, _, file] = parts[..] else { return Err(fault()) };
        let (digest, upload) = if algorithm == "any" {
            (None, file)
        } else {
            let (hex, upload) = file.split_once('.').ok_or_else(fault)?;
            let digest = format!("{algorithm}:{hex}").parse().map_err(|_error| fault())?;
            (Some(digest), upload)
        };
        let key = Self { digest, upload: upload.parse().map_err(|_error| fault())? };
        if key.to_string() == text { Ok(key) } else { Err(fault()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_and_hostile_ones_are_refused() {
        for key in [Key::of(Digest::of(b"a")), Key::unnamed()] {
            let text = key.to_string();
            assert_eq!(text.parse::<Key>().unwrap(), key);
            assert!(key.made_ms() > 1_700_000_000_000);
            for bad in [
                text.replace("blobs", ".."),
                text.replace('.', "/"),
                text.replace("/any/", "/sha256/"),
                text.to_uppercase(),
                format!("{text}/.."),
                format!("{text}0"),
                String::new(),
            ] {
                assert!(bad == text || bad.parse::<Key>().is_err(), "{bad}");
            }
        }
        let key = Key::of(Digest::of(b"a")).to_string();
        assert!(key.replace("/ca/", "/cb/").parse::<Key>().is_err());
    }
}
