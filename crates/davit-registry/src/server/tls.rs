//! TLS by files, which are read again when they change: a renewed certificate needs no restart. Or by
//! ACME, which renews them itself.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use rustls::{
    ServerConfig,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    server::Acceptor,
};
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::{
    ServeError,
    acme::{self, Acme, AcmeSettings},
};
use crate::db::Database;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// What is spoken inside TLS.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Where the certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// From files that somebody renews.
    Files(TlsFiles),
    /// From an authority that is asked for it.
    Acme(AcmeSettings),
}

/// Files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by those that lead to its root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM of its kind.
    #[error("cannot read `{}`", .0.display())]
    Read(PathBuf, #[source] pem::Error),
    /// Certificate and key do not fit.
    #[error("certificate `{}` cannot be served", .0.display())]
    Pair(PathBuf, #[source] rustls::Error),
    /// The authority would not be known to be itself.
    #[error("`{0}` is no https address of a certificate authority's directory")]
    Directory(String),
}

/// The certificate in use.
#[derive(Clone, Debug)]
pub(super) enum Certificates {
    Files(Arc<Files>),
    Acme(Arc<Acme>),
}

impl Certificates {
    pub(super) async fn open(tls: &Tls, database: &Database) -> Result<Self, ServeError> {
        Ok(match tls {
            Tls::Files(files) => Self::Files(Arc::new(Files::open(files)?)),
            Tls::Acme(settings) => Self::Acme(Arc::new(Acme::open(settings, database).await?)),
        })
    }

    /// Takes a client's handshake; `None` where that was all: an authority that looks for a proof.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<Option<TlsStream<TcpStream>>> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let acme = match self {
            Self::Files(files) => return start.into_stream(files.config()).await.map(Some),
            Self::Acme(acme) => acme,
        };
        if let Some(name) = acme::asked_proof(&start.client_hello()) {
            let proof = acme.proof(&name).await.map_err(io::Error::other)?;
            drop(start.into_stream(proof).await?);
            return Ok(None);
        }
        let config =
            acme.config().ok_or_else(|| io::Error::other("there is no certificate yet"))?;
        start.into_stream(config).await.map(Some)
    }
}

/// What a server shows, and speaks then.
pub(super) fn config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

/// Certificate and key from files.
#[derive(Debug)]
pub(super) struct Files {
    files: TlsFiles,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    changed: [Option<SystemTime>; 2],
    looked: Instant,
}

impl Files {
    fn open(files: &TlsFiles) -> Result<Self, TlsError> {
        let current =
            Current { changed: changed(files), config: read(files)?, looked: Instant::now() };
        Ok(Self { files: files.clone(), current: Mutex::new(current) })
    }

    /// The newest pair of files that could be read.
    fn config(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() >= LOOK {
            current.looked = Instant::now();
            let changed = changed(&self.files);
            if changed != current.changed {
                match read(&self.files) {
                    Ok(config) => {
                        current.config = config;
                        current.changed = changed;
                    }
                    // Half of a pair may be written; the old one serves until both fit.
                    Err(error) => {
                        let error: &dyn std::error::Error = &error;
                        tracing::warn!(error, "the new certificate is not taken");
                    }
                }
            }
        }
        Arc::clone(&current.config)
    }
}

fn changed(files: &TlsFiles) -> [Option<SystemTime>; 2] {
    let time = |path: &Path| -> io::Result<SystemTime> { fs_err::metadata(path)?.modified() };
    [time(&files.certificate).ok(), time(&files.key).ok()]
}

fn read(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = read_certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key);
    let key = key.map_err(|error| TlsError::Read(files.key.clone(), error))?;
    let config = config(chain, key);
    config.map(Arc::new).map_err(|error| TlsError::Pair(files.certificate.clone(), error))
}

/// The certificates in a file.
pub(super) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| TlsError::Read(path.to_owned(), error))
}
