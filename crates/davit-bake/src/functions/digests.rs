//! Digests, identifiers and ciphers.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use md5::Md5;
use num_bigint::BigUint;
use serde_json::Value;
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};

use super::{Call, Found};
use crate::error::ValueError;

/// Rounds of bcrypt if nothing is said, as a power of two.
const COST: i64 = 10;
/// What a round of bcrypt weighs against the budget.
const ROUND: u64 = 2_000;
/// Largest RSA modulus in bytes.
const MODULUS: usize = 1024;

pub(super) fn digests(call: &Call<'_>) -> Found {
    let text = |at| call.text(at);
    let value: Value = match call.name {
        "md5" => hexadecimal(&Md5::digest(text(0)?)).into(),
        "sha1" => hexadecimal(&Sha1::digest(text(0)?)).into(),
        "sha256" => hexadecimal(&Sha256::digest(text(0)?)).into(),
        "sha512" => hexadecimal(&Sha512::digest(text(0)?)).into(),
        "bcrypt" => bcrypted(call)?.into(),
        "uuidv4" => uuid(call.world.random(), 4).into(),
        "uuidv5" => {
            let namespace = namespace(&text(0)?).ok_or_else(|| call.wrong("no such namespace"))?;
            let digest = Sha1::new().chain_update(namespace).chain_update(text(1)?).finalize();
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&digest[..16]);
            uuid(bytes, 5).into()
        }
        "rsadecrypt" => {
            let (cipher, key) = (text(0)?, text(1)?);
            // The work grows with the cube of the key's length.
            call.spent.take((key.len() as u64).saturating_pow(2) / 4)?;
            let plain = decrypted(&cipher, &key).map_err(|problem| call.wrong(problem))?;
            String::from_utf8(plain).map_err(|_| call.wrong("it is no text"))?.into()
        }
        _ => return Ok(None),
    };
    Ok(Some(value))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bcrypted(call: &Call<'_>) -> Result<String, ValueError> {
    let cost = if call.arguments.len() > 1 { call.whole(1)? } else { COST };
    if call.arguments.len() > 2 {
        return Err(call.wrong("it takes one or two arguments"));
    }
    // As the Go library, which takes a cost that is too small for the usual one.
    let cost = if cost < 4 { COST } else { cost };
    let cost = u32::try_from(cost).ok().filter(|cost| *cost <= 31);
    let cost = cost.ok_or_else(|| call.wrong("the cost is from 4 to 31"))?;
    call.spent.take(ROUND << cost)?;
    let made = bcrypt::non_truncating_hash_with_salt(call.text(0)?, cost, call.world.random());
    let made = made.map_err(|_| call.wrong("the text is longer than 72 bytes"))?;
    Ok(made.format_for_version(bcrypt::Version::TwoA))
}

fn uuid(bytes: [u8; 16], version: u8) -> String {
    let mut bytes = bytes;
    bytes[6] = (bytes[6] & 0x0f) | (version << 4);
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let text = hexadecimal(&bytes);
    let parts = [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]];
    parts.join("-")
}

/// A namespace by its name, or as a UUID in one of its forms.
fn namespace(text: &str) -> Option<[u8; 16]> {
    let known = |last: u128| 0x6ba7_b810_9dad_11d1_80b4_00c0_4fd4_30c8_u128 + (last << 96);
    let number = match text {
        "dns" => known(0),
        "url" => known(1),
        "oid" => known(2),
        "x500" => known(4),
        _ => {
            let text = text.strip_prefix("urn:uuid:").unwrap_or(text);
            let text = text.strip_prefix('{').and_then(|it| it.strip_suffix('}')).unwrap_or(text);
            let is_dashed = text.len() == 36
                && text.char_indices().all(|(at, it)| (it == '-') == [8, 13, 18, 23].contains(&at));
            let digits = if is_dashed { text.replace('-', "") } else { text.to_owned() };
            let is_plain = digits.len() == 32 && digits.bytes().all(|it| it.is_ascii_hexdigit());
            u128::from_str_radix(&digits, 16).ok().filter(|_| is_plain)?
        }
    };
    Some(number.to_be_bytes())
}

/// Decrypts PKCS #1 v1.5 with a key in a PEM block `RSA PRIVATE KEY`.
fn decrypted(cipher: &str, key: &str) -> Result<Vec<u8>, &'static str> {
    let cipher = BASE64.decode(cipher).map_err(|_| "the text is not base64")?;
    let body = key
        .split_once("-----BEGIN RSA PRIVATE KEY-----")
        .and_then(|(_, rest)| rest.split_once("-----END RSA PRIVATE KEY-----"))
        .map(|(body, _)| body.split_whitespace().collect::<String>())
        .ok_or("the key is no `RSA PRIVATE KEY` without a password")?;
    let der = BASE64.decode(body).map_err(|_| "the key is damaged or has a password")?;
    let mut numbers = Der(&der).sequence().ok_or("the key is damaged")?;
    let mut next = || numbers.integer().ok_or("the key is damaged");
    let (_version, modulus, _public, private) = (next()?, next()?, next()?, next()?);
    let length = modulus.len();
    if !(11..=MODULUS).contains(&length) || private.len() > length || cipher.len() > length {
        return Err("the key does not fit the text");
    }
    let number = BigUint::from_bytes_be;
    let plain = number(&cipher).modpow(&number(private), &number(modulus)).to_bytes_be();
    // The leading zero is not there.
    let padded = plain.strip_prefix(&[2]).filter(|_| plain.len() == length - 1);
    let padded = padded.ok_or("the key does not fit the text")?;
    let end = padded.iter().position(|byte| *byte == 0).filter(|end| *end >= 8);
    Ok(padded[end.ok_or("the key does not fit the text")? + 1..].to_vec())
}

/// DER values that follow one another.
struct Der<'d>(&'d [u8]);

impl<'d> Der<'d> {
    fn sequence(&mut self) -> Option<Self> {
        self.value(0x30).map(Self)
    }

    /// A positive number without leading zeros.
    fn integer(&mut self) -> Option<&'d [u8]> {
        let bytes = self.value(0x02)?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Some(&bytes[zeros..])
    }

    fn value(&mut self, kind: u8) -> Option<&'d [u8]> {
        let (&found, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut length = usize::from(first);
        if first >= 0x80 {
            let (digits, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
            if digits.len() > 4 {
                return None;
            }
            length = digits.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
            rest = after;
        }
        let (value, after) = rest.split_at_checked(length)?;
        self.0 = after;
        (found == kind).then_some(value)
    }
}
