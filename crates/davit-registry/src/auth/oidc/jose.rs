//! Signed tokens of other issuers (RFC 7515, RFC 7517, RFC 7518): keys, and signatures by them.
//!
//! The issuer's key set says what a key is for; of a token's header only `alg` and `kid` are read, and
//! `alg` must be one of the key's own kind. There is no `none` and no shared secret.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Longest token that is read.
const LONGEST: usize = 64 << 10;
/// Keys of one issuer that are looked at.
const MOST_KEYS: usize = 64;
/// Bytes of an RSA modulus; ring takes 2048 bits at least.
const LONGEST_MODULUS: usize = 1024;

/// Why a token of an issuer is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JoseError {
    /// It is no signed token by its form.
    Malformed,
    /// It names an algorithm that is not taken.
    Algorithm,
    /// No key of the issuer has its id and kind.
    UnknownKey,
    /// The signature is of none of the keys.
    Signature,
}

/// A key of an issuer.
#[derive(Clone, Debug)]
pub(super) struct Key {
    id: Option<String>,
    /// The one algorithm that it is for, where the issuer says so.
    algorithm: Option<String>,
    public: Public,
}

#[derive(Clone, Debug)]
enum Public {
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    /// Extensions that must be understood: none is.
    #[serde(default)]
    crit: Option<Value>,
}

/// The keys of a set that verify signatures; those of kinds that are not known are passed over.
pub(super) fn keys(set: &[u8]) -> Option<Vec<Key>> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Map<String, Value>>,
    }
    let set: Set = serde_json::from_slice(set).ok()?;
    Some(set.keys.iter().take(MOST_KEYS).filter_map(Key::read).collect())
}

impl Key {
    fn read(key: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let bytes = |name: &str| BASE64.decode(text(name)?).ok();
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let point = |size: usize| {
            let (x, y) = (bytes("x")?, bytes("y")?);
            let is_whole = x.len() == size && y.len() == size;
            is_whole.then(|| [&[4][..], &x, &y].concat())
        };
        let public = match (text("kty")?, text("crv")) {
            ("RSA", _) => {
                let (modulus, exponent) = (bytes("n")?, bytes("e")?);
                if modulus.len() > LONGEST_MODULUS {
                    return None;
                }
                Public::Rsa { modulus, exponent }
            }
            ("EC", Some("P-256")) => Public::P256(point(32)?),
            ("EC", Some("P-384")) => Public::P384(point(48)?),
            ("OKP", Some("Ed25519")) => Public::Ed25519(bytes("x")?),
            _ => return None,
        };
        let owned = |name| text(name).map(str::to_owned);
        Some(Self { id: owned("kid"), algorithm: owned("alg"), public })
    }

    /// Tells whether it may have signed by this algorithm.
    fn takes(&self, algorithm: &str) -> bool {
        let is_kind = match self.public {
            Public::Rsa { .. } => ["RS256", "RS384", "RS512", "PS256"].contains(&algorithm),
            Public::P256(_) => algorithm == "ES256",
            Public::P384(_) => algorithm == "ES384",
            Public::Ed25519(_) => ["EdDSA", "Ed25519"].contains(&algorithm),
        };
        is_kind && self.algorithm.as_deref().is_none_or(|own| own == algorithm)
    }

    fn verify(&self, algorithm: &str, message: &[u8], given: &[u8]) -> bool {
        let rsa = |parameters, modulus: &[u8], exponent: &[u8]| {
            let key = RsaPublicKeyComponents { n: modulus, e: exponent };
            key.verify(parameters, message, given).is_ok()
        };
        match &self.public {
            Public::Rsa { modulus, exponent } => {
                let parameters = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                    _ => return false,
                };
                rsa(parameters, modulus, exponent)
            }
            Public::P256(point) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                    .verify(message, given)
                    .is_ok()
            }
            Public::P384(point) => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point)
                    .verify(message, given)
                    .is_ok()
            }
            Public::Ed25519(bytes) => {
                UnparsedPublicKey::new(&signature::ED25519, bytes).verify(message, given).is_ok()
            }
        }
    }
}

/// The claims of a token, not believed yet: only to know whom to ask for keys.
pub(super) fn peek(token: &str) -> Result<Map<String, Value>, JoseError> {
    Parts::of(token)?.claims()
}

/// The claims of a token that one of these keys signed.
pub(super) fn verify(token: &str, keys: &[Key]) -> Result<Map<String, Value>, JoseError> {
    let parts = Parts::of(token)?;
    let header: Header =
        serde_json::from_slice(&decode(parts.header)?).map_err(|_error| JoseError::Malformed)?;
    if header.crit.is_some() {
        return Err(JoseError::Malformed);
    }
    const KNOWN: [&str; 8] =
        ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA", "Ed25519"];
    if !KNOWN.contains(&header.alg.as_str()) {
        return Err(JoseError::Algorithm);
    }
    let is_named = |key: &&Key| header.kid.is_none() || key.id == header.kid;
    let mut fitting = keys.iter().filter(is_named).filter(|key| key.takes(&header.alg)).peekable();
    if fitting.peek().is_none() {
        return Err(JoseError::UnknownKey);
    }
    let signature = decode(parts.signature)?;
    let message = parts.message.as_bytes();
    if !fitting.any(|key| key.verify(&header.alg, message, &signature)) {
        return Err(JoseError::Signature);
    }
    parts.claims()
}

struct Parts<'t> {
    header: &'t str,
    claims: &'t str,
    message: &'t str,
    signature: &'t str,
}

impl<'t> Parts<'t> {
    fn of(token: &'t str) -> Result<Self, JoseError> {
        if token.len() > LONGEST {
            return Err(JoseError::Malformed);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(JoseError::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(JoseError::Malformed)?;
        Ok(Self { header, claims, message, signature })
    }

    fn claims(&self) -> Result<Map<String, Value>, JoseError> {
        serde_json::from_slice(&decode(self.claims)?).map_err(|_error| JoseError::Malformed)
    }
}

fn decode(part: &str) -> Result<Vec<u8>, JoseError> {
    BASE64.decode(part).map_err(|_error| JoseError::Malformed)
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
    };
    use serde_json::json;

    use super::*;

    fn token(header: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
        let encode = |value: &Value| BASE64.encode(value.to_string());
        let message = format!("{}.{}", encode(header), encode(&json!({ "sub": "alice" })));
        let signature = BASE64.encode(sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    fn outcome(token: &str, set: &Value) -> Result<String, JoseError> {
        let keys = keys(set.to_string().as_bytes()).unwrap();
        verify(token, &keys).map(|claims| claims["sub"].as_str().unwrap().to_owned())
    }

    #[test]
    fn signatures_are_of_the_keys_own_kind() {
        let random = SystemRandom::new();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let ed = Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let ec = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let ec = EcdsaKeyPair::from_pkcs8(algorithm, ec.as_ref(), &random).unwrap();
        let point = ec.public_key().as_ref();
        let encode = |bytes: &[u8]| BASE64.encode(bytes);
        let ed_jwk = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "e", "x": encode(ed.public_key().as_ref()) });
        let ec_jwk = json!({
            "kty": "EC", "crv": "P-256", "kid": "p", "alg": "ES256", "use": "sig",
            "x": encode(&point[1..33]), "y": encode(&point[33..]),
        });
        let both =
            json!({ "keys": [ed_jwk, ec_jwk, { "kty": "oct", "k": "AAAA" }, { "kty": "new" }] });
        let by_ed = |message: &[u8]| ed.sign(message).as_ref().to_vec();
        let by_ec = |message: &[u8]| ec.sign(&random, message).unwrap().as_ref().to_vec();
        let alice = Ok("alice".to_owned());
        assert_eq!(outcome(&token(&json!({ "alg": "EdDSA", "kid": "e" }), by_ed), &both), alice);
        assert_eq!(outcome(&token(&json!({ "alg": "ES256", "kid": "p" }), by_ec), &both), alice);
        assert_eq!(outcome(&token(&json!({ "alg": "ES256" }), by_ec), &both), alice, "only one");
        let other = json!({ "keys": [] });
        let cases = [
            (json!({ "alg": "EdDSA", "kid": "p" }), JoseError::UnknownKey),
            (json!({ "alg": "ES256", "kid": "e" }), JoseError::UnknownKey),
            (json!({ "alg": "EdDSA", "kid": "x" }), JoseError::UnknownKey),
            (json!({ "alg": "none", "kid": "e" }), JoseError::Algorithm),
            (json!({ "alg": "HS256", "kid": "e" }), JoseError::Algorithm),
            (json!({ "alg": "ES256K", "kid": "p" }), JoseError::Algorithm),
            (json!({ "alg": "EdDSA", "kid": "e", "crit": ["b64"] }), JoseError::Malformed),
            (json!({ "kid": "e" }), JoseError::Malformed),
            // What the header brings along is no key.
            (json!({ "alg": "EdDSA", "kid": "x", "jwk": both["keys"][0] }), JoseError::UnknownKey),
        ];
        for (header, expected) in cases {
            assert_eq!(outcome(&token(&header, by_ed), &both), Err(expected), "{header}");
        }
        let good = token(&json!({ "alg": "EdDSA", "kid": "e" }), by_ed);
        assert_eq!(outcome(&good, &other), Err(JoseError::UnknownKey));
        let forged = token(&json!({ "alg": "EdDSA", "kid": "e" }), |_| vec![0; 64]);
        assert_eq!(outcome(&forged, &both), Err(JoseError::Signature));
        for text in ["", ".", "..", "a.b.c", &"x".repeat(LONGEST + 1)] {
            assert_eq!(outcome(text, &both), Err(JoseError::Malformed));
        }
    }

    #[test]
    fn keys_for_other_purposes_are_passed_over() {
        let set = json!({ "keys": [
            { "kty": "RSA", "n": "AQAB", "e": "AQAB", "use": "enc" },
            { "kty": "RSA", "n": "A".repeat(2000), "e": "AQAB" },
            { "kty": "EC", "crv": "P-256", "x": "AQAB", "y": "AQAB" },
            { "kty": "EC", "crv": "secp256k1", "x": "AQAB", "y": "AQAB" },
        ] });
        assert!(keys(set.to_string().as_bytes()).unwrap().is_empty());
        assert!(keys(b"[]").is_none());
    }
}
