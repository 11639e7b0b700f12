//! A certificate that is renewed while clients connect.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use davit_registry::server::{Tls, TlsFiles};
use davit_test::{TempDir, need_tool};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, Stream,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

use crate::fixture::TestRegistry;

/// Makes a certificate of its own and its key.
fn certificate(openssl: &Path, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (chain, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \
                 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
                 -addext basicConstraints=critical,CA:FALSE";
    let mut command = Command::new(openssl);
    command.args(words.split_whitespace()).arg("-keyout").arg(&key).arg("-out").arg(&chain);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (chain, key)
}

/// Asks for `/healthz`; the certificate that the server showed, if the client took it.
pub(super) fn ask(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    name: &str,
) -> Option<CertificateDer<'static>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    let mut stream = Stream::new(&mut connection, &mut socket);
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).ok()?;
    let mut reply = Vec::new();
    // A server may close without a word of TLS.
    let _closed = stream.read_to_end(&mut reply);
    assert!(reply.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&reply));
    Some(connection.peer_certificates().unwrap()[0].clone().into_owned())
}

/// A client that trusts these.
pub(super) fn trusting(certificates: &[CertificateDer<'static>]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

#[test]
fn a_renewed_certificate_is_taken_while_clients_connect() {
    let Some(openssl) = need_tool("openssl") else { return };
    let dir = TempDir::new();
    let pairs = ["old", "new"].map(|name| certificate(&openssl, dir.path(), name));
    let [old, new] = [0, 1].map(|n| CertificateDer::from_pem_file(&pairs[n].0).unwrap());
    let files = TlsFiles { certificate: dir.join("crt"), key: dir.join("key") };
    let put = |from: &Path, to: &Path| {
        let half = to.with_extension("half");
        fs_err::copy(from, &half).unwrap();
        fs_err::rename(half, to).unwrap();
    };
    put(&pairs[0].0, &files.certificate);
    put(&pairs[0].1, &files.key);
    let served = files.clone();
    let registry =
        TestRegistry::serving(TempDir::new(), |settings| settings.tls = Some(Tls::Files(served)));
    let config = trusting(&[old.clone(), new.clone()]);
    let ask = || ask(registry.address(), &config, "localhost").expect("it is trusted");
    assert_eq!(ask(), old);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = Vec::new();
                    while !over.load(Ordering::SeqCst) {
                        seen.push(ask());
                    }
                    seen
                })
            })
            .collect();
        // First one of the pair alone: the old pair serves on.
        put(&pairs[1].0, &files.certificate);
        put(&pairs[1].1, &files.key);
        let mut tries = 0;
        while ask() != new {
            tries += 1;
            assert!(tries < 100_000, "the new certificate is taken");
        }
        over.store(true, Ordering::SeqCst);
        for client in clients {
            let seen = client.join().unwrap();
            let first_new = seen.iter().position(|one| *one == new).unwrap_or(seen.len());
            assert!(seen[first_new..].iter().all(|one| *one == new), "the old one does not return");
        }
    });
}
