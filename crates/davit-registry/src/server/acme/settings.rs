//! What the operator says of an authority: names, account and patience.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use instant_acme::Identifier;

/// The authority that is asked where no other is named.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// Bytes of a key by HMAC at least: fewer are no secret.
const SHORTEST_KEY: usize = 16;

/// How certificates are had by ACME.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeSettings {
    /// What the certificate is for; at least one.
    pub names: Vec<AcmeName>,
    /// The authority: address of its directory.
    pub directory: String,
    /// Mail address that the authority may write to.
    pub contact: Option<String>,
    /// Certificates by which the authority's own one is known, in PEM, where the machine has none.
    pub ca: Option<PathBuf>,
    /// What binds the account to one that the operator has at the authority, where it asks for that
    /// (RFC 8555 § 7.3.4).
    pub external: Option<ExternalAccount>,
    /// Pause after a first attempt that failed; it doubles with each.
    pub pause: Duration,
    /// How often it is looked whether something is due, or another server has renewed.
    pub look: Duration,
}

impl AcmeSettings {
    /// The usual settings for a certificate of these names.
    #[must_use]
    pub fn new(names: Vec<AcmeName>) -> Self {
        Self {
            names,
            directory: LETS_ENCRYPT.to_owned(),
            contact: None,
            ca: None,
            external: None,
            pause: Duration::from_secs(5 * 60),
            look: Duration::from_secs(60),
        }
    }
}

/// An account that the operator has at an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalAccount {
    /// The key's name, as the authority gave it.
    pub key_id: String,
    /// The key.
    pub key: ExternalKey,
}

/// A key by HMAC that an authority gave out; it is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ExternalKey(pub(super) Vec<u8>);

/// The text is no such key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key of an account at an authority is base64url of 16 bytes or more")]
pub struct ExternalKeyError;

impl FromStr for ExternalKey {
    type Err = ExternalKeyError;

    /// Reads base64url, as authorities show it; padding and spaces around it are no matter.
    fn from_str(text: &str) -> Result<Self, ExternalKeyError> {
        let text = text.trim().trim_end_matches('=');
        let key = URL_SAFE_NO_PAD.decode(text).map_err(|_malformed| ExternalKeyError)?;
        if key.len() < SHORTEST_KEY { Err(ExternalKeyError) } else { Ok(Self(key)) }
    }
}

impl fmt::Debug for ExternalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

/// What a certificate can be for: the name of a host without a star, or an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AcmeName(Name);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Host(String),
    Address(IpAddr),
}

/// Something else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a host's name nor an address; one with a star cannot be proved by TLS")]
pub struct AcmeNameError(String);

impl FromStr for AcmeName {
    type Err = AcmeNameError;

    fn from_str(text: &str) -> Result<Self, AcmeNameError> {
        if let Ok(address) = text.parse() {
            return Ok(Self(Name::Address(address)));
        }
        let is_byte = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(is_byte)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.len() > 253 || !name.split('.').all(is_label) {
            return Err(AcmeNameError(text.to_owned()));
        }
        Ok(Self(Name::Host(name.to_ascii_lowercase())))
    }
}

impl fmt::Display for AcmeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Name::Host(name) => f.write_str(name),
            Name::Address(address) => address.fmt(f),
        }
    }
}

impl AcmeName {
    /// The name that the authority asks for in TLS: of an address the one that leads back to it
    /// (RFC 8738 § 6).
    pub(super) fn asked(&self) -> String {
        use fmt::Write as _;

        match &self.0 {
            Name::Host(name) => name.clone(),
            Name::Address(IpAddr::V4(address)) => {
                let [a, b, c, d] = address.octets();
                format!("{d}.{c}.{b}.{a}.in-addr.arpa")
            }
            Name::Address(IpAddr::V6(address)) => {
                let mut name = String::new();
                for byte in address.octets().iter().rev() {
                    // Writing to a text cannot fail.
                    let _written = write!(name, "{:x}.{:x}.", byte & 15, byte >> 4);
                }
                name + "ip6.arpa"
            }
        }
    }

    pub(super) fn identifier(&self) -> Identifier {
        match &self.0 {
            Name::Host(name) => Identifier::Dns(name.clone()),
            Name::Address(address) => Identifier::Ip(*address),
        }
    }

    pub(super) fn of(identifier: &Identifier) -> Option<Self> {
        match identifier {
            Identifier::Dns(name) => name.parse().ok(),
            Identifier::Ip(address) => Some(Self(Name::Address(*address))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hosts_and_addresses() {
        for (text, shown, asked) in [
            ("Registry.Example.", "registry.example", "registry.example"),
            ("192.0.2.1", "192.0.2.1", "1.2.0.192.in-addr.arpa"),
            (
                "2001:db8::1",
                "2001:db8::1",
                "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
            ),
        ] {
            let name: AcmeName = text.parse().unwrap();
            assert_eq!((name.to_string(), name.asked()), (shown.to_owned(), asked.to_owned()));
            assert_eq!(AcmeName::of(&name.identifier()), Some(name));
        }
        let long = format!("{}.example", "a".repeat(64));
        for text in ["", ".", "*.example", "a..b", "-a.b", "a-.b", "a b", "a_b", "é", &long] {
            assert!(text.parse::<AcmeName>().is_err(), "{text}");
        }
    }

    #[test]
    fn keys_are_base64url_and_not_shown() {
        for text in ["AAECAwQFBgcICQoLDA0ODw", " AAECAwQFBgcICQoLDA0ODw==\n"] {
            let key: ExternalKey = text.parse().unwrap();
            assert_eq!((key.0.len(), format!("{key:?}")), (16, "****".to_owned()));
        }
        for text in ["", "AAEC", "AAECAwQFBgcICQoLDA0O/+"] {
            assert_eq!(text.parse::<ExternalKey>(), Err(ExternalKeyError), "{text}");
        }
    }
}
