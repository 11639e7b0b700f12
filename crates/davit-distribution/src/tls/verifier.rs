//! Who vouches for a server: nobody, or roots and certificates that the user has named.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

/// Verifier of servers' certificates; signatures must fit in any case.
#[derive(Debug)]
pub(super) struct Verifier {
    provider: Arc<CryptoProvider>,
    /// `None` takes every certificate: the user configured the registry as insecure.
    named: Option<Named>,
}

/// Roots and the authorities of `certs.d`; a server may also show one of these itself, as
/// `openssl req -x509` makes it: an authority that vouches for itself alone.
#[derive(Debug)]
struct Named {
    inner: Arc<WebPkiServerVerifier>,
    authorities: Vec<CertificateDer<'static>>,
}

impl Verifier {
    pub(super) const fn nothing(provider: Arc<CryptoProvider>) -> Self {
        Self { provider, named: None }
    }

    pub(super) fn named(
        mut roots: RootCertStore,
        authorities: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        roots.add_parsable_certificates(authorities.iter().cloned());
        let inner =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { provider, named: Some(Named { inner, authorities }) })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(Named { inner, authorities }) = &self.named else {
            return Ok(ServerCertVerified::assertion());
        };
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp, now) {
            Err(error) if is_authority(&error) && authorities.contains(end_entity) => {
                // The error comes after the validity period was found right, before the name.
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Tells the refusal of a server's certificate for being an authority's.
fn is_authority(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else { return false };
    other.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity)
}

#[cfg(test)]
mod tests {
    use std::{process::Command, time::Duration};

    use rustls::pki_types::pem::PemObject as _;

    use super::*;

    /// A certificate as Docker's manual has it made, for 30 days.
    fn self_signed() -> Option<CertificateDer<'static>> {
        let openssl = davit_test::need_tool("openssl")?;
        let folder = davit_test::TempDir::new();
        let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \
            -subj /CN=r -addext subjectAltName=DNS:r.test -keyout key -out crt";
        let output = Command::new(openssl)
            .args(arguments.split_whitespace())
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(CertificateDer::from_pem_file(folder.join("crt")).unwrap())
    }

    #[test]
    fn a_named_certificate_vouches_for_itself_alone() {
        let (Some(own), Some(other)) = (self_signed(), self_signed()) else { return };
        let now = UnixTime::now();
        let later = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() + 40 * 86_400));
        let earlier = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() - 86_400));
        let verify = |named: &CertificateDer<'static>, name: &'static str, time| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let verifier = Verifier::named(RootCertStore::empty(), vec![named.clone()], provider);
            let name = ServerName::try_from(name).unwrap();
            verifier.unwrap().verify_server_cert(&own, &[], &name, &[], time).is_ok()
        };
        assert!(verify(&own, "r.test", now));
        assert!(!verify(&other, "r.test", now), "another certificate of the same subject");
        assert!(!verify(&own, "s.test", now), "another name");
        assert!(!verify(&own, "r.test", later) && !verify(&own, "r.test", earlier));
    }
}
