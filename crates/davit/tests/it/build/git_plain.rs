//! Git repositories that are plain files of a web server, and what is kept of one.

use std::fs;

use davit_test::{HttpServer, Reply, TempDir};

use super::{bench::Bench, git_server::GitServer};
use crate::build_judge::archive;

/// A repository and its submodule, both of them plain files.
fn repositories(git: &GitServer) -> Option<(HttpServer, String)> {
    let folder = git.path("");
    let server = HttpServer::start(move |request| {
        match fs::read(folder.join(request.path.trim_start_matches('/'))) {
            Ok(bytes) => Reply::ok(bytes),
            Err(_) => Reply::status(404),
        }
    });
    let inner = git.repository("inner");
    inner.commit("i", "inner");
    inner.git(&["update-server-info"]);
    let outer = git.repository("outer");
    let url = |name: &str| format!("http://{}/{name}/.git", server.host());
    outer.git(&["submodule", "add", "-q", &url("inner"), "sub"]);
    outer.commit("o", "outer");
    outer.git(&["update-server-info"]);
    let url = url("outer");
    Some((server, url))
}

/// Such a server leaves no history out.
#[test]
fn a_repository_may_be_plain_files() {
    let Some(git) = GitServer::start(|_| true) else { return };
    let (Some((_server, url)), Some(bench)) = (repositories(&git), Bench::new(&[])) else { return };
    bench.write("Dockerfile", &format!("FROM scratch\nADD {url} /\n"));
    let out = bench.files(&[]);
    assert_eq!(fs::read_to_string(out.join("o")).unwrap(), "outer");
    assert_eq!(fs::read_to_string(out.join("sub/i")).unwrap(), "inner");
}

#[test]
fn a_git_directory_is_the_same_each_time() {
    let Some(git) = GitServer::start(|_| true) else { return };
    let Some((_server, url)) = repositories(&git) else { return };
    let work = TempDir::new();
    let layer = |name: &str| {
        let bench = Bench::new(&[])?;
        let source = format!("{url}?keep-git-dir=1&mtime=commit");
        bench.write("Dockerfile", &format!("FROM scratch\nADD {source} /\n"));
        let tar = work.join(name);
        let spec = format!("type=tar,dest={}", tar.display());
        let outcome = bench.run(&["-o", &spec]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        Some(archive::files(&tar))
    };
    let (Some(one), Some(other)) = (layer("one"), layer("other")) else { return };
    assert!(one.contains_key(".git/modules/sub/HEAD"), "{:?}", one.keys());
    let differ: Vec<_> =
        one.iter().filter(|(name, bytes)| other.get(*name) != Some(bytes)).collect();
    let differ: Vec<_> = differ.into_iter().map(|(name, _)| name).collect();
    assert_eq!(differ, Vec::<&String>::new());
    assert_eq!(one.len(), other.len());
}

/// The protocol has none: git would take one for the host's name, and show it.
#[test]
fn an_account_of_the_git_protocol_is_not_shown() {
    let Some(bench) = Bench::new(&[]) else { return };
    let source = "git://user:secret@127.0.0.1:9/r.git";
    bench.write("Dockerfile", &format!("FROM scratch\nADD {source} /r/\n"));
    let told = bench.run(&["--progress", "quiet"]).stderr;
    assert!(told.contains("127.0.0.1"), "{told}");
    // The Dockerfile's own line is shown as it is.
    let told: Vec<&str> = told.lines().filter(|line| !line.contains("ADD git:")).collect();
    assert!(!told.join("\n").contains("secret"), "{told:?}");
}
