//! S3 servers on a loopback port: `s3s-fs`, which keeps objects as files, and `moto_server`.

use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use crate::{TempDir, need_tool};

/// The bucket that each server has.
const BUCKET: &str = "bucket";
const KEY: &str = "davit";
const SECRET: &str = "wonderland";
/// How long a server may take to listen: one of them is an interpreter with a large library.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running server with an empty bucket; dropping it ends it and removes its objects.
#[derive(Debug)]
pub struct S3 {
    child: Child,
    host: String,
    dir: TempDir,
}

impl S3 {
    /// Starts `s3s-fs`; records a skip where it is not installed.
    ///
    /// # Panics
    /// If it does not listen.
    #[must_use]
    pub fn start() -> Option<Self> {
        let program = need_tool("s3s-fs")?;
        let dir = TempDir::new();
        fs_err::create_dir(dir.join(BUCKET)).expect("the bucket is made");
        let mut command = Command::new(program);
        command.args(["--host", "127.0.0.1", "--port", "0"]);
        command.args(["--access-key", KEY, "--secret-key", SECRET]).arg(dir.path());
        command.env("RUST_LOG", "s3s_fs=info").env("NO_COLOR", "1");
        let mut child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::null()));
        let output = child.stdout.take().expect("stdout is piped");
        Some(Self { host: host_of(output), child, dir })
    }

    /// Starts moto's server; records a skip where it is not installed.
    ///
    /// # Panics
    /// If it does not listen.
    #[must_use]
    pub fn start_moto() -> Option<Self> {
        let program = need_tool("moto_server")?;
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", "0"]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = spawn(&mut command);
        let output = child.stderr.take().expect("stderr is piped");
        let server = Self { host: host_of(output), child, dir: TempDir::new() };
        server.make_bucket();
        Some(server)
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// URL of a prefix in the bucket, as `davit registry --store` takes it.
    #[must_use]
    pub fn url(&self, prefix: &str) -> String {
        self.url_by(&self.host, prefix)
    }

    /// The same by way of another server that passes requests on.
    #[must_use]
    pub fn url_by(&self, host: &str, prefix: &str) -> String {
        format!(
            "s3://{BUCKET}/{prefix}?endpoint=http://{host}&region=us-east-1\
             &access_key_id={KEY}&secret_access_key={SECRET}"
        )
    }

    /// Folder in which `s3s-fs` keeps the objects of a prefix under their names.
    #[must_use]
    pub fn folder(&self, prefix: &str) -> PathBuf {
        self.dir.join(BUCKET).join(prefix)
    }

    /// Asks without a signature, which moto does not want.
    fn make_bucket(&self) {
        let mut stream = TcpStream::connect(&self.host).expect("the server listens");
        let request = format!(
            "PUT /{BUCKET} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.host
        );
        stream.write_all(request.as_bytes()).expect("the request is sent");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("a reply comes");
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        self.child.wait().expect("the server is ours");
    }
}

fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).spawn().expect("the server starts")
}

/// Where a server says that it listens; the rest of what it says is read and forgotten.
fn host_of(output: impl Read + Send + 'static) -> String {
    let (sender, told) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let Some((_, rest)) = line.split_once("http://127.0.0.1:") else { continue };
            let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
            // Nobody listens to the second line that names the port.
            let _heard = sender.send(format!("127.0.0.1:{port}"));
        }
    });
    told.recv_timeout(PATIENCE).expect("the server says where it listens")
}
