//! Debian's `docker-registry` on a loopback port, with its own storage.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use crate::{Port, TempDir, need_tool, until};

/// Who may use the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everyone, over plain HTTP.
    Open,
    /// The user `alice` with the password `wonderland` (Basic), over TLS of the CA in
    /// [`Registry::ca_file`].
    PasswordAndTls,
    /// Whoever shows a certificate of that CA, as in [`Registry::client_files`], over TLS.
    ClientCertificate,
    /// Everyone, over TLS with one certificate that signs itself, in [`Registry::ca_file`] too.
    SelfSigned,
}

/// A running registry; dropping it ends it and removes its storage.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    port: Port,
    dir: TempDir,
}

impl Registry {
    /// Starts a registry; records a skip where a program for it is missing.
    ///
    /// # Panics
    /// If it does not listen.
    #[must_use]
    pub fn start(access: Access) -> Option<Self> {
        let program = need_tool("docker-registry")?;
        let dir = TempDir::new();
        let port = Port::reserve();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {}\n",
            dir.join("storage").display(),
            port.address(),
        );
        let folder = dir.path().display().to_string();
        if access != Access::Open {
            make_certificates(&dir, access)?;
            config += &format!(
                "  tls:\n    certificate: {folder}/server.crt\n    key: {folder}/server.key\n"
            );
        }
        match access {
            Access::Open | Access::SelfSigned => {}
            Access::PasswordAndTls => {
                make_password_file(&dir)?;
                config +=
                    &format!("auth:\n  htpasswd:\n    realm: test\n    path: {folder}/htpasswd\n");
            }
            Access::ClientCertificate => {
                config += &format!("    clientcas:\n      - {folder}/ca.crt\n");
            }
        }
        fs_err::write(dir.join("config.yml"), config).expect("the config is written");
        let child = Command::new(program)
            .arg("serve")
            .arg(dir.join("config.yml"))
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry starts");
        let mut registry = Self { child, port, dir };
        registry.wait_until_it_listens();
        Some(registry)
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn host(&self) -> String {
        self.port.address().to_string()
    }

    /// The certificate authority of a registry with TLS.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// Certificate and key of a client that its authority vouches for.
    #[must_use]
    pub fn client_files(&self) -> [PathBuf; 2] {
        ["client.crt", "client.key"].map(|name| self.dir.join(name))
    }

    /// Folder of the registry's storage.
    #[must_use]
    pub fn storage(&self) -> PathBuf {
        self.dir.join("storage")
    }

    fn wait_until_it_listens(&mut self) {
        let address = self.port.address();
        until("docker-registry listens", || {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                let stderr = self.child.stderr.take().expect("stderr is piped");
                let lines: Vec<_> = BufReader::new(stderr).lines().map_while(Result::ok).collect();
                panic!("docker-registry ended with {status}: {}", lines.join("\n"));
            }
            TcpStream::connect(address).is_ok()
        });
        // Its log must not fill the pipe and stop it.
        let stderr = self.child.stderr.take().expect("stderr is piped");
        std::thread::spawn(move || BufReader::new(stderr).lines().for_each(drop));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself; then both calls fail, which is no fault of the test.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn make_password_file(dir: &TempDir) -> Option<()> {
    let program = need_tool("htpasswd")?;
    let output = Command::new(program)
        .args(["-Bbn", "alice", "wonderland"])
        .output()
        .expect("htpasswd starts");
    fs_err::write(dir.join("htpasswd"), output.stdout).expect("the password file is written");
    Some(())
}

/// Puts a certificate for 127.0.0.1 into the directory: `server.crt` and its `server.key`; skips
/// where openssl is missing.
#[must_use]
pub fn need_certificate(dir: &TempDir) -> Option<()> {
    make_certificates(dir, Access::SelfSigned)
}

/// Puts a certificate for 127.0.0.1 by an authority of its own into the directory: `ca.crt`, `server.crt`
/// and `server.key`; skips where openssl is missing.
#[must_use]
pub fn need_signed_certificate(dir: &TempDir) -> Option<()> {
    make_certificates(dir, Access::PasswordAndTls)
}

fn make_certificates(dir: &TempDir, access: Access) -> Option<()> {
    let program = need_tool("openssl")?;
    fs_err::write(
        dir.join("san"),
        "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:registry.invalid\n",
    )
    .expect("written");
    fs_err::write(dir.join("use"), "extendedKeyUsage=clientAuth\n").expect("written");
    let self_signed = [
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout server.key -out server.crt",
        "x509 -in server.crt -out ca.crt",
    ];
    let signed = [
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=davit-test-ca -keyout ca.key -out ca.crt",
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout server.key -out server.csr",
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile san -out server.crt",
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=client -keyout client.key -out client.csr",
        "x509 -req -in client.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile use -out client.crt",
    ];
    let steps = if access == Access::SelfSigned { &self_signed[..] } else { &signed };
    for step in steps {
        let output = Command::new(&program)
            .args(step.split(' '))
            .current_dir(dir.path())
            .output()
            .expect("openssl starts");
        assert!(output.status.success(), "{step}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_registry_start() {
        for access in
            [Access::Open, Access::PasswordAndTls, Access::ClientCertificate, Access::SelfSigned]
        {
            let Some(registry) = Registry::start(access) else { return };
            assert!(registry.host().starts_with("127.0.0.1:"));
        }
    }
}
