//! Certificates from an authority, by ACME (RFC 8555): had when there is none, renewed before they end.
//!
//! ```text
//! turn ─► whose row is due? ─► hold it ─► order ─► a proof for each name in the database
//!                                          │          └─ the authority asks any server: `acme-tls/1`
//!                                          └─► chain and key in the row; every server takes them
//! ```
//!
//! Names are proved by TLS-ALPN-01 (RFC 8737) on the server's own listener, which the authority must
//! reach on port 443. Account, certificate and proofs are rows, so that the servers of a database have
//! one certificate, which one of them renews, and whichever is asked has the proof.

use std::{
    fmt,
    net::IpAddr,
    path::PathBuf,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use davit_distribution::{Client, ClientConfig, TlsConfig};
use instant_acme::{ExternalAccountKey, Identifier};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::ClientHello,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use self::{
    certificate::{Certificate, CertificateError},
    rows::Row,
};
use super::{ServeError, TlsError, tls::read_certificates};
use crate::db::{Database, DbError, ms};

mod certificate;
mod http;
mod order;
mod rows;

/// The authority that is asked where no other is named.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// Bytes of a key by HMAC at least: fewer are no secret.
const SHORTEST_KEY: usize = 16;
/// Protocol by which an authority looks for a proof (RFC 8737 § 6.2).
const ALPN: &[u8] = b"acme-tls/1";
/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long a server that is killed in an attempt keeps the others from it.
const HOLD: Duration = Duration::from_secs(200);
/// Longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(12 * 60 * 60);
/// How often a server that has no certificate looks whether another one got it.
const IMPATIENT: Duration = Duration::from_secs(2);
/// How often the authority is asked whether it wants a certificate renewed earlier (RFC 9773 § 4.3.2).
const ASK: [Duration; 2] = [Duration::from_secs(60 * 60), Duration::from_secs(24 * 60 * 60)];

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
pub struct ExternalKey(Vec<u8>);

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
    fn asked(&self) -> String {
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

    fn identifier(&self) -> Identifier {
        match &self.0 {
            Name::Host(name) => Identifier::Dns(name.clone()),
            Name::Address(address) => Identifier::Ip(*address),
        }
    }

    fn of(identifier: &Identifier) -> Option<Self> {
        match identifier {
            Identifier::Dns(name) => name.parse().ok(),
            Identifier::Ip(address) => Some(Self(Name::Address(*address))),
            _ => None,
        }
    }
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
enum AcmeError {
    #[error("the certificate authority cannot be asked, or refuses")]
    Authority(#[from] Box<instant_acme::Error>),
    #[error("the authority does not take `{name}` as proved: {problem}")]
    Proof { name: String, problem: String },
    #[error("the authority does not look for proofs of `{0}` by tls-alpn-01")]
    NoChallenge(String),
    #[error("a proof cannot be made")]
    Key(#[source] rcgen::Error),
    #[error("what the authority gave cannot be served")]
    Certificate(#[from] CertificateError),
    #[error("the authority has not answered in {} seconds", PATIENCE.as_secs())]
    Late,
    #[error(transparent)]
    Database(#[from] DbError),
}

impl From<instant_acme::Error> for AcmeError {
    fn from(error: instant_acme::Error) -> Self {
        Self::Authority(Box::new(error))
    }
}

/// The certificate of a server, and its care.
#[derive(Debug)]
pub(super) struct Acme {
    settings: AcmeSettings,
    /// All names, in the order in which the row has them.
    names: String,
    database: Database,
    client: Client,
    current: Mutex<Option<Arc<Certificate>>>,
}

/// The name whose proof is asked for, where a client is an authority that does so.
pub(super) fn asked_proof(hello: &ClientHello<'_>) -> Option<String> {
    let asks = hello.alpn()?.any(|protocol| protocol == ALPN);
    asks.then(|| hello.server_name().unwrap_or_default().to_ascii_lowercase())
}

impl Acme {
    /// Begins with the certificate that the database has, if any.
    pub(super) async fn open(
        settings: &AcmeSettings,
        database: &Database,
    ) -> Result<Self, ServeError> {
        if !settings.directory.starts_with("https://") {
            return Err(TlsError::Directory(settings.directory.clone()).into());
        }
        let mut config = ClientConfig::default();
        if let Some(ca) = &settings.ca {
            read_certificates(ca)?;
            config.tls = TlsConfig { bundles: vec![ca.clone()], directories: Vec::new() };
        }
        let mut settings = settings.clone();
        settings.names.sort();
        settings.names.dedup();
        let names: Vec<String> = settings.names.iter().map(ToString::to_string).collect();
        let acme = Self {
            settings,
            names: names.join(" "),
            database: database.clone(),
            client: Client::new(config),
            current: Mutex::default(),
        };
        acme.look().await?;
        Ok(acme)
    }

    /// What clients are shown; `None` as long as there was no certificate.
    pub(super) fn config(&self) -> Option<Arc<ServerConfig>> {
        self.current().map(|certificate| Arc::clone(&certificate.config))
    }

    /// What the authority is shown when it asks for the proof of a name.
    pub(super) async fn proof(&self, name: &str) -> Result<Arc<ServerConfig>, ProofError> {
        let proof = rows::proof(&self.database, name).await?;
        let (chain, key) = proof.ok_or_else(|| ProofError::None(name.to_owned()))?;
        let certificate::Pair { chain, key } = certificate::Pair::parse(&chain, &key)?;
        let config = proving(chain, key).map_err(CertificateError::Pair)?;
        Ok(Arc::new(config))
    }

    /// Renews what is due, and takes what other servers renewed, until the end.
    pub(super) async fn run(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        let mut ask_at = Instant::now();
        loop {
            if let Err(error) = self.turn(&mut ask_at, &mut stopped).await {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "the state of the certificate is not known");
            }
            let is_lacking = self.current().is_none();
            let rest =
                if is_lacking { self.settings.look.min(IMPATIENT) } else { self.settings.look };
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = until_set(&mut stopped) => return,
            }
        }
    }

    fn external_key(&self) -> Option<ExternalAccountKey> {
        let ExternalAccount { key_id, key } = self.settings.external.as_ref()?;
        Some(ExternalAccountKey::new(key_id.clone(), &key.0))
    }

    fn current(&self) -> Option<Arc<Certificate>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn place(&self) -> rows::Place {
        rows::Place { directory: self.settings.directory.clone(), names: self.names.clone() }
    }

    /// Takes the certificate that the database has.
    async fn look(&self) -> Result<Option<Row>, DbError> {
        let row = rows::find(&self.database, &self.place()).await?;
        if let Some((chain, key)) = row.as_ref().and_then(|row| row.pair.as_ref())
            && self.current().is_none_or(|current| current.chain != *chain)
        {
            match Certificate::parse(chain, key.expose()) {
                Ok(certificate) => self.take(certificate),
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, "the certificate in the database is not taken");
                }
            }
        }
        Ok(row)
    }

    fn take(&self, certificate: Certificate) {
        let names = &self.names;
        tracing::info!(names, not_after_ms = certificate.not_after_ms, "a certificate is served");
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certificate));
    }

    async fn turn(
        &self,
        ask_at: &mut Instant,
        stopped: &mut watch::Receiver<bool>,
    ) -> Result<(), DbError> {
        let row = self.look().await?;
        if let Some(current) = self.current()
            && *ask_at <= Instant::now()
        {
            tokio::select! {
                again = self.ask(&current) => *ask_at = Instant::now() + again?,
                () = until_set(stopped) => return Ok(()),
            }
        }
        let (now, failures) = (self.database.now_ms(), row.as_ref().map_or(0, |row| row.failures));
        if row.is_some_and(|row| row.due_ms > now || row.held_ms > now) {
            return Ok(());
        }
        if !self.database.write(rows::Claim { place: self.place(), hold_ms: ms(HOLD) }).await? {
            return Ok(());
        }
        let outcome = tokio::select! {
            biased;
            outcome = timeout(PATIENCE, order::order(self)) => outcome,
            // The next server, or this one when it serves again, need not wait for the end of the hold.
            () = until_set(stopped) => return self.database.write(rows::Release(self.place())).await,
        };
        match outcome.unwrap_or(Err(AcmeError::Late)) {
            Ok((certificate, key)) => {
                let chain = certificate.chain.clone();
                let due_ms = certificate.renew_ms();
                self.database.write(rows::Keep { place: self.place(), chain, key, due_ms }).await?;
                self.take(certificate);
                *ask_at = Instant::now() + ASK[0];
            }
            Err(error) => {
                let pause = backoff(self.settings.pause, failures);
                self.tell(&error, pause);
                let due_ms = self.database.now_ms() + ms(pause);
                self.database.write(rows::Postpone { place: self.place(), due_ms }).await?;
            }
        }
        Ok(())
    }

    fn tell(&self, error: &AcmeError, pause: Duration) {
        let (names, seconds) = (&self.names, pause.as_secs());
        let error: &dyn std::error::Error = error;
        tracing::warn!(names, error, seconds, "there is no new certificate; the next try is later");
    }

    /// Asks the authority when it wants the certificate renewed, and does so then if that is earlier;
    /// tells when to ask again.
    async fn ask(&self, current: &Certificate) -> Result<Duration, DbError> {
        let Some(id) = &current.id else { return Ok(ASK[1]) };
        match timeout(PATIENCE, order::wanted(self, id)).await {
            Ok(Ok((window, again))) => {
                let due_ms = certificate::moment(&window, id);
                self.database.write(rows::Hasten { place: self.place(), due_ms }).await?;
                Ok(again.clamp(ASK[0], ASK[1]))
            }
            Ok(Err(error)) => {
                let error: &dyn std::error::Error = &error;
                tracing::debug!(error, "the authority has no wish when to renew");
                Ok(ASK[0])
            }
            Err(_elapsed) => Ok(ASK[0]),
        }
    }
}

/// Waits until the server is to stop.
async fn until_set(stopped: &mut watch::Receiver<bool>) {
    // Whoever could set it is gone: the same.
    let _set = stopped.wait_for(|stopped| *stopped).await;
}

/// What an authority is shown. That the key is the certificate's is not looked at: the extension that
/// makes it a proof is a critical one, with which it could not be used for anything else.
fn proving(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = rustls::crypto::ring::default_provider();
    let key = provider.key_provider.load_private_key(key)?;
    let shown = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// Why an authority is shown no proof.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProofError {
    #[error("nobody is proving `{0}`")]
    None(String),
    #[error("the proof in the database cannot be shown")]
    Certificate(#[from] CertificateError),
    #[error(transparent)]
    Database(#[from] DbError),
}

/// The pause after so many failures and another one.
fn backoff(first: Duration, failures: i64) -> Duration {
    let doubled = u32::try_from(failures).unwrap_or(u32::MAX).min(20);
    first.saturating_mul(1 << doubled).min(LONGEST_PAUSE)
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

    #[test]
    fn pauses_double_up_to_half_a_day() {
        let first = Duration::from_secs(300);
        let seconds = [0, 1, 2, 20, i64::MAX].map(|failures| backoff(first, failures).as_secs());
        assert_eq!(seconds, [300, 600, 1200, 43_200, 43_200]);
    }
}
