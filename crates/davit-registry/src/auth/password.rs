//! Passwords: argon2id, and bcrypt as files of Apache have it.
//!
//! One hash takes 12 MiB and tens of milliseconds, so that few are computed at once and few wait;
//! who logs in to nobody's account waits as long as who logs in to someone's.

use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use davit_distribution::Secret;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::Semaphore;

/// Memory per hash in KiB, passes, lanes: OWASP's set for argon2id with 12 MiB.
const COST: (u32, u32, u32) = (12 << 10, 3, 1);
/// Costs above these are refused: a row must not be able to stop the server.
const HIGHEST_COST: (u32, u32, u32) = (64 << 10, 8, 4);
/// bcrypt doubles its time with each step.
const HIGHEST_BCRYPT_COST: u32 = 14;
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;
/// Hashes computed at once. One: the server's memory has a bound, and a second core must be left.
const AT_ONCE: usize = 1;
/// Logins that may wait; the next is told to come back.
const WAITING: usize = 64;
/// Shortest and longest password, in bytes.
const LENGTH: std::ops::RangeInclusive<usize> = 8..=1024;

/// A password's hash as it is stored: `$argon2id$…`, or bcrypt's `$2b$…`.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

/// Why a password is not taken or not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Fewer than 8 or more than 1024 bytes.
    #[error("a password has 8 to 1024 bytes")]
    Length,
    /// The text is no hash that this server can check.
    #[error("unknown form of password hash")]
    Form,
    /// Too many logins are under way.
    #[error("too many logins at once")]
    Busy,
}

/// Computes hashes, few at once.
#[derive(Clone, Debug)]
pub struct Passwords {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// Checked where there is no account, to take as long.
    nobody: PasswordHash,
}

impl Default for Passwords {
    fn default() -> Self {
        // Any hash will do: the answer is thrown away.
        let nobody = format_hash(COST, &[0; SALT_BYTES], &[0; HASH_BYTES]);
        Self {
            running: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Arc::new(Semaphore::new(AT_ONCE + WAITING)),
            nobody: PasswordHash(nobody),
        }
    }
}

impl Passwords {
    /// Hashes a new password.
    ///
    /// # Errors
    /// [`PasswordError::Length`], [`PasswordError::Busy`]
    pub async fn hash(&self, password: &Secret) -> Result<PasswordHash, PasswordError> {
        let password = password.clone();
        self.run(move || PasswordHash::new(&password)).await?
    }

    /// Tells whether the password is the account's; `None` (no account) takes as long as some.
    ///
    /// # Errors
    /// [`PasswordError::Busy`]
    pub async fn verify(
        &self,
        hash: Option<&PasswordHash>,
        password: &Secret,
    ) -> Result<bool, PasswordError> {
        let is_account = hash.is_some();
        let (hash, password) = (hash.unwrap_or(&self.nobody).clone(), password.clone());
        let is_good = self.run(move || hash.verify(&password)).await?;
        Ok(is_good && is_account)
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let waiting = self.waiting.clone().try_acquire_owned().map_err(|_| PasswordError::Busy)?;
        let running = self.running.clone().acquire_owned().await;
        let running = running.expect("the semaphore is never closed");
        // The permits go along: a client that leaves must not make room for one more hash.
        let work = move || {
            let result = work();
            drop((running, waiting));
            result
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| PasswordError::Busy)
    }
}

impl PasswordHash {
    /// Hashes a new password; blocks for tens of milliseconds and takes 12 MiB meanwhile.
    ///
    /// # Errors
    /// [`PasswordError::Length`]
    ///
    /// # Panics
    /// If the kernel gives no random bytes.
    pub fn new(password: &Secret) -> Result<Self, PasswordError> {
        let password = password.expose().as_bytes();
        if !LENGTH.contains(&password.len()) {
            return Err(PasswordError::Length);
        }
        let mut salt = [0; SALT_BYTES];
        SystemRandom::new().fill(&mut salt).expect("the kernel gives random bytes");
        let hash = argon2id(COST, password, &salt).expect("these costs and lengths are allowed");
        Ok(Self(format_hash(COST, &salt, &hash)))
    }

    /// Reads a stored hash.
    ///
    /// # Errors
    /// [`PasswordError::Form`]
    pub fn parse(text: &str) -> Result<Self, PasswordError> {
        let is_known = parse_hash(text).is_some() || bcrypt_cost(text).is_some();
        is_known.then(|| Self(text.to_owned())).ok_or(PasswordError::Form)
    }

    /// The form that is stored.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Tells whether a better hash should take its place at the next login.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        parse_hash(&self.0).is_none_or(|(cost, ..)| cost != COST)
    }

    /// Compares; blocks like [`Self::new`].
    #[must_use]
    pub fn verify(&self, password: &Secret) -> bool {
        let password = password.expose();
        if password.len() > *LENGTH.end() {
            return false;
        }
        let Some((cost, salt, expected)) = parse_hash(&self.0) else {
            return bcrypt::verify(password, &self.0).unwrap_or(false);
        };
        argon2id(cost, password.as_bytes(), &salt).is_some_and(|hash| is_same(&hash, &expected))
    }
}

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordHash(****)")
    }
}

fn argon2id(cost: (u32, u32, u32), password: &[u8], salt: &[u8]) -> Option<[u8; HASH_BYTES]> {
    let params = Params::new(cost.0, cost.1, cost.2, Some(HASH_BYTES)).ok()?;
    let mut hash = [0; HASH_BYTES];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password_into(password, salt, &mut hash).ok()?;
    Some(hash)
}

/// PHC string format: `$argon2id$v=19$m=M,t=T,p=P$SALT$HASH`, base64 without padding.
fn format_hash((memory, passes, lanes): (u32, u32, u32), salt: &[u8], hash: &[u8]) -> String {
    let (salt, hash) = (BASE64.encode(salt), BASE64.encode(hash));
    format!("$argon2id$v=19$m={memory},t={passes},p={lanes}${salt}${hash}")
}

type Parsed = ((u32, u32, u32), Vec<u8>, Vec<u8>);

fn parse_hash(text: &str) -> Option<Parsed> {
    let rest = text.strip_prefix("$argon2id$v=19$m=")?;
    let mut parts = rest.split('$');
    let mut costs = parts.next()?.split(',');
    let memory = costs.next()?.parse().ok()?;
    let passes = costs.next()?.strip_prefix("t=")?.parse().ok()?;
    let lanes = costs.next()?.strip_prefix("p=")?.parse().ok()?;
    let salt = BASE64.decode(parts.next()?).ok()?;
    let hash = BASE64.decode(parts.next()?).ok()?;
    let is_whole = costs.next().is_none() && parts.next().is_none();
    let is_bounded =
        memory <= HIGHEST_COST.0 && passes <= HIGHEST_COST.1 && lanes <= HIGHEST_COST.2;
    let is_sized = (8..=64).contains(&salt.len()) && hash.len() == HASH_BYTES;
    (is_whole && is_bounded && is_sized).then_some(((memory, passes, lanes), salt, hash))
}

/// `$2b$12$` + 53 characters; `2a` and `2y` are other names of it.
fn bcrypt_cost(text: &str) -> Option<u32> {
    let rest = ["$2a$", "$2b$", "$2y$"].iter().find_map(|prefix| text.strip_prefix(prefix))?;
    let (cost, rest) = rest.split_once('$')?;
    let is_whole = rest.len() == 53
        && rest.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'/'));
    let cost: u32 = cost.parse().ok()?;
    (is_whole && (4..=HIGHEST_BCRYPT_COST).contains(&cost)).then_some(cost)
}

/// Takes as long wherever the first difference is.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b));
    a.len() == b.len() && std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_checked_against_both_forms() {
        let hash = PasswordHash::new(&Secret::new("wonderland")).unwrap();
        assert!(hash.as_str().starts_with("$argon2id$v=19$m=12288,t=3,p=1$"));
        assert!(hash.verify(&Secret::new("wonderland")));
        assert!(!hash.verify(&Secret::new("wonderlanD")));
        assert!(!hash.is_outdated());
        assert_ne!(hash, PasswordHash::new(&Secret::new("wonderland")).unwrap());
        assert_eq!(PasswordHash::parse(hash.as_str()).unwrap(), hash);

        let bcrypt = bcrypt::hash("wonderland", 4).unwrap();
        for form in ["$2b$", "$2y$"] {
            let hash = PasswordHash::parse(&bcrypt.replacen("$2b$", form, 1)).unwrap();
            assert!(hash.verify(&Secret::new("wonderland")));
            assert!(!hash.verify(&Secret::new("wonderlan")));
            assert!(hash.is_outdated());
        }
    }

    /// From the test vectors of the reference implementation (RFC 9106's authors).
    #[test]
    fn hashes_are_the_standards() {
        let tag = argon2id((256, 2, 1), b"password", b"somesalt").unwrap();
        let expected = "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe";
        assert_eq!(super::super::opaque::hex(&tag), expected);
    }

    #[test]
    fn lengths_and_forms_have_bounds() {
        for length in [0, 7, 1025] {
            let password = Secret::new("a".repeat(length));
            assert_eq!(PasswordHash::new(&password), Err(PasswordError::Length));
        }
        let good = PasswordHash::new(&Secret::new("wonderland")).unwrap();
        let with = |from: &str, to: &str| good.as_str().replacen(from, to, 1);
        for text in [
            String::new(),
            "wonderland".to_owned(),
            "{SHA}abc".to_owned(),
            "$apr1$abc$def".to_owned(),
            with("argon2id", "argon2i"),
            with("m=12288", "m=4294967295"),
            with("t=3", "t=9"),
            with("p=1", "p=1,x=1"),
            format!("{}$", good.as_str()),
            format!("$2y$31${}", "a".repeat(53)),
            format!("$2y$10${}", "a".repeat(52)),
        ] {
            assert_eq!(PasswordHash::parse(&text), Err(PasswordError::Form), "{text}");
        }
    }

    #[tokio::test]
    async fn nobody_is_checked_like_somebody_and_few_wait() {
        let passwords = Passwords::default();
        let secret = Secret::new("wonderland");
        let hash = passwords.hash(&secret).await.unwrap();
        assert_eq!(passwords.verify(Some(&hash), &secret).await, Ok(true));
        assert_eq!(passwords.verify(None, &secret).await, Ok(false));
        let all = passwords.waiting.clone().acquire_many_owned(65).await.unwrap();
        assert_eq!(passwords.verify(Some(&hash), &secret).await, Err(PasswordError::Busy));
        drop(all);
        assert_eq!(passwords.verify(Some(&hash), &secret).await, Ok(true));
    }
}
