//! Server processes on one database and one object store, each with a collector; some are killed.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::Child,
    sync::{Arc, atomic::Ordering},
};

use davit_registry::{
    config::Limits,
    gc::{self, GcReport, Mode},
    server::{ServeSettings, Server, TrustedProxies},
};

use super::{Counts, SETTINGS, second, wire::Addresses};
use crate::{
    bench::read_places,
    failures::{say, start},
};

/// What a server's process does until it is killed: as `davit registry serve`, with leases that are
/// shorter than its command line takes, and a collector that runs each second.
pub(crate) fn serve(folder: &Path) {
    let limits = Limits {
        lease: SETTINGS.lease,
        trash_delay: SETTINGS.trash_delay,
        undo: SETTINGS.undo,
        referrers: SETTINGS.referrers,
        ..Limits::default()
    };
    let settings = ServeSettings {
        places: read_places(folder),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        tls: None,
        plain_http: false,
        auth: false,
        proxies: TrustedProxies::default(),
        public_url: None,
        otlp: None,
        limits,
    };
    crate::bench::runtime().block_on(async {
        let server = Server::start(settings).await.unwrap();
        say(&format!("serving {}", server.address()));
        let registry = server.registry();
        let mut second = second();
        loop {
            second.tick().await;
            let report =
                gc::run_once(&registry.database, &registry.store, &SETTINGS, Mode::Collect).await;
            let GcReport { manifests, links, blobs, objects, lost, .. } = report.unwrap();
            assert_eq!(lost, 0);
            say(&format!("collected {}", manifests + links + blobs + objects));
        }
    });
}

/// The processes, in the order of their addresses.
pub(super) struct Servers<'a> {
    folder: &'a Path,
    counts: Arc<Counts>,
    pub(super) addresses: Addresses,
    children: Vec<Child>,
}

impl<'a> Servers<'a> {
    pub(super) fn start(folder: &'a Path, counts: Arc<Counts>, number: usize) -> Self {
        let mut servers = Self { folder, counts, addresses: Arc::default(), children: Vec::new() };
        for _ in 0..number {
            let (child, address) = servers.start_one();
            servers.children.push(child);
            servers.addresses.lock().unwrap().push(address);
        }
        servers
    }

    fn start_one(&self) -> (Child, SocketAddr) {
        let mut child = start("serve", self.folder, &[]);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        // The first line begins with the test runner's words.
        let serving = |line: String| line.split_once("serving ").map(|(_, to)| to.parse().unwrap());
        let address = lines.find_map(serving).expect("the server says where it listens");
        let counts = Arc::clone(&self.counts);
        std::thread::spawn(move || {
            for line in lines {
                if let Some(number) = line.strip_prefix("collected ") {
                    counts.collected.fetch_add(number.parse().unwrap(), Ordering::SeqCst);
                }
            }
        });
        (child, address)
    }

    /// Kills one, and starts another in its place.
    pub(super) fn replace(&mut self, at: usize) {
        kill(&mut self.children[at]);
        let (child, address) = self.start_one();
        self.children[at] = child;
        self.addresses.lock().unwrap()[at] = address;
    }
}

impl Drop for Servers<'_> {
    fn drop(&mut self) {
        for child in &mut self.children {
            if std::thread::panicking() {
                // One that ended by itself is what the test is about to tell.
                let _ended = child.kill();
                let _status = child.wait();
            } else {
                kill(child);
            }
        }
    }
}

/// Kills a server, which must have been at work until now.
fn kill(child: &mut Child) {
    assert_eq!(child.try_wait().unwrap(), None, "a server ended by itself");
    child.kill().unwrap();
    child.wait().unwrap();
}
