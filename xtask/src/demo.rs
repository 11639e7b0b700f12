//! `cargo xtask demo`: davit's main job on real input, in front of the user.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use davit_test::{Access, Registry, TempDir};

use crate::{dist, packages, process};

const DOCKERFILE: &str = r#"# Two stages: the first makes the page, the second serves it.
FROM base AS page
ARG GREETING="Hello"
WORKDIR /work
COPY names.txt .
RUN mkdir site && while read -r name; do echo "<p>$GREETING, $name.</p>"; done < names.txt > site/index.html

FROM base AS unused
RUN exit 1

FROM base
COPY --from=page /work/site /srv
EXPOSE 8080
CMD ["busybox", "httpd", "-f", "-p", "8080", "-h", "/srv"]
"#;

struct Demo {
    davit: PathBuf,
    folder: TempDir,
}

/// Builds davit and walks through its main job; any step that fails ends the walk.
pub(crate) fn run() -> Result<()> {
    packages::install(&packages::missing(&[
        ("mmdebstrap", "/usr/bin/mmdebstrap"),
        ("docker-registry", "/usr/bin/docker-registry"),
    ]))?;
    let demo = Demo { davit: dist::build()?, folder: TempDir::new() };
    let result = demo.walk();
    // Also after a failure: the machine is left as it was found.
    let reset = process::run(&mut demo.davit(&["system", "reset", "--force"]));
    process::run(process::as_root("rm").arg("-rf").arg(demo.folder.join("root")))?;
    result.and(reset.context("cannot remove the demo's traces"))
}

impl Demo {
    fn walk(&self) -> Result<()> {
        heading("A base image, made from Debian packages");
        let archive = self.folder.join("base.tar");
        let mut bootstrap = process::as_root("mmdebstrap");
        bootstrap.args(["--quiet", "--variant=essential", "--include=busybox"]);
        show(bootstrap.arg(packages::release()).arg(&archive))?;
        self.show(&["import", &text(&archive), "base"])?;

        heading("Build a multi-stage Dockerfile on it");
        let context = self.folder.join("context");
        fs_err::create_dir(&context)?;
        fs_err::write(context.join("Dockerfile"), DOCKERFILE)?;
        fs_err::write(context.join("names.txt"), "world\n")?;
        let context = text(&context);
        self.show(&["build", "--tag", "site:1", &context])?;

        heading("List and tag it, run it with a published port, ask for its page");
        self.show(&["tag", "site:1", "site:stable"])?;
        self.show(&["images"])?;
        let port = free_port()?;
        let publish = format!("127.0.0.1:{port}:8080");
        self.show(&["run", "--detach", "--name", "demo", "--publish", &publish, "site:1"])?;
        self.show(&["ps"])?;
        let page = get(port)?;
        ensure!(page.contains("Hello, world."), "the page is wrong: {page}");
        println!("{page}");
        self.show(&["rm", "--force", "demo"])?;

        heading("Change one file and build again: what was cached, and why not");
        fs_err::write(Path::new(&context).join("names.txt"), "world\nagain\n")?;
        self.show(&["build", "--explain", "--tag", "site:2", &context])?;

        heading("Push it to a registry, remove it, pull it back with the same digest");
        let registry = Registry::start(Access::Open).context("docker-registry is needed")?;
        let remote = format!("{}/site:2", registry.host());
        self.show(&["tag", "site:2", &remote])?;
        self.show(&["push", &remote])?;
        let before = self.digest(&remote)?;
        self.show(&["rmi", "site:2", &remote])?;
        self.show(&["pull", &remote])?;
        let after = self.digest(&remote)?;
        ensure!(before == after, "the digest changed from {before} to {after}");
        println!("the same digest: {after}");

        heading("Save it as one file and load it again");
        let saved = text(&self.folder.join("site.tar"));
        self.show(&["save", "--output", &saved, &remote])?;
        self.show(&["rmi", &remote])?;
        self.show(&["load", "--input", &saved])?;
        self.show(&["images", "--digests"])
    }

    fn digest(&self, reference: &str) -> Result<String> {
        let format = "{{index .RepoDigests 0}}";
        process::output(&mut self.davit(&["image", "inspect", "--format", format, reference]))
    }

    fn show(&self, arguments: &[&str]) -> Result<()> {
        println!("\n$ davit {}", arguments.join(" "));
        process::run(&mut self.davit(arguments))
    }

    fn davit(&self, arguments: &[&str]) -> Command {
        let mut command = process::as_root(&self.davit);
        command.arg("--root").arg(self.folder.join("root"));
        command.arg("--run-root").arg(self.folder.join("root/run"));
        command.args(arguments);
        command
    }
}

fn heading(text: &str) {
    println!("\n== {text}");
}

fn show(command: &mut Command) -> Result<()> {
    println!("\n$ {}", command.get_program().to_string_lossy());
    process::run(command)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Asks for `/` until the server listens, for ten seconds at most.
fn get(port: u16) -> Result<String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match ask(port) {
            Ok(page) if !page.is_empty() => return Ok(page),
            result if Instant::now() > deadline => {
                return result.context("no answer on the published port");
            }
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn ask(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split("\r\n\r\n").nth(1).unwrap_or_default().trim().to_owned())
}
