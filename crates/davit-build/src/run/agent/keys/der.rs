//! Private keys as other tools write them: PKCS#1 (RFC 8017), PKCS#8 (RFC 5958), SEC 1 (RFC 5915).

use ring::{
    rand::SystemRandom,
    rsa::PublicKeyComponents,
    signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair},
};

use super::{Curve, P256, P384, SecretKey, push, push_integer, without_zeros};

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const PARAMETERS: u8 = 0xa0;
const PUBLIC_KEY: u8 = 0xa1;

/// Reads a key; gives its public key as the protocol has it, too.
pub(super) fn read(label: &str, bytes: &[u8]) -> Option<(Vec<u8>, SecretKey)> {
    match label {
        "RSA PRIVATE KEY" => RsaKeyPair::from_der(bytes).ok().map(rsa),
        "EC PRIVATE KEY" => sec1(bytes),
        "PRIVATE KEY" => pkcs8(bytes),
        _ => None,
    }
}

fn pkcs8(bytes: &[u8]) -> Option<(Vec<u8>, SecretKey)> {
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes) {
        let mut public = Vec::new();
        push(&mut public, b"ssh-ed25519");
        push(&mut public, pair.public_key().as_ref());
        return Some((public, SecretKey::Ed25519(pair)));
    }
    if let Ok(pair) = RsaKeyPair::from_pkcs8(bytes) {
        return Some(rsa(pair));
    }
    let random = SystemRandom::new();
    [&P256, &P384].into_iter().find_map(|curve| {
        let pair = EcdsaKeyPair::from_pkcs8(curve.algorithm, bytes, &random).ok()?;
        Some(ecdsa(curve, pair))
    })
}

fn rsa(pair: RsaKeyPair) -> (Vec<u8>, SecretKey) {
    let components = PublicKeyComponents::<Vec<u8>>::from(pair.public());
    let mut public = Vec::new();
    push(&mut public, b"ssh-rsa");
    push_integer(&mut public, &components.e);
    push_integer(&mut public, &components.n);
    (public, SecretKey::Rsa(Box::new(pair)))
}

fn ecdsa(curve: &'static Curve, pair: EcdsaKeyPair) -> (Vec<u8>, SecretKey) {
    let mut public = Vec::new();
    push(&mut public, curve.name.as_bytes());
    push(&mut public, curve.short.as_bytes());
    push(&mut public, pair.public_key().as_ref());
    (public, SecretKey::Ecdsa { name: curve.name, pair })
}

fn sec1(bytes: &[u8]) -> Option<(Vec<u8>, SecretKey)> {
    let (content, _) = item(bytes, SEQUENCE)?;
    let (_version, rest) = item(content, INTEGER)?;
    let (private, rest) = item(rest, OCTET_STRING)?;
    let (parameters, rest) = item(rest, PARAMETERS)?;
    let (identifier, _) = item(parameters, IDENTIFIER)?;
    let (public, _) = item(rest, PUBLIC_KEY)?;
    let (public, _) = item(public, BIT_STRING)?;
    let curve = [&P256, &P384].into_iter().find(|curve| curve.identifier == identifier)?;
    // A bit string begins with the number of bits that its last byte does not use.
    let pair = curve.pair(without_zeros(private), public.strip_prefix(&[0])?)?;
    Some(ecdsa(curve, pair))
}

/// The content of an item with this tag, and what follows it.
fn item(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        0x81 => rest.split_first().map(|(length, rest)| (usize::from(*length), rest))?,
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    (*first == tag).then_some(())?;
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_bounded() {
        assert_eq!(item(&[4, 1, 9, 7], 4), Some((&[9][..], &[7][..])));
        assert_eq!(item(&[4, 0x81, 1, 9], 4), Some((&[9][..], &[][..])));
        assert_eq!(item(&[4, 0x82, 0, 1, 9], 4), Some((&[9][..], &[][..])));
        for bad in [&[][..], &[4], &[5, 1, 9], &[4, 2, 9], &[4, 0x84, 0, 0, 0, 1, 9], &[4, 0x82, 1]]
        {
            assert_eq!(item(bad, 4), None, "{bad:?}");
        }
        for label in ["RSA PRIVATE KEY", "EC PRIVATE KEY", "PRIVATE KEY", "DSA PRIVATE KEY"] {
            assert!(read(label, &[0x30, 3, 2, 1, 0]).is_none(), "{label}");
        }
    }
}
