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
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use davit_distribution::{Client, ClientConfig, TlsConfig};
use instant_acme::ExternalAccountKey;
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
mod settings;

pub use self::settings::{
    AcmeName, AcmeNameError, AcmeSettings, ExternalAccount, ExternalKey, ExternalKeyError,
    LETS_ENCRYPT,
};

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
    fn pauses_double_up_to_half_a_day() {
        let first = Duration::from_secs(300);
        let seconds = [0, 1, 2, 20, i64::MAX].map(|failures| backoff(first, failures).as_secs());
        assert_eq!(seconds, [300, 600, 1200, 43_200, 43_200]);
    }
}
