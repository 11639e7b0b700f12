//! An agent in memory for private keys that the caller of a build names as files.
//!
//! It answers the two requests that a command may make: for the list of keys and for a signature.
//! Keys are read in OpenSSH's own form (`PROTOCOL.key`) and in those of PEM, not encrypted.

mod der;

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    rand::SystemRandom,
    rsa::{KeyPairComponents, PublicKeyComponents},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaEncoding,
        RsaKeyPair,
    },
};

use super::{FAILURE, REQUEST_IDENTITIES, SIGN_REQUEST};

const IDENTITIES_ANSWER: u8 = 12;
const SIGN_RESPONSE: u8 = 14;
/// Flag of a request: sign with SHA-256.
const RSA_SHA2_256: u32 = 2;
/// Flag of a request: sign with SHA-512.
const RSA_SHA2_512: u32 = 4;
const MAGIC: &[u8] = b"openssh-key-v1\0";
const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const OPENSSH: &str = "OPENSSH PRIVATE KEY";

/// Why a file holds no key that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is something else.
    #[error("it is no private key in a form of OpenSSH's")]
    Form,
    /// Nobody can be asked for the passphrase.
    #[error("the key has a passphrase")]
    Encrypted,
    /// A type that davit does not know.
    #[error("keys of this type are not supported")]
    Type,
    /// Its parts do not fit together.
    #[error("the key is damaged")]
    Damaged,
}

/// Private keys; nothing of them is shown.
pub struct Keys(Vec<Key>);

struct Key {
    /// Public key as the protocol has it.
    public: Vec<u8>,
    comment: Vec<u8>,
    secret: SecretKey,
}

enum SecretKey {
    Ed25519(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
    Ecdsa { name: &'static str, pair: EcdsaKeyPair },
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

impl Keys {
    /// Reads the contents of key files.
    ///
    /// # Errors
    /// [`KeyError`] for the first that is none.
    pub fn parse<'k>(files: impl IntoIterator<Item = &'k [u8]>) -> Result<Self, KeyError> {
        files.into_iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// Answers a request.
    pub(super) fn answer(&self, request: &[u8]) -> Vec<u8> {
        match request.split_first() {
            Some((&REQUEST_IDENTITIES, _)) => self.identities(),
            Some((&SIGN_REQUEST, rest)) => self.sign(rest).unwrap_or_else(|| vec![FAILURE]),
            _ => vec![FAILURE],
        }
    }

    fn identities(&self) -> Vec<u8> {
        let mut answer = vec![IDENTITIES_ANSWER];
        push_number(&mut answer, self.0.len());
        for key in &self.0 {
            push(&mut answer, &key.public);
            push(&mut answer, &key.comment);
        }
        answer
    }

    fn sign(&self, request: &[u8]) -> Option<Vec<u8>> {
        let mut fields = Fields(request);
        let (public, data, flags) = (fields.text()?, fields.text()?, fields.number()?);
        let key = self.0.iter().find(|key| key.public == public)?;
        let mut answer = vec![SIGN_RESPONSE];
        push(&mut answer, &key.secret.sign(data, flags)?);
        Some(answer)
    }
}

impl SecretKey {
    /// A signature with the name of its algorithm.
    fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        let (name, bytes) = match self {
            Self::Ed25519(pair) => ("ssh-ed25519", pair.sign(data).as_ref().to_vec()),
            Self::Rsa(pair) => {
                let (name, padding): (_, &dyn RsaEncoding) = match flags {
                    flags if flags & RSA_SHA2_512 != 0 => ("rsa-sha2-512", &RSA_PKCS1_SHA512),
                    flags if flags & RSA_SHA2_256 != 0 => ("rsa-sha2-256", &RSA_PKCS1_SHA256),
                    // SHA-1, which servers have not taken for years.
                    _ => return None,
                };
                let mut bytes = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &random, data, &mut bytes).ok()?;
                (name, bytes)
            }
            Self::Ecdsa { name, pair } => {
                let fixed = pair.sign(&random, data).ok()?;
                let (r, s) = fixed.as_ref().split_at(fixed.as_ref().len() / 2);
                let mut bytes = Vec::new();
                push_integer(&mut bytes, r);
                push_integer(&mut bytes, s);
                (*name, bytes)
            }
        };
        let mut signature = Vec::new();
        push(&mut signature, name.as_bytes());
        push(&mut signature, &bytes);
        Some(signature)
    }
}

/// A curve of keys.
struct Curve {
    name: &'static str,
    short: &'static str,
    algorithm: &'static EcdsaSigningAlgorithm,
    /// Length of a private key in bytes.
    length: usize,
    /// Its object identifier.
    identifier: &'static [u8],
}

static P256: Curve = Curve {
    name: "ecdsa-sha2-nistp256",
    short: "nistp256",
    algorithm: &ECDSA_P256_SHA256_FIXED_SIGNING,
    length: 32,
    identifier: &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
};
static P384: Curve = Curve {
    name: "ecdsa-sha2-nistp384",
    short: "nistp384",
    algorithm: &ECDSA_P384_SHA384_FIXED_SIGNING,
    length: 48,
    identifier: &[0x2b, 0x81, 0x04, 0x00, 0x22],
};

impl Curve {
    /// A key pair; the private key has no leading zeros.
    fn pair(&self, private: &[u8], public: &[u8]) -> Option<EcdsaKeyPair> {
        let mut whole = vec![0; usize::checked_sub(self.length, private.len())?];
        whole.extend_from_slice(private);
        let random = SystemRandom::new();
        EcdsaKeyPair::from_private_key_and_public_key(self.algorithm, &whole, public, &random).ok()
    }
}

fn parse(file: &[u8]) -> Result<Key, KeyError> {
    let text = std::str::from_utf8(file).map_err(|_| KeyError::Form)?;
    let (_, rest) = text.split_once(BEGIN).ok_or(KeyError::Form)?;
    let (label, rest) = rest.split_once("-----").ok_or(KeyError::Form)?;
    let (inner, _) = rest.split_once(END).ok_or(KeyError::Form)?;
    if !label.ends_with("PRIVATE KEY") {
        return Err(KeyError::Form);
    }
    // Only an encrypted key has headers.
    if label == "ENCRYPTED PRIVATE KEY" || inner.contains(':') {
        return Err(KeyError::Encrypted);
    }
    let digits: String = inner.split_ascii_whitespace().collect();
    let bytes = STANDARD.decode(digits).map_err(|_| KeyError::Form)?;
    if label == OPENSSH {
        return openssh(&bytes);
    }
    let (public, secret) = der::read(label, &bytes).ok_or(KeyError::Type)?;
    Ok(Key { public, comment: Vec::new(), secret })
}

fn openssh(bytes: &[u8]) -> Result<Key, KeyError> {
    let fields = bytes.strip_prefix(MAGIC).ok_or(KeyError::Form)?;
    let mut fields = Fields(fields);
    let cipher = fields.text().ok_or(KeyError::Form)?;
    if cipher != b"none" {
        return Err(KeyError::Encrypted);
    }
    let mut rest = || -> Option<(&[u8], &[u8])> {
        let (_derivation, _options) = (fields.text()?, fields.text()?);
        (fields.number()? == 1).then_some(())?;
        Some((fields.text()?, fields.text()?))
    };
    let (public, private) = rest().ok_or(KeyError::Form)?;
    let mut fields = Fields(private);
    if fields.number().ok_or(KeyError::Damaged)? != fields.number().ok_or(KeyError::Damaged)? {
        return Err(KeyError::Damaged);
    }
    let kind = fields.text().ok_or(KeyError::Damaged)?;
    let secret = match kind {
        b"ssh-ed25519" => ed25519(&mut fields),
        b"ssh-rsa" => rsa(&mut fields),
        b"ecdsa-sha2-nistp256" => ecdsa(&P256, &mut fields),
        b"ecdsa-sha2-nistp384" => ecdsa(&P384, &mut fields),
        _ => return Err(KeyError::Type),
    };
    let secret = secret.ok_or(KeyError::Damaged)?;
    let comment = fields.text().ok_or(KeyError::Damaged)?.to_vec();
    Ok(Key { public: public.to_vec(), comment, secret })
}

fn ed25519(fields: &mut Fields<'_>) -> Option<SecretKey> {
    let public = fields.text()?;
    // The seed, and the public key once more.
    let seed = fields.text()?.get(..32)?;
    Ed25519KeyPair::from_seed_and_public_key(seed, public).ok().map(SecretKey::Ed25519)
}

fn rsa(fields: &mut Fields<'_>) -> Option<SecretKey> {
    let mut next = || fields.text().map(without_zeros);
    let (n, e, d, q_inverse, p, q) = (next()?, next()?, next()?, next()?, next()?, next()?);
    let (d_p, d_q) = (remainder(d, &minus_one(p)), remainder(d, &minus_one(q)));
    let components = KeyPairComponents {
        public_key: PublicKeyComponents { n, e },
        d,
        p,
        q,
        dP: without_zeros(&d_p),
        dQ: without_zeros(&d_q),
        qInv: q_inverse,
    };
    RsaKeyPair::from_components(&components).ok().map(|pair| SecretKey::Rsa(Box::new(pair)))
}

fn ecdsa(curve: &Curve, fields: &mut Fields<'_>) -> Option<SecretKey> {
    let (_curve, public, private) = (fields.text()?, fields.text()?, fields.text()?);
    let pair = curve.pair(without_zeros(private), public)?;
    Some(SecretKey::Ecdsa { name: curve.name, pair })
}

/// Fields of a message, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(text)
    }
}

fn push_number(message: &mut Vec<u8>, number: usize) {
    let number = u32::try_from(number).expect("messages are bounded");
    message.extend_from_slice(&number.to_be_bytes());
}

fn push(message: &mut Vec<u8>, text: &[u8]) {
    push_number(message, text.len());
    message.extend_from_slice(text);
}

/// A positive integer; its first bit is that of the sign.
fn push_integer(message: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = without_zeros(bytes);
    let sign = bytes.first().is_some_and(|first| first & 0x80 != 0);
    push_number(message, bytes.len() + usize::from(sign));
    message.extend(sign.then_some(0));
    message.extend_from_slice(bytes);
}

fn without_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

/// One less than an odd number, both big-endian.
fn minus_one(number: &[u8]) -> Vec<u8> {
    let mut number = number.to_vec();
    if let Some(last) = number.last_mut() {
        *last &= !1;
    }
    number
}

/// `number` modulo `modulus`, big-endian; as long as `modulus`. Takes the time of the numbers'
/// lengths times each other, not of their values' parts.
fn remainder(number: &[u8], modulus: &[u8]) -> Vec<u8> {
    let mut rest = vec![0_u8; modulus.len() + 1];
    let mut wide = vec![0_u8];
    wide.extend_from_slice(modulus);
    for bit in number.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)) {
        let mut carry = bit;
        for byte in rest.iter_mut().rev() {
            (*byte, carry) = (*byte << 1 | carry, *byte >> 7);
        }
        if rest >= wide {
            let mut borrow = 0;
            for (byte, other) in rest.iter_mut().zip(&wide).rev() {
                let (less, first) = byte.overflowing_sub(*other);
                let (less, second) = less.overflowing_sub(borrow);
                (*byte, borrow) = (less, u8::from(first || second));
            }
        }
    }
    rest.split_off(1)
}

#[cfg(test)]
mod tests {
    use std::{path::Path, process::Command};

    use super::*;

    #[test]
    fn numbers_are_divided() {
        let value =
            |bytes: &[u8]| bytes.iter().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
        for (number, modulus) in
            [(0_u64, 3_u64), (1 << 40, 0xff_ff), (u64::MAX, 0x1234_5678), (7, 1 << 50), (99, 99)]
        {
            let modulus_bytes = modulus.to_be_bytes();
            let found = remainder(&number.to_be_bytes(), without_zeros(&modulus_bytes));
            assert_eq!(value(&found), number % modulus, "{number} % {modulus}");
        }
        assert_eq!(minus_one(&[1, 255]), [1, 254]);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let read = |text: &str| Keys::parse([text.as_bytes()]).map(drop);
        let pem = |label: &str, body: &str| {
            format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
        };
        for text in ["", "ssh-ed25519 AAAA", "-----BEGIN RSA PRIVATE KEY-----"] {
            assert_eq!(read(text), Err(KeyError::Form), "{text}");
        }
        for (label, body, error) in [
            (OPENSSH, "AAAA", KeyError::Form),
            ("CERTIFICATE", "AAAA", KeyError::Form),
            ("DSA PRIVATE KEY", "AAAA", KeyError::Type),
            ("RSA PRIVATE KEY", "*", KeyError::Form),
            ("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\n\nAAAA", KeyError::Encrypted),
            ("ENCRYPTED PRIVATE KEY", "AAAA", KeyError::Encrypted),
        ] {
            assert_eq!(read(&pem(label, body)), Err(error), "{label} {body}");
        }
        let keys = Keys::parse([]).unwrap();
        assert_eq!(keys.answer(&[REQUEST_IDENTITIES]), [IDENTITIES_ANSWER, 0, 0, 0, 0]);
        for request in [&[][..], &[17], &[SIGN_REQUEST], &[SIGN_REQUEST, 0, 0, 0, 9, 1]] {
            assert_eq!(keys.answer(request), [FAILURE], "{request:?}");
        }
    }

    /// OpenSSH makes the keys, and checks what is signed.
    #[test]
    fn openssh_takes_the_signatures() {
        let Some(keygen) = davit_test::need_tool("ssh-keygen") else { return };
        let temp = davit_test::TempDir::new();
        let make = |kind: &str, bits: &str, form: &str, passphrase: &str| {
            let path = temp.join(format!("{kind}-{bits}-{form}-{passphrase}"));
            let mut command = Command::new(&keygen);
            command.args(["-q", "-t", kind, "-b", bits, "-m", form, "-N", passphrase, "-f"]);
            assert!(command.arg(&path).status().unwrap().success());
            path
        };
        let kinds = [("ed25519", "256"), ("rsa", "2048"), ("ecdsa", "256"), ("ecdsa", "384")];
        let forms = ["RFC4716", "PEM", "PKCS8"];
        let all = kinds.iter().flat_map(|kind| forms.map(|form| (*kind, form)));
        let paths: Vec<_> = all.map(|((kind, bits), form)| make(kind, bits, form, "")).collect();
        let files: Vec<Vec<u8>> = paths.iter().map(|path| fs_err::read(path).unwrap()).collect();
        let keys = Keys::parse(files.iter().map(Vec::as_slice)).unwrap();
        let agent = super::super::Agent::Keys(std::sync::Arc::new(keys));
        let socket =
            super::super::AgentSocket::listen(&agent, (temp.path(), "s"), (0o600, 0, 0)).unwrap();
        let message = temp.join("message");
        fs_err::write(&message, "what is signed").unwrap();
        let signature = temp.join("message.sig");
        for path in paths {
            let run = |words: &[&str], last: &[&Path]| {
                let mut command = Command::new(&keygen);
                command.env("SSH_AUTH_SOCK", socket.path()).args(words).args(last);
                let input = fs_err::File::open(&message).unwrap().into_parts().0;
                let outcome = command.stdin(input).output().unwrap();
                let told = String::from_utf8_lossy(&outcome.stderr).into_owned();
                assert!(outcome.status.success(), "{}: {told}", path.display());
            };
            // With the public key alone, the agent must have the other.
            run(&["-Y", "sign", "-n", "test", "-f"], &[&path.with_extension("pub"), &message]);
            run(&["-Y", "check-novalidate", "-n", "test", "-s"], &[&signature]);
            fs_err::remove_file(&signature).unwrap();
        }
        for (kind, bits, form) in [("ed25519", "256", "RFC4716"), ("ecdsa", "256", "PEM")] {
            let locked = fs_err::read(make(kind, bits, form, "secret")).unwrap();
            assert_eq!(Keys::parse([&locked[..]]).unwrap_err(), KeyError::Encrypted, "{form}");
        }
    }
}
