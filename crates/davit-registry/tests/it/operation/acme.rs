//! Certificates by ACME, from Let's Encrypt's own server for tests.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use davit_distribution::{Client, TlsConfig, WebRequest};
use davit_registry::{
    config::Places,
    db::{Connection, DbError, Transaction, values},
    server::{AcmeSettings, ExternalAccount, Tls},
};
use davit_test::{Port, TempDir, is_taken, need_signed_certificate, need_tool, until};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde_json::json;

use super::tls::{ask, trusting};
use crate::fixture::TestRegistry;

/// An authority, which looks for proofs at [`Pebble::port`].
struct Pebble {
    program: PathBuf,
    child: Child,
    api: Port,
    management: Port,
    port: Port,
    names: SocketAddr,
    dir: TempDir,
}

impl Pebble {
    fn start() -> Option<Self> {
        Self::with(&[])
    }

    /// One that takes only accounts of its own, named here with their keys, if there are any.
    fn with(accounts: &[(&str, &str)]) -> Option<Self> {
        let program = need_tool("pebble")?;
        let dir = TempDir::new();
        need_signed_certificate(&dir)?;
        let [api, management, port] = [(); 3].map(|()| Port::reserve());
        let config = json!({ "pebble": {
            "listenAddress": api.address().to_string(),
            "managementListenAddress": management.address().to_string(),
            "certificate": dir.join("server.crt"),
            "privateKey": dir.join("server.key"),
            "httpPort": 1,
            "tlsPort": port.address().port(),
            "domainBlocklist": ["blocked.example"],
            "retryAfter": { "authz": 1, "order": 1 },
            "keyAlgorithm": "ecdsa",
            "externalAccountBindingRequired": !accounts.is_empty(),
            "externalAccountMACKeys": accounts.iter().copied().collect::<BTreeMap<_, _>>(),
        }});
        fs_err::write(dir.join("pebble.json"), config.to_string()).unwrap();
        let names = every_name_is_here();
        let child = run(&program, &dir, names, [&api, &management]);
        Some(Self { program, child, api, management, port, names, dir })
    }

    fn end(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again: it has forgotten everything.
    fn start_again(&mut self) {
        let ports = [&self.api, &self.management];
        self.child = run(&self.program, &self.dir, self.names, ports);
    }

    fn settings(&self, names: &[&str]) -> AcmeSettings {
        let mut settings = AcmeSettings::new(names.iter().map(|it| it.parse().unwrap()).collect());
        settings.directory = format!("https://{}/dir", self.api.address());
        settings.ca = Some(self.dir.join("ca.crt"));
        settings.contact = Some("admin@registry.example".to_owned());
        settings.pause = Duration::from_millis(50);
        settings.look = Duration::from_millis(20);
        settings
    }

    fn manage(&self, registry: &TestRegistry, request: WebRequest) -> Vec<u8> {
        let tls = TlsConfig { bundles: vec![self.dir.join("ca.crt")], directories: Vec::new() };
        let client = Client::new(davit_distribution::ClientConfig { tls, ..Default::default() });
        let reply = async {
            let mut reply = client.ask_once(&request).await?.success().await?;
            reply.read(1 << 20).await
        };
        registry.run(reply).unwrap().to_vec()
    }

    /// A client that trusts what this authority signs.
    fn client(&self, registry: &TestRegistry) -> Arc<ClientConfig> {
        let address = format!("https://{}/roots/0", self.management.address());
        let root = self.manage(registry, WebRequest::new("GET", address));
        trusting(&[CertificateDer::from_pem_slice(&root).unwrap()])
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn run(program: &PathBuf, dir: &TempDir, names: SocketAddr, ports: [&Port; 2]) -> Child {
    let mut command = Command::new(program);
    command.arg("-config").arg(dir.join("pebble.json")).arg("-dnsserver").arg(names.to_string());
    command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let child = command.spawn().unwrap();
    let listens = |port: &&Port| TcpStream::connect(port.address()).is_ok();
    until("pebble listens", || ports.iter().all(listens));
    child
}

/// A server of names (DNS over TCP, RFC 1035 § 4) for which all hosts are 127.0.0.1, as long as the
/// program runs.
fn every_name_is_here() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut length = [0; 2];
            if stream.read_exact(&mut length).is_err() {
                continue;
            }
            let mut message = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut message).unwrap();
            // After the head comes the name that is asked for, with type and class.
            let name = message[12..].iter().position(|byte| *byte == 0).unwrap();
            let question = &message[12..12 + name + 5];
            let is_address = question[name + 1..name + 3] == [0, 1];
            let head = [0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0];
            let mut reply = [&message[..2], &head, question].concat();
            if is_address {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            let length = u16::try_from(reply.len()).unwrap().to_be_bytes();
            stream.write_all(&[&length, &*reply].concat()).unwrap();
        }
    });
    address
}

fn serve(dir: TempDir, listen: SocketAddr, acme: AcmeSettings) -> TestRegistry {
    // A process that another test starts has the last server's socket until it becomes its program.
    until("the address is free", || !is_taken(listen));
    TestRegistry::serving(dir, |settings| {
        settings.listen = listen;
        settings.tls = Some(Tls::Acme(acme));
    })
}

/// Makes the certificate due; tells of it how many attempts failed.
struct MakeDue;

impl Transaction for MakeDue {
    type Output = i64;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<i64, DbError> {
        connection.execute("UPDATE acme_certificate SET due_at = 0", values![]).await?;
        let sql = "SELECT failures FROM acme_certificate";
        let row = connection.row(sql, values![]).await?;
        row.map_or(Ok(0), |row| row.get(0))
    }
}

fn make_due(registry: &TestRegistry) -> i64 {
    registry.run(registry.registry().database.write(MakeDue)).unwrap()
}

#[test]
fn a_certificate_is_had_kept_and_renewed() {
    let Some(mut pebble) = Pebble::start() else { return };
    let address = pebble.port.address();
    let settings = pebble.settings(&["registry.example", "127.0.0.1"]);
    let registry = serve(TempDir::new(), address, settings.clone());
    let client = pebble.client(&registry);
    let by = |client: &Arc<ClientConfig>| ask(address, client, "registry.example");
    let mut first = None;
    until("there is a certificate", || {
        first = by(&client);
        first.is_some()
    });
    assert_eq!(ask(address, &client, "127.0.0.1"), first, "it is for all names");
    assert_eq!(ask(address, &client, "other.example"), None);

    // It is renewed while clients come, and none is turned away.
    make_due(&registry);
    let mut second = None;
    until("it is renewed", || {
        second = Some(by(&client).expect("one or the other"));
        second != first
    });

    // The authority wants this one replaced now; that is heard when the server starts.
    let day = Duration::from_secs(24 * 60 * 60);
    let ended = time::OffsetDateTime::now_utc() - day;
    let rfc3339 = |time: time::OffsetDateTime| {
        time.format(&time::format_description::well_known::Rfc3339).unwrap()
    };
    let window =
        json!({ "suggestedWindow": { "start": rfc3339(ended - day), "end": rfc3339(ended) } });
    let address_of = format!("https://{}/set-renewal-info/", pebble.management.address());
    let mut request = WebRequest::new("POST", address_of);
    let certificate = pem(second.as_ref().unwrap());
    let body = json!({ "certificate": certificate, "ariResponse": window.to_string() });
    request.body = body.to_string().into();
    pebble.manage(&registry, request);
    let registry = serve(registry.stop(), address, settings.clone());
    let mut third = None;
    until("it is renewed as the authority wishes", || {
        third = Some(by(&client).expect("the one that was kept"));
        third != second
    });

    // Without the authority the old one serves, also after a restart.
    pebble.end();
    until("attempts fail", || make_due(&registry) >= 2);
    let registry = serve(registry.stop(), address, settings);
    assert_eq!(by(&client), third);

    // An authority that has lost the account gets another.
    pebble.start_again();
    let client = pebble.client(&registry);
    until("it is renewed once more", || {
        make_due(&registry);
        by(&client).is_some()
    });
    registry.stop();
}

#[test]
fn an_authority_may_want_an_account_of_its_own() {
    const KEY: &str = "YSBrZXkgdGhhdCB0aGUgYXV0aG9yaXR5IGdhdmUgdG8gdGhlIHRlYW0";
    const OTHER: &str = "YW5vdGhlciBrZXksIG9mIHdoaWNoIGl0IGtub3dzIG5vdGhpbmc";
    let Some(pebble) = Pebble::with(&[("team", KEY)]) else { return };
    let (address, here) = (pebble.port.address(), SocketAddr::from(([127, 0, 0, 1], 0)));
    let bound = |key: &str| {
        let external = ExternalAccount { key_id: "team".to_owned(), key: key.parse().unwrap() };
        AcmeSettings { external: Some(external), ..pebble.settings(&["registry.example"]) }
    };
    let mut dir = TempDir::new();
    for settings in [pebble.settings(&["registry.example"]), bound(OTHER)] {
        // The authority never comes to these; its port is taken once.
        let registry = serve(dir, here, settings);
        let before = make_due(&registry);
        until("the authority refuses", || make_due(&registry) >= before + 2);
        let client = pebble.client(&registry);
        assert_eq!(ask(registry.address(), &client, "registry.example"), None);
        dir = registry.stop();
    }
    let registry = serve(dir, address, bound(KEY));
    let client = pebble.client(&registry);
    until("there is a certificate", || {
        make_due(&registry);
        ask(address, &client, "registry.example").is_some()
    });
    registry.stop();
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    let text = STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

#[test]
fn an_attempt_of_a_server_that_is_stopped_is_the_next_ones() {
    // An authority that takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let mut settings = AcmeSettings::new(vec!["registry.example".parse().unwrap()]);
    settings.directory = format!("https://{}/dir", silent.local_addr().unwrap());
    let mut dir = TempDir::new();
    for _ in 0..2 {
        let registry = serve(dir, SocketAddr::from(([127, 0, 0, 1], 0)), settings.clone());
        let mut asked = None;
        until("the authority is asked", || {
            asked = silent.accept().ok();
            asked.is_some()
        });
        dir = registry.stop();
    }
}

#[test]
fn any_server_of_a_database_shows_the_proof() {
    let Some(pebble) = Pebble::start() else { return };
    let here = SocketAddr::from(([127, 0, 0, 1], 0));
    // The authority comes to the first one, whatever it looks for.
    let first = serve(TempDir::new(), pebble.port.address(), pebble.settings(&["blocked.example"]));
    let places = || {
        let root = first.dir.join("registry");
        Places { database: Some(crate::database::location(&root)), root, store: None }
    };
    let second = TestRegistry::serving(TempDir::new(), |settings| {
        settings.listen = here;
        settings.places = places();
        settings.tls = Some(Tls::Acme(pebble.settings(&["b.example"])));
    });
    let client = pebble.client(&first);
    until("the second one has a certificate", || {
        ask(second.address(), &client, "b.example").is_some()
    });
    assert_eq!(ask(first.address(), &client, "blocked.example"), None, "nobody gives it one");
    // A third one has it at once.
    let third = TestRegistry::serving(TempDir::new(), |settings| {
        settings.listen = here;
        settings.places = places();
        settings.tls = Some(Tls::Acme(pebble.settings(&["b.example"])));
    });
    assert!(ask(third.address(), &client, "b.example").is_some());
    for registry in [third, second, first] {
        registry.stop();
    }
}
