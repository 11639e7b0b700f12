//! TLS: roots from the system's bundle, `certs.d`, client certificates; rustls with ring.

mod verifier;

use std::{
    error::Error as StdError,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use fs_err as fs;
use rustls::{
    ClientConfig as TlsClient, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use self::verifier::Verifier;
use crate::{ClientConfig, ConfigError, TlsConfig};

/// Whether certificates are verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Verify {
    /// Against the roots.
    Roots,
    /// Not at all: the registry was configured as insecure.
    Nothing,
    /// Against the roots if `certs.d` names an authority, else not at all: the registry is on this
    /// machine.
    IfNamed,
}

/// The system's roots, or the compiled-in ones where the system has none.
pub(crate) fn system_roots(config: &TlsConfig) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for bundle in &config.bundles {
        // A bundle that cannot be used is like one that is absent: the next may do.
        let Ok(found) = read_certificates(bundle, Malformed::Skip) else { continue };
        roots.add_parsable_certificates(found);
        break;
    }
    for folder in &config.directories {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for entry in entries.flatten() {
            if let Ok(found) = read_certificates(&entry.path(), Malformed::Skip) {
                roots.add_parsable_certificates(found);
            }
        }
    }
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// What becomes of a malformed certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Malformed {
    /// The others of its file count: a system's bundle is not the user's work.
    Skip,
    /// Its file is refused.
    Refuse,
}

/// Certificates of one registry by `certs.d`.
#[derive(Debug, Default)]
pub(crate) struct HostCertificates {
    authorities: Vec<CertificateDer<'static>>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl HostCertificates {
    /// Reads `DIRECTORY/HOST[:PORT]/` of every configured directory.
    pub(crate) fn read(config: &ClientConfig, host: &str) -> Result<Self, ConfigError> {
        let mut found = Self::default();
        // A host is a name, an address and a port by grammar, never a path.
        for folder in &config.certificate_directories {
            let Ok(entries) = fs::read_dir(folder.join(host)) else { continue };
            let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort();
            for path in paths {
                found.add(&path)?;
            }
        }
        Ok(found)
    }

    /// What verifying comes to for this host.
    const fn settle(&self, verify: Verify) -> Verify {
        match verify {
            Verify::IfNamed if self.authorities.is_empty() => Verify::Nothing,
            Verify::IfNamed => Verify::Roots,
            settled => settled,
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.authorities.is_empty() && self.identity.is_none()
    }

    fn add(&mut self, path: &Path) -> Result<(), ConfigError> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => self.authorities.extend(read_certificates(path, Malformed::Refuse)?),
            Some("cert") => {
                let key = path.with_extension("key");
                if !key.exists() {
                    return Err(ConfigError::Partner { path: path.to_owned() });
                }
                let pem = fs::read(&key).map_err(|e| unusable(&key, e))?;
                let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| unusable(&key, e))?;
                self.identity.get_or_insert((read_certificates(path, Malformed::Refuse)?, private));
            }
            Some("key") if !path.with_extension("cert").exists() => {
                return Err(ConfigError::Partner { path: path.to_owned() });
            }
            _ => {}
        }
        Ok(())
    }
}

/// Reads a file of at least one certificate.
fn read_certificates(
    path: &Path,
    malformed: Malformed,
) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let pem = fs::read(path).map_err(|e| unusable(path, e))?;
    let all = CertificateDer::pem_slice_iter(&pem);
    let all: Vec<_> = match malformed {
        Malformed::Skip => all.flatten().collect(),
        Malformed::Refuse => all.collect::<Result<_, _>>().map_err(|e| unusable(path, e))?,
    };
    if all.is_empty() {
        let empty = io::Error::new(io::ErrorKind::InvalidData, "there is no PEM certificate in it");
        return Err(unusable(path, empty));
    }
    Ok(all)
}

fn unusable(path: &Path, source: impl StdError + Send + Sync + 'static) -> ConfigError {
    ConfigError::Certificate { path: path.to_owned(), source: Box::new(source) }
}

/// Builds the TLS side of a host's connections.
pub(crate) fn client(
    roots: &RootCertStore,
    host: HostCertificates,
    verify: Verify,
) -> Result<TlsClient, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = TlsClient::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match host.settle(verify) {
        Verify::Nothing => {
            let verifier = Arc::new(Verifier::nothing(provider));
            builder.dangerous().with_custom_certificate_verifier(verifier)
        }
        Verify::Roots | Verify::IfNamed if host.authorities.is_empty() => {
            builder.with_root_certificates(roots.clone())
        }
        Verify::Roots | Verify::IfNamed => {
            let verifier = Arc::new(Verifier::named(roots.clone(), host.authorities, provider)?);
            builder.dangerous().with_custom_certificate_verifier(verifier)
        }
    };
    match host.identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// Tells whether a connection failed because the peer's certificate does not verify, or because
/// the peer asked for a certificate of ours: then it does speak TLS.
pub(crate) fn is_certificate_error(error: &reqwest::Error) -> bool {
    use rustls::{AlertDescription as Alert, Error as Tls};
    matches!(
        find_tls_error(error),
        Some(
            Tls::InvalidCertificate(_)
                | Tls::NoCertificatesPresented
                | Tls::AlertReceived(
                    Alert::CertificateRequired
                        | Alert::BadCertificate
                        | Alert::UnknownCA
                        | Alert::HandshakeFailure
                        | Alert::ProtocolVersion
                )
        )
    )
}

/// Tells whether the peer answered with something that is no TLS at all.
pub(crate) fn is_no_tls(error: &reqwest::Error) -> bool {
    use rustls::{Error as Tls, InvalidMessage};
    matches!(find_tls_error(error), Some(Tls::InvalidMessage(InvalidMessage::InvalidContentType)))
}

fn find_tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        // An io::Error hides what it wraps from `source`.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = match wrapped {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
