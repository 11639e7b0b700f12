//! Opaque credentials: personal access tokens, robots' keys, refresh tokens, sessions, invitations.
//!
//! `davit_KIND_` + 256 random bits in hexadecimal + 8 digits of the SHA-256 of what precedes, so
//! that scanners for leaked secrets find them and know them from look-alikes without asking. The
//! database holds their SHA-256 only: with that much chance in them nothing slower is needed.

use std::{fmt, str::FromStr};

use davit_distribution::Secret;
use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom as _, SystemRandom},
};

const RANDOM_BYTES: usize = 32;
const CHECK_BYTES: usize = 4;

/// What a credential is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OpaqueKind {
    /// A person's, for a machine or tool.
    Personal,
    /// A robot's.
    Robot,
    /// What logging in leaves with a client.
    Refresh,
    /// A browser's: good for pages only.
    Session,
    /// Lets one person sign up.
    Invite,
}

impl OpaqueKind {
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::Personal, Self::Robot, Self::Refresh, Self::Session, Self::Invite];

    /// The word in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Personal => "pat",
            Self::Robot => "robot",
            Self::Refresh => "refresh",
            Self::Session => "session",
            Self::Invite => "invite",
        }
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::Personal => "davit_pat_",
            Self::Robot => "davit_bot_",
            Self::Refresh => "davit_ref_",
            Self::Session => "davit_ses_",
            Self::Invite => "davit_inv_",
        }
    }
}

/// A credential in clear: shown once, then only its hash is known.
#[derive(Clone, Debug)]
pub struct OpaqueToken {
    kind: OpaqueKind,
    text: Secret,
}

/// SHA-256 of a credential, as the database keeps it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash([u8; 32]);

impl OpaqueToken {
    /// Makes one by chance.
    ///
    /// # Panics
    /// If the kernel gives no random bytes.
    #[must_use]
    pub fn new(kind: OpaqueKind) -> Self {
        let mut random = [0; RANDOM_BYTES];
        SystemRandom::new().fill(&mut random).expect("the kernel gives random bytes");
        let body = format!("{}{}", kind.prefix(), hex(&random));
        let text = format!("{body}{}", check(&body));
        Self { kind, text: Secret::new(text) }
    }

    /// Reads a text that looks like a credential; `None` if it is something else, as a password.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let kind = OpaqueKind::ALL.into_iter().find(|kind| text.starts_with(kind.prefix()))?;
        let length = kind.prefix().len() + 2 * (RANDOM_BYTES + CHECK_BYTES);
        if text.len() != length || !text.is_ascii() {
            return None;
        }
        let (body, given) = text.split_at(length - 2 * CHECK_BYTES);
        (check(body) == given).then(|| Self { kind, text: Secret::new(text) })
    }

    /// What it is for, as its prefix says; the database has the last word.
    #[must_use]
    pub const fn kind(&self) -> OpaqueKind {
        self.kind
    }

    /// The text, to be shown once.
    #[must_use]
    pub const fn secret(&self) -> &Secret {
        &self.text
    }

    /// What the database knows it by.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(self.text.expose().as_bytes())
    }
}

impl TokenHash {
    /// Hashes a text that has at least 128 bits of chance in it.
    #[must_use]
    pub fn of(text: &[u8]) -> Self {
        let digest = digest(&SHA256, text);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// The bytes, as the database keeps them.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenHash({}…)", hex(&self.0[..4]))
    }
}

impl FromStr for TokenHash {
    type Err = ();

    /// Reads the database's form.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(());
        }
        for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| ())?;
        }
        Ok(Self(bytes))
    }
}

fn check(body: &str) -> String {
    hex(&digest(&SHA256, body.as_bytes()).as_ref()[..CHECK_BYTES])
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes what is written");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_known_by_prefix_and_check() {
        for kind in OpaqueKind::ALL {
            let token = OpaqueToken::new(kind);
            let text = token.secret().expose().to_owned();
            assert_eq!(text.len(), 10 + 64 + 8);
            let read = OpaqueToken::parse(&text).unwrap();
            assert_eq!((read.kind(), read.hash()), (kind, token.hash()));
            assert_eq!(token.hash().to_string().parse(), Ok(token.hash()));
            assert_ne!(OpaqueToken::new(kind).hash(), token.hash());
            // It must not be told by accident.
            assert!(!format!("{token:?}").contains(&text));
            for at in [text.len() - 1, 20] {
                let mut other = text.clone().into_bytes();
                other[at] ^= 1;
                assert!(OpaqueToken::parse(&String::from_utf8(other).unwrap()).is_none());
            }
        }
        for text in ["", "davit_pat_", "wonderland", "davit_pat_é", "davit_xyz_00"] {
            assert!(OpaqueToken::parse(text).is_none(), "{text}");
        }
    }
}
