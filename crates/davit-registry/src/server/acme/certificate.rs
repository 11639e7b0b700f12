//! A certificate as the authority gave it, and when it is to be renewed.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use instant_acme::{CertificateIdentifier, SuggestedWindow};
use rustls::{
    ServerConfig,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
};
use time::{PrimitiveDateTime, macros::format_description};

use crate::{
    ber::{INTEGER, OCTETS, Reader, SEQUENCE},
    server::tls,
};

const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const OBJECT_ID: u8 = 0x06;
/// The extension that names the authority's key (RFC 5280 § 4.2.1.1).
const AUTHORITY_KEY: [u8; 3] = [0x55, 0x1d, 0x23];
const KEY_ID: u8 = 0x80;

/// Why a certificate is none that can be served.
#[derive(Debug, thiserror::Error)]
pub(in crate::server) enum CertificateError {
    #[error("it is no PEM")]
    Pem(#[source] pem::Error),
    #[error("its key is another one, or is none")]
    Pair(#[source] rustls::Error),
    #[error("it is not known from when until when it counts")]
    Malformed,
}

/// A certificate with its key, as files have them.
pub(super) struct Pair {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Pair {
    pub(super) fn parse(chain: &str, key: &str) -> Result<Self, CertificateError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
        let chain = chain.map_err(CertificateError::Pem)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(CertificateError::Pem)?;
        Ok(Self { chain, key })
    }
}

/// A certificate that can be served.
#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) config: Arc<ServerConfig>,
    /// It and those that lead to its root, in PEM.
    pub(super) chain: String,
    /// From when it counts, in milliseconds since 1970.
    not_before_ms: i64,
    /// Until when.
    pub(super) not_after_ms: i64,
    /// How the authority knows it again, where it tells who signed it.
    pub(super) id: Option<CertificateIdentifier<'static>>,
}

impl Certificate {
    pub(super) fn parse(chain: &str, key: &str) -> Result<Self, CertificateError> {
        let pair = Pair::parse(chain, key)?;
        let own = pair.chain.first().ok_or(CertificateError::Malformed)?;
        let Told { not_before_ms, not_after_ms, id } =
            told(own).ok_or(CertificateError::Malformed)?;
        let config = tls::config(pair.chain, pair.key).map_err(CertificateError::Pair)?;
        let (config, chain) = (Arc::new(config), chain.to_owned());
        Ok(Self { config, chain, not_before_ms, not_after_ms, id })
    }

    /// When a third of its life is left, in milliseconds since 1970.
    pub(super) const fn renew_ms(&self) -> i64 {
        self.not_after_ms - (self.not_after_ms - self.not_before_ms) / 3
    }
}

/// What a certificate tells of itself.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    not_before_ms: i64,
    not_after_ms: i64,
    id: Option<CertificateIdentifier<'static>>,
}

/// Reads a certificate (RFC 5280 § 4.1) as far as it is needed.
fn told(certificate: &[u8]) -> Option<Told> {
    let mut body = Reader(Reader(Reader(certificate).take(SEQUENCE)?).take(SEQUENCE)?);
    let (mut tag, mut serial) = body.next()?;
    if tag == VERSION {
        (tag, serial) = body.next()?;
    }
    if tag != INTEGER {
        return None;
    }
    let (_algorithm, _issuer) = (body.take(SEQUENCE)?, body.take(SEQUENCE)?);
    let mut validity = Reader(body.take(SEQUENCE)?);
    let (not_before_ms, not_after_ms) = (time_ms(validity.next()?)?, time_ms(validity.next()?)?);
    let id = authority_key(body).map(|key| CertificateIdentifier {
        authority_key_identifier: BASE64.encode(key).into(),
        serial: BASE64.encode(serial).into(),
    });
    Some(Told { not_before_ms, not_after_ms, id })
}

/// The key that signed, among the extensions at the end.
fn authority_key(mut rest: Reader<'_>) -> Option<&[u8]> {
    let extensions = loop {
        let (tag, content) = rest.next()?;
        if tag == EXTENSIONS {
            break content;
        }
    };
    let mut extensions = Reader(Reader(extensions).take(SEQUENCE)?);
    loop {
        let mut extension = Reader(extensions.take(SEQUENCE)?);
        if extension.take(OBJECT_ID)? != AUTHORITY_KEY {
            continue;
        }
        // Between the two it may say that it is critical.
        let value = std::iter::from_fn(|| extension.next()).find(|(tag, _)| *tag == OCTETS)?.1;
        return Reader(Reader(value).take(SEQUENCE)?).take(KEY_ID);
    }
}

/// `YYMMDDhhmmssZ`, or with four digits of the year (RFC 5280 § 4.1.2.5).
fn time_ms((tag, text): (u8, &[u8])) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let century = match tag {
        GENERALIZED_TIME => "",
        UTC_TIME if text.get(..2)? >= "50" => "19",
        UTC_TIME => "20",
        _ => return None,
    };
    let format = format_description!("[year][month][day][hour][minute][second]Z");
    let time = PrimitiveDateTime::parse(&format!("{century}{text}"), format).ok()?;
    Some(time.assume_utc().unix_timestamp() * 1000)
}

/// The moment within a window that is this certificate's: spread over the window, and the same for all
/// servers each time they ask.
pub(super) fn moment(window: &SuggestedWindow, id: &CertificateIdentifier<'_>) -> i64 {
    let start = window.start.unix_timestamp();
    let width = window.end.unix_timestamp().saturating_sub(start).max(0);
    let digest = ring::digest::digest(&ring::digest::SHA256, id.serial.as_bytes());
    let part = digest.as_ref().first().copied().unwrap_or_default();
    (start + width / 256 * i64::from(part)) * 1000
}

#[cfg(test)]
mod tests {
    use time::{Duration, macros::datetime};

    use super::*;

    fn certificate(days: i64) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        parameters.not_before = datetime!(2030-01-01 0:00 UTC);
        parameters.not_after = parameters.not_before + Duration::days(days);
        parameters.use_authority_key_identifier_extension = true;
        (parameters.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_certificate_is_renewed_when_a_third_is_left() {
        let start = datetime!(2030-01-01 0:00 UTC).unix_timestamp() * 1000;
        // From 2050 on a time has four digits of the year.
        for days in [90, 6, 30 * 365] {
            let (chain, key) = certificate(days);
            let certificate = Certificate::parse(&chain, &key).unwrap();
            let day = 24 * 60 * 60 * 1000;
            assert_eq!(certificate.not_before_ms, start);
            assert_eq!(certificate.not_after_ms, start + days * day);
            assert_eq!(certificate.renew_ms(), start + days * day * 2 / 3);
            let id = certificate.id.unwrap();
            assert!(!id.serial.is_empty() && id.authority_key_identifier.len() > 20);
        }
        let (chain, key) = (certificate(1).0, certificate(1).1);
        assert!(matches!(Certificate::parse(&chain, &key), Err(CertificateError::Pair(_))));
        assert!(matches!(Certificate::parse("", &key), Err(CertificateError::Malformed)));
    }

    #[test]
    fn what_is_cut_off_tells_nothing() {
        let (chain, key) = certificate(90);
        let whole = Pair::parse(&chain, &key).unwrap().chain[0].to_vec();
        for end in 0..whole.len() {
            assert_eq!(told(&whole[..end]), None, "{end}");
        }
        assert!(told(&whole).is_some());
        for (tag, text) in [
            (UTC_TIME, "300101000000"),
            (UTC_TIME, "301301000000Z"),
            (GENERALIZED_TIME, "300101000000Z"),
            (INTEGER, "20300101000000Z"),
        ] {
            assert_eq!(time_ms((tag, text.as_bytes())), None, "{text}");
        }
        assert_eq!(time_ms((UTC_TIME, b"700101000001Z")), Some(1000));
    }

    #[test]
    fn the_moment_is_within_the_window() {
        let (start, end) = (datetime!(2030-01-01 0:00 UTC), datetime!(2030-01-03 0:00 UTC));
        let id = |serial: &'static str| CertificateIdentifier {
            authority_key_identifier: "".into(),
            serial: serial.into(),
        };
        let window = SuggestedWindow { start, end };
        let range = start.unix_timestamp() * 1000..end.unix_timestamp() * 1000;
        assert!(["a", "b", "c"].iter().all(|serial| range.contains(&moment(&window, &id(serial)))));
        assert_ne!(moment(&window, &id("a")), moment(&window, &id("b")));
        let backwards = SuggestedWindow { start: end, end: start };
        assert_eq!(moment(&backwards, &id("a")), range.end);
    }
}
