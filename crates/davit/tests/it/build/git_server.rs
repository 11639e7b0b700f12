//! Repositories, served by git's own `http-backend`.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use davit_test::{HttpServer, Reply, Request, TempDir, need_tool};

/// Who may read.
pub(crate) type Allow = fn(&Request) -> bool;

/// A folder of repositories and the server that shows them.
pub(crate) struct GitServer {
    pub(crate) server: HttpServer,
    folder: TempDir,
}

impl GitServer {
    pub(crate) fn start(allow: Allow) -> Option<Self> {
        need_tool("git")?;
        let folder = TempDir::new();
        let root = folder.path().to_path_buf();
        let server = HttpServer::start(move |request| {
            if allow(request) { backend(&root, request) } else { refused(request) }
        });
        Some(Self { server, folder })
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.server.host())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A new repository with a work tree.
    pub(crate) fn repository(&self, name: &str) -> Repository {
        self.repository_of(name, "sha1")
    }

    /// A new repository whose objects are named by this algorithm.
    pub(crate) fn repository_of(&self, name: &str, algorithm: &str) -> Repository {
        let tree = self.path(name);
        fs::create_dir(&tree).unwrap();
        let repository = Repository { tree };
        repository.git(&["init", "-q", "-b", "main", "--object-format", algorithm]);
        repository
    }

    /// How often objects were sent.
    pub(crate) fn fetches(&self) -> usize {
        let sent = |request: &Request| {
            request.path.ends_with("/git-upload-pack")
                && String::from_utf8_lossy(&request.body).contains("command=fetch")
        };
        self.server.requests().iter().filter(|request| sent(request)).count()
    }
}

pub(crate) struct Repository {
    tree: PathBuf,
}

impl Repository {
    pub(crate) fn git(&self, args: &[&str]) -> String {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=n", "-c", "user.email=e", "-c", "tag.gpgSign=false"]);
        command.args(["-c", "protocol.file.allow=always"]).args(args).current_dir(&self.tree);
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
        for name in ["GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"] {
            command.env(name, "1136214245 +0000");
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Commits a file; gives the commit's name.
    pub(crate) fn commit(&self, path: &str, content: &str) -> String {
        let file = self.tree.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", path]);
        self.git(&["rev-parse", "HEAD"])
    }

    pub(crate) fn tree(&self) -> &Path {
        &self.tree
    }
}

fn refused(_request: &Request) -> Reply {
    Reply::status(401).header("WWW-Authenticate", "Basic realm=\"x\"")
}

/// Runs git's CGI program (RFC 3875).
fn backend(root: &Path, request: &Request) -> Reply {
    let mut command = Command::new("git");
    command.arg("http-backend").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("REQUEST_METHOD", &request.method)
        .env("PATH_INFO", &request.path)
        .env("QUERY_STRING", &request.query)
        .env("CONTENT_TYPE", request.header("content-type").unwrap_or_default())
        .env("HTTP_CONTENT_ENCODING", request.header("content-encoding").unwrap_or_default())
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("GIT_PROTOCOL", request.header("git-protocol").unwrap_or_default());
    let mut child = command.spawn().unwrap();
    let (mut stdin, body) = (child.stdin.take().unwrap(), request.body.clone());
    let writer = std::thread::spawn(move || {
        // What is not read is not missed.
        let _unread = stdin.write_all(&body);
    });
    let output = child.wait_with_output().unwrap().stdout;
    writer.join().unwrap();
    let end = output.windows(4).position(|it| it == b"\r\n\r\n").unwrap_or(output.len());
    let head = String::from_utf8_lossy(&output[..end]).into_owned();
    let mut reply = Reply::status(200);
    for (name, value) in head.lines().filter_map(|line| line.split_once(": ")) {
        if name == "Status" {
            reply = Reply::status(value[..3].parse().unwrap());
        } else {
            reply = reply.header(name, value);
        }
    }
    reply.body(output.get(end + 4..).unwrap_or_default())
}
