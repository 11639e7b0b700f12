//! Registry servers, started on a directory and a free port.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    Extent, REPOSITORY,
    load::{Blobs, Connection},
};
use crate::bench::{measure, peers};

/// How long a server may take to listen, or to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// Account of the runs with authentication, and its password.
const ACCOUNT: &str = "bench";
const PASSWORD: &str = "a long enough password";

/// A program that serves a registry.
#[derive(Clone, Debug)]
pub(super) enum Program {
    Davit(PathBuf),
    DavitWithAuth(PathBuf),
    /// Distribution 3 or 2, of which the former lists in pages.
    Distribution {
        name: &'static str,
        path: PathBuf,
        has_pages: bool,
    },
    Zot(PathBuf),
}

/// Without it the CNCF registry answers 404 for manifests.
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, */*";

impl Program {
    /// Those that are here, davit first.
    pub(super) fn all(davit: &Path) -> Vec<Self> {
        let distribution =
            |name, has_pages| move |path| Self::Distribution { name, path, has_pages };
        let peers = [
            peers::find("registry").map(distribution("distribution 3.1", true)),
            peers::find("zot").map(Self::Zot),
            peers::find("docker-registry").map(distribution("Debian's 2.8", false)),
        ];
        let ours = [Self::Davit(davit.to_owned()), Self::DavitWithAuth(davit.to_owned())];
        ours.into_iter().chain(peers.into_iter().flatten()).collect()
    }

    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Davit(_) => "davit",
            Self::DavitWithAuth(_) => "davit, authentication",
            Self::Distribution { name, .. } => name,
            Self::Zot(_) => "zot",
        }
    }

    /// Whether it lists tags in pages, and many can be had without a push of each.
    pub(super) const fn can_list_many_tags(&self) -> bool {
        match self {
            Self::Davit(_) | Self::DavitWithAuth(_) => true,
            Self::Distribution { has_pages, .. } => *has_pages,
            Self::Zot(_) => false,
        }
    }

    fn command(&self, folder: &Path, address: SocketAddr) -> Result<Command> {
        let root = folder.join("storage");
        match self {
            Self::Davit(program) | Self::DavitWithAuth(program) => {
                let mut command = Command::new(program);
                command.args(["registry", "serve", "--listen", &address.to_string(), "--root"]);
                let is_open = matches!(self, Self::Davit(_));
                command.arg(root).args(["--auth", if is_open { "off" } else { "on" }]);
                Ok(command)
            }
            Self::Distribution { path: program, .. } => {
                let config = format!(
                    "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  \
                     filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n  maintenance:\n    \
                     uploadpurging:\n      enabled: false\nhttp:\n  addr: {address}\n",
                    root.display()
                );
                fs_err::write(folder.join("config.yml"), config)?;
                let mut command = Command::new(program);
                command.arg("serve").arg(folder.join("config.yml"));
                command.env("OTEL_TRACES_EXPORTER", "none");
                Ok(command)
            }
            Self::Zot(program) => {
                let config = serde_json::json!({
                    "distSpecVersion": "1.1.1",
                    "storage": { "rootDirectory": root, "gc": false },
                    "http": { "address": address.ip(), "port": address.port().to_string() },
                    "log": { "level": "error" },
                });
                fs_err::write(folder.join("config.json"), config.to_string())?;
                let mut command = Command::new(program);
                command.arg("serve").arg(folder.join("config.json"));
                Ok(command)
            }
        }
    }
}

/// A server that listens; dropping it ends it.
pub(super) struct Server {
    child: Child,
    program: Program,
    folder: PathBuf,
    address: SocketAddr,
    token: Option<String>,
}

impl Server {
    pub(super) fn start(program: &Program, folder: &Path) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        drop(listener);
        if let Program::DavitWithAuth(path) = program {
            add_account(path, folder)?;
        }
        let mut command = program.command(folder, address)?;
        let log = fs_err::File::create(folder.join("log"))?.into_parts().0;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let (program, folder) = (program.clone(), folder.to_owned());
        let mut server = Self { child, program, folder, address, token: None };
        server.wait()?;
        if matches!(server.program, Program::DavitWithAuth(_)) {
            server.token = Some(server.log_in()?);
        }
        Ok(server)
    }

    fn wait(&mut self) -> Result<()> {
        let start = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                let log = fs_err::read_to_string(self.folder.join("log"))?;
                bail!("{} ended with {status}: {log}", self.program.name());
            }
            ensure!(start.elapsed() < PATIENCE, "{} does not listen", self.program.name());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn log_in(&self) -> Result<String> {
        let scope = format!("repository:{REPOSITORY}:pull,push,delete");
        let url = format!("http://{}/token?service=davit-registry&scope={scope}", self.address);
        let mut command = Command::new("curl");
        command.args(["--fail", "--silent", "--show-error", "--user"]);
        command.arg(format!("{ACCOUNT}:{PASSWORD}")).arg(url);
        let reply: serde_json::Value =
            serde_json::from_str(&crate::process::output(&mut command)?)?;
        Ok(reply["token"].as_str().context("the reply has a token")?.to_owned())
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Fields of each request.
    pub(super) fn fields(&self) -> String {
        let authorization = self.token.as_ref().map(|it| format!("Authorization: Bearer {it}\r\n"));
        format!(
            "Host: {}\r\nAccept: {ACCEPT}\r\n{}",
            self.address,
            authorization.unwrap_or_default()
        )
    }

    /// Replies per second to 8 connections that ask for this.
    pub(super) fn wrk(&self, path: &str, seconds: u32) -> Result<f64> {
        let mut command = Command::new("wrk");
        command.args(["--header", &format!("Accept: {ACCEPT}")]);
        command.args(["-t2", "-c8", &format!("-d{seconds}s"), "--timeout", "30s"]);
        if let Some(token) = &self.token {
            command.arg("-H").arg(format!("Authorization: Bearer {token}"));
        }
        let text = crate::process::output(command.arg(format!("http://{}{path}", self.address)))?;
        let is_clean = !text.contains("Non-2xx") && !text.contains("Socket errors");
        ensure!(is_clean, "wrk saw errors: {text}");
        let line = text.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
        Ok(line.with_context(|| format!("wrk says no rate: {text}"))?.trim().parse()?)
    }

    /// Pushes a manifest `latest` with one layer; its digest.
    pub(super) fn push_image(&self, layers: &Blobs) -> Result<String> {
        let mut connection = Connection::open(self)?;
        let (config, layer) = (Blobs::of(32).number(0).digest, layers.number(0));
        connection.push(&Blobs::of(32).number(0))?;
        connection.push(&layer)?;
        let body = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\
             \"config\":{{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\
             \"digest\":\"{config}\",\"size\":32}},\"layers\":[{{\"mediaType\":\
             \"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"{}\",\"size\":{}}}]}}",
            layer.digest,
            layer.size()
        );
        let target = format!("/v2/{REPOSITORY}/manifests/latest");
        connection.put_manifest(&target, body.as_bytes())?;
        Ok(davit_image::Digest::of(body.as_bytes()).to_string())
    }

    pub(super) fn manifest(&self, extent: Extent, reference: &str) -> Result<f64> {
        self.push_image(&Blobs::of(10 << 10))?;
        self.wrk(&format!("/v2/{REPOSITORY}/manifests/{reference}"), extent.seconds())
    }

    pub(super) fn blob(&self, extent: Extent, size: usize) -> Result<f64> {
        let blobs = Blobs::of(size);
        Connection::open(self)?.push(&blobs.number(0))?;
        let path = format!("/v2/{REPOSITORY}/blobs/{}", blobs.number(0).digest);
        self.wrk(&path, extent.seconds())
    }

    /// Gives one manifest so many tags: by davit's pushes of many, else as distribution stores them.
    pub(super) fn push_tags(&self, count: usize) -> Result<()> {
        let digest = self.push_image(&Blobs::of(1 << 10))?;
        if let Program::Distribution { .. } = self.program {
            let tags = "storage/docker/registry/v2/repositories/bench/app/_manifests/tags";
            let tags = self.folder.join(tags);
            fs_err::remove_dir_all(tags.join("latest"))?;
            for number in 0..count {
                let current = tags.join(format!("t{number:06}/current"));
                fs_err::create_dir_all(&current)?;
                fs_err::write(current.join("link"), &digest)?;
            }
            return Ok(());
        }
        let mut connection = Connection::open(self)?;
        let path = format!("/v2/{REPOSITORY}/manifests/{digest}");
        let body = connection.fetch(&path)?;
        for first in (0..count).step_by(100) {
            let tags = (first..first + 100).map(|number| format!("tag=t{number:06}"));
            let query = tags.collect::<Vec<_>>().join("&");
            connection.put_manifest(&format!("{path}?{query}"), &body)?;
        }
        connection.delete(&format!("/v2/{REPOSITORY}/manifests/latest"))
    }

    /// Resident MiB.
    pub(super) fn resident(&self) -> Result<f64> {
        let bytes = measure::resident_bytes(self.child.id()).context("the server runs")?;
        Ok(mib(bytes))
    }

    /// The most that was resident, in MiB.
    pub(super) fn peak(&self) -> Result<f64> {
        Ok(mib(measure::peak_bytes(self.child.id()).context("the server runs")?))
    }

    /// The most that was resident in bytes, and processor time in seconds.
    pub(super) fn cost(&self) -> (u64, f64) {
        let pid = self.child.id();
        (measure::peak_bytes(pid).unwrap_or(0), measure::own_cpu_seconds(pid))
    }

    /// Ends it as an operator does: what it has in memory is written.
    pub(super) fn end(mut self) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends it.
    pub(super) fn stop(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn add_account(program: &Path, folder: &Path) -> Result<()> {
    use std::io::Write as _;

    let mut command = Command::new(program);
    command.args(["registry", "user", "add", ACCOUNT, "--admin", "--password-stdin", "--root"]);
    command.arg(folder.join("storage")).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn()?;
    child.stdin.take().context("stdin is piped")?.write_all(PASSWORD.as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "some decimals are shown")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
