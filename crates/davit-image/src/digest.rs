//! Content digests: `algorithm:encoded` (image-spec `descriptor.md` § Digests).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, digest::common::hazmat::SerializableState as _};

/// A registered digest algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl Algorithm {
    /// Length of the digest in bytes.
    #[must_use]
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// The identifier before the colon.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(DigestError::UnsupportedAlgorithm(text.chars().take(64).collect())),
        }
    }
}

/// The digest of some content: an algorithm and its bytes, inline and `Copy`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    /// Zero beyond the algorithm's size.
    bytes: [u8; 64],
}

/// Why a text is no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no colon.
    #[error("digest has no `algorithm:` prefix")]
    MissingAlgorithm,
    /// The algorithm is not one that davit can verify.
    #[error("digest algorithm `{0}` is not supported (sha256 and sha512 are)")]
    UnsupportedAlgorithm(String),
    /// The encoded part has the wrong length.
    #[error("{algorithm} digest needs {expected} hex digits, got {actual}")]
    Length {
        /// Algorithm named by the prefix.
        algorithm: Algorithm,
        /// Digits that it needs.
        expected: usize,
        /// Digits found.
        actual: usize,
    },
    /// The encoded part holds something else than `0-9a-f`.
    #[error("digest holds a character that is no lower-case hex digit")]
    Character,
}

impl Digest {
    /// Digests `content` with SHA-256.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self::from_sha256(sha2::Sha256::digest(content).into())
    }

    /// Digests `content` with `algorithm`.
    #[must_use]
    pub fn of_with(algorithm: Algorithm, content: &[u8]) -> Self {
        let mut digester = Digester::new(algorithm);
        digester.update(content);
        digester.finish()
    }

    /// Wraps finished SHA-256 bytes.
    #[must_use]
    pub fn from_sha256(sha256: [u8; 32]) -> Self {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&sha256);
        Self { algorithm: Algorithm::Sha256, bytes }
    }

    /// Wraps finished SHA-512 bytes.
    #[must_use]
    pub const fn from_sha512(bytes: [u8; 64]) -> Self {
        Self { algorithm: Algorithm::Sha512, bytes }
    }

    /// Parses a literal.
    ///
    /// # Panics
    /// If the literal is no digest.
    #[must_use]
    pub fn from_static(text: &'static str) -> Self {
        text.parse().expect("a digest literal is well-formed")
    }

    /// The algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw bytes, as many as the algorithm yields.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.size_bytes()]
    }

    /// The encoded part: lower-case hex.
    #[must_use]
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = String::with_capacity(2 * self.bytes().len());
        for byte in self.bytes() {
            hex.push(char::from(DIGITS[usize::from(byte >> 4)]));
            hex.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        hex
    }

    /// The first twelve hex digits, as lists show an id.
    #[must_use]
    pub fn short_hex(&self) -> String {
        let mut hex = self.hex();
        hex.truncate(12);
        hex
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::MissingAlgorithm)?;
        let algorithm: Algorithm = algorithm.parse()?;
        let expected = 2 * algorithm.size_bytes();
        if hex.len() != expected {
            return Err(DigestError::Length { algorithm, expected, actual: hex.len() });
        }
        let mut bytes = [0; 64];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = hex_value(pair[0])? << 4 | hex_value(pair[1])?;
        }
        Ok(Self { algorithm, bytes })
    }
}

fn hex_value(digit: u8) -> Result<u8, DigestError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(DigestError::Character),
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Digests a stream piece by piece.
#[derive(Clone, Debug)]
pub struct Digester(State);

#[derive(Clone, Debug)]
enum State {
    Sha256(sha2::Sha256),
    Sha512(Box<sha2::Sha512>),
}

impl Digester {
    /// Starts an empty digest.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Box::new(sha2::Sha512::new())),
        })
    }

    /// Appends bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The state so far, from which [`Digester::resume`] goes on; the bytes of sha2 0.11.
    #[must_use]
    pub fn state(&self) -> Vec<u8> {
        match &self.0 {
            State::Sha256(state) => state.serialize().to_vec(),
            State::Sha512(state) => state.serialize().to_vec(),
        }
    }

    /// Goes on from a [`Digester::state`]; `None` when these are not the bytes of one.
    #[must_use]
    pub fn resume(algorithm: Algorithm, state: &[u8]) -> Option<Self> {
        Some(Self(match algorithm {
            Algorithm::Sha256 => {
                State::Sha256(sha2::Sha256::deserialize(state.try_into().ok()?).ok()?)
            }
            Algorithm::Sha512 => {
                State::Sha512(Box::new(sha2::Sha512::deserialize(state.try_into().ok()?).ok()?))
            }
        }))
    }

    /// Ends the stream.
    #[must_use]
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(state) => Digest::from_sha256(state.finalize().into()),
            State::Sha512(state) => Digest::from_sha512(state.finalize().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strategies;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digests_known_content() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        let long = Digest::of_with(Algorithm::Sha512, b"abc");
        assert!(long.to_string().starts_with("sha512:ddaf35a193617aba"));
        assert_eq!(long.bytes().len(), 64);
        assert_eq!(Digest::of(b"").short_hex(), "e3b0c44298fc");
    }

    #[test]
    fn refuses_bad_texts() {
        let length =
            |algorithm, expected, actual| DigestError::Length { algorithm, expected, actual };
        let cases = [
            ("", DigestError::MissingAlgorithm),
            ("sha256", DigestError::MissingAlgorithm),
            ("sha256:", length(Algorithm::Sha256, 64, 0)),
            ("sha256:abc", length(Algorithm::Sha256, 64, 3)),
            (":abc", DigestError::UnsupportedAlgorithm(String::new())),
            (
                "md5:d41d8cd98f00b204e9800998ecf8427e",
                DigestError::UnsupportedAlgorithm("md5".into()),
            ),
            ("SHA256:e3b0", DigestError::UnsupportedAlgorithm("SHA256".into())),
            (&EMPTY.to_uppercase().replacen("SHA", "sha", 1), DigestError::Character),
            (&EMPTY.replace("e3", "é"), DigestError::Character),
            (&EMPTY.replace("e3", "/."), DigestError::Character),
            (&EMPTY.replacen("sha256", "sha512", 1), length(Algorithm::Sha512, 128, 64)),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Digest>(), Err(expected), "{text}");
        }
        strategies::check_refused::<Digest>(&["null", "1", "[]", "{}", "\"sha256\"", "\"\""]);
        for text in ["", "sha", "SHA256", "sha384", "sha256 ", "md5"] {
            assert!(text.parse::<Algorithm>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn round_trips(digest in strategies::digest()) {
            strategies::check_text(&digest);
            strategies::check_text(&digest.algorithm());
            strategies::check_json(&digest);
        }

        #[test]
        fn pieces_equal_whole(parts: Vec<Vec<u8>>) {
            let mut digester = Digester::new(Algorithm::Sha256);
            parts.iter().for_each(|part| digester.update(part));
            prop_assert_eq!(digester.finish(), Digest::of(&parts.concat()));
        }

        #[test]
        fn resumed_equals_whole(before: Vec<u8>, after: Vec<u8>) {
            for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
                let mut digester = Digester::new(algorithm);
                digester.update(&before);
                let mut resumed = Digester::resume(algorithm, &digester.state()).unwrap();
                resumed.update(&after);
                let whole = [before.clone(), after.clone()].concat();
                prop_assert_eq!(resumed.finish(), Digest::of_with(algorithm, &whole));
                prop_assert!(Digester::resume(algorithm, &before).is_none() || before.len() > 99);
            }
        }

        #[test]
        fn never_panics(text: String) {
            let _ignored: Result<Digest, _> = text.parse();
        }
    }
}
