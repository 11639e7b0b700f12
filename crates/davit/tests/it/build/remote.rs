//! `ADD` of what lies elsewhere: files of web servers and git repositories.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use davit_test::{HttpServer, Reply, Request};

use super::{
    bench::{Bench, list, tar_file, with_owners},
    git_server::GitServer,
};

const MODIFIED: &str = "Mon, 02 Jan 2006 15:04:05 GMT";
const MODIFIED_SECONDS: i64 = 1_136_214_245;

fn archive() -> Vec<u8> {
    [tar_file("in/x", b"x"), vec![0; 1024]].concat()
}

#[test]
fn adds_files_of_web_servers() {
    let server = HttpServer::start(|request| match request.path.as_str() {
        "/a/f.txt" => Reply::ok("remote").header("Last-Modified", MODIFIED),
        "/a.tar" => Reply::ok(archive()),
        "/moved" => Reply::status(302).header("Location", "/a/f.txt"),
        "/b/local" => Reply::ok("remote"),
        "/gl%5Bo%5Db*" | "/" => Reply::ok("odd"),
        _ => Reply::status(404),
    });
    let Some(bench) = Bench::new(&[("local", "local")]) else { return };
    let url = format!("http://{}", server.host());
    bench.write(
        "Dockerfile",
        &format!(
            "ARG GLOBAL\nFROM scratch\nARG HOST={url}\nADD $HOST/a/f.txt?q=1 /named\n\
             ADD {url}/a/f.txt /dir/\n\
             ADD --chmod=644 --chown=5:6 {url}/ {url}/gl%5Bo%5Db* /odd/\n\
             ADD {url}/a.tar /packed/\n\
             ADD --unpack=true {url}/a.tar {url}/moved /unpacked/\n\
             ADD --unpack {url}/a/f.txt /text\n\
             ADD local {url}/a/f.txt /mixed/\n\
             ADD {url}/b/local local /ba/\n\
             ADD local {url}/b/local /ab/\n"
        ),
    );
    // Of two sources of one name the later one wins.
    let build = |spec: &str| bench.run(&["-o", spec]);
    let Some(files) = with_owners(&bench.davit, build) else { return };
    let lines = list(&files);
    for expected in [
        "named 600 remote",
        "dir/f.txt 600 remote",
        "odd/__unnamed__ 644 odd",
        "odd/gl[o]b* 644 odd",
        "unpacked/in/x 644 x",
        "unpacked/moved 600 remote",
        "text 600 remote",
        "mixed/local 644 local",
        "mixed/f.txt 600 remote",
        "ba/local 644 local",
        "ab/local 600 remote",
    ] {
        assert!(lines.contains(&expected.to_owned()), "{expected}: {lines:?}");
    }
    assert!(fs::read(files.join("packed/a.tar")).unwrap() == archive());
    let facts = |path: &str| fs::symlink_metadata(files.join(path)).unwrap();
    assert_eq!(facts("named").mtime(), MODIFIED_SECONDS);
    assert_eq!(facts("packed/a.tar").mtime(), 0, "a file without a time");
    assert_eq!((facts("odd/__unnamed__").uid(), facts("odd/__unnamed__").gid()), (5, 6));
    assert_eq!((facts("named").uid(), facts("named").gid()), (0, 0));
}

/// A server that knows whether its file changed, and counts what it sends.
fn versions(sent: &Arc<AtomicUsize>, version: &Arc<AtomicUsize>) -> HttpServer {
    let (sent, version) = (Arc::clone(sent), Arc::clone(version));
    HttpServer::start(move |request: &Request| {
        let version = version.load(Ordering::Relaxed);
        let tag = format!("\"{version}\"");
        let modified = format!("Mon, 02 Jan 2006 15:04:{version:02} GMT");
        let same = match request.path.as_str() {
            "/tagged" => request.header("if-none-match") == Some(&tag),
            "/timed" => request.header("if-modified-since") == Some(&modified),
            _ => false,
        };
        if same {
            return Reply::status(304);
        }
        sent.fetch_add(1, Ordering::Relaxed);
        let reply = Reply::ok(format!("version {version}"));
        match request.path.as_str() {
            "/tagged" => reply.header("ETag", tag),
            "/timed" => reply
                .header("Last-Modified", modified)
                .header("Date", "Tue, 03 Jan 2006 00:00:00 GMT"),
            _ => reply,
        }
    })
}

#[test]
fn asks_whether_a_file_changed() {
    let (sent, version) = (Arc::default(), Arc::default());
    let server = versions(&sent, &version);
    let Some(bench) = Bench::new(&[]) else { return };
    let adds = ["tagged", "timed", "plain"];
    let adds = adds.map(|name| format!("ADD http://{}/{name} /{name}\n", server.host()));
    bench.write("Dockerfile", &format!("FROM scratch\n{}", adds.concat()));
    let sends = || sent.swap(0, Ordering::Relaxed);
    let first = bench.build(&[]);
    assert_eq!(sends(), 3);
    let again = bench.run(&[]);
    assert!(again.stderr.contains("(3 of 3 steps cached)"), "{}", again.stderr);
    assert_eq!(bench.config(&again), first);
    assert_eq!(sends(), 1, "only what says nothing of itself is sent again");
    version.store(1, Ordering::Relaxed);
    let changed = bench.run(&["--explain"]);
    assert!(changed.stderr.contains("(0 of 3 steps cached)"), "{}", changed.stderr);
    assert!(changed.stderr.contains("fetch http://"), "the cause is named: {}", changed.stderr);
    assert_eq!(sends(), 3);
    assert_eq!(list(&bench.files(&[]))[0], "plain 600 version 1");
    // Two stages that want one file ask for it once.
    let add = format!("ADD http://{}/plain /plain", server.host());
    let two = format!("FROM scratch AS a\n{add}\nFROM scratch\n{add}\nCOPY --from=a /plain /b\n");
    bench.write("Dockerfile", &two);
    sends();
    bench.build(&[]);
    assert_eq!(sends(), 1);
    // What no stage of the target needs is not asked for.
    bench.write("Dockerfile", &format!("FROM scratch AS a\n{add}\nFROM scratch\nLABEL a=b\n"));
    bench.build(&[]);
    assert_eq!(sends(), 0);
}

#[test]
fn a_checksum_is_what_the_file_must_have() {
    let (sent, version) = (Arc::default(), Arc::default());
    let server = versions(&sent, &version);
    let Some(bench) = Bench::new(&[("f", "1")]) else { return };
    let digest = "sha256:5257e54c4acc2cab7e07bc72ba15c44bd7e4d9c5e2b6cd3bc3ee5ad9e4e0a2d9";
    let url = format!("http://{}/plain", server.host());
    let add = |flags: &str, sources: &str| {
        bench.write("Dockerfile", &format!("FROM scratch\nARG NONE\nADD {flags} {sources} /d/\n"));
        bench.run(&[])
    };
    let wrong = add(&format!("--checksum={digest}"), &url);
    assert_eq!(wrong.code, 1, "{}", wrong.stderr);
    let found = wrong.stderr.split("its digest is ").nth(1).unwrap()[..71].to_owned();
    assert!(wrong.stderr.contains("Dockerfile:3"), "{}", wrong.stderr);
    assert!(wrong.stderr.contains(&format!("--checksum={found}")), "{}", wrong.stderr);
    let right = add(&format!("--checksum={found}"), &url);
    assert_eq!(right.code, 0, "{}", right.stderr);
    let before = sent.load(Ordering::Relaxed);
    version.store(7, Ordering::Relaxed);
    let cached = add(&format!("--checksum={found}"), &url);
    assert!(cached.stderr.contains("(1 of 1 steps cached)"), "{}", cached.stderr);
    assert_eq!(sent.load(Ordering::Relaxed), before, "nobody is asked for what is known");
    let empty = add("--checksum=$NONE", &url);
    assert_eq!(empty.code, 0, "{}", empty.stderr);
    let checksum = format!("--checksum={found}");
    for (flags, sources, message) in [
        (checksum.as_str(), format!("{url} {url}"), "for a single source"),
        (&checksum, "f".to_owned(), "--checksum is for"),
        ("--checksum=sha256:12", url.clone(), "checksum `sha256:12`"),
        ("", format!("{url}/nosuch.git"), "cannot fetch"),
        ("", "http://127.0.0.1:1/f".to_owned(), "cannot fetch `http://127.0.0.1:1/f`"),
        ("", "http://u:secret@127.0.0.1:1/f?token=secret2".to_owned(), "`http://127.0.0.1:1/f`"),
    ] {
        let refused = add(flags, &sources);
        assert_eq!(refused.code, 1, "{flags} {sources}");
        assert!(refused.stderr.contains(message), "{flags} {sources}: {}", refused.stderr);
        let cause = refused.stderr.split("caused by").nth(1).unwrap_or_default();
        assert!(!cause.contains("secret"), "{}", refused.stderr);
    }
}

#[test]
fn adds_git_repositories() {
    let Some(git) = GitServer::start(|_| true) else { return };
    let Some(bench) = Bench::new(&[]) else { return };
    let repository = git.repository("r.git");
    let first = repository.commit("f", "one");
    repository.git(&["tag", "-a", "v1", "-m", "v1"]);
    fs::write(repository.tree().join("run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(repository.tree().join("run"), fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink("f", repository.tree().join("link")).unwrap();
    std::os::unix::fs::symlink("/etc", repository.tree().join("out")).unwrap();
    repository.commit("d/g", "two");
    repository.git(&["checkout", "-q", "-b", "feature/x", "v1"]);
    repository.commit("f", "branch");
    repository.git(&["checkout", "-q", "main"]);
    let url = git.url("r.git");
    let add = |source: &str| {
        bench.write("Dockerfile", &format!("FROM scratch\nADD {source} /r/\n"));
        list(&bench.files(&[]))
    };
    let head = [
        "r/ 755",
        "r/d/ 755",
        "r/d/g 644 two",
        "r/f 644 one",
        "r/link -> f",
        "r/out -> /etc",
        "r/run 755 #!/bin/sh",
    ];
    assert_eq!(add(&url), head);
    assert_eq!(add(&format!("{url}#main")), head);
    assert_eq!(add(&format!("{url}?branch=main")), head);
    let old = ["r/ 755", "r/f 644 one"];
    assert_eq!(add(&format!("{url}#v1")), old);
    assert_eq!(add(&format!("{url}#{first}")), old);
    assert_eq!(add(&format!("{url}?tag=v1&checksum={}", &first[..10])), old);
    assert_eq!(add(&format!("--checksum={first} {url}#refs/tags/v1")), old);
    assert_eq!(add(&format!("{url}#feature/x")), ["r/ 755", "r/f 644 branch"]);
    assert_eq!(add(&format!("{url}#main:d")), ["r/ 755", "r/g 644 two"]);
    assert_eq!(add(&format!("{url}?subdir=/d/../d")), ["r/ 755", "r/g 644 two"]);
    assert_eq!(add(&format!("--exclude=* --exclude=!f {url}")), old);
    let moved = format!("{url}?branch=main&commit={first}&fetch-by-commit=true");
    assert_eq!(add(&moved), old);
    for (source, message) in [
        (format!("{url}#none"), "the repository has no `none`"),
        (format!("{url}#{}", "0".repeat(40)), "cannot fetch"),
        (format!("{url}#:none"), "no directory `none`"),
        (format!("{url}#:out"), "no directory `out`"),
        (format!("{url}#:.git"), "no directory `.git`"),
        (format!("{url}#--upload-pack=touch"), "can be no branch"),
        (format!("{url}?nosuch=1"), "`nosuch` is no key"),
        (format!("--checksum=abc {url}"), "which does not begin with abc"),
        (format!("--keep-git-dir=false {url}?keep-git-dir=true"), "--keep-git-dir=false, but"),
        (git.url("none.git"), "git says: "),
        ("git@127.0.0.1:r".to_owned(), "a repository over ssh needs an agent"),
        ("ssh://-oProxyCommand=x/r".to_owned(), "can be no host"),
    ] {
        bench.write("Dockerfile", &format!("FROM scratch\nADD {source} /r/\n"));
        let refused = bench.run(&[]);
        assert_eq!(refused.code, 1, "{source}");
        assert!(refused.stderr.contains(message), "{source}: {}", refused.stderr);
        assert!(refused.stderr.contains("Dockerfile:2"), "{source}: {}", refused.stderr);
    }
    bench.write("Dockerfile", &format!("FROM scratch\nCOPY {url} /r/\n"));
    let refused = bench.run(&[]);
    assert!(refused.stderr.contains("source can't be a git repository for COPY"));
}

#[test]
fn adds_git_repositories_of_sha256() {
    let Some(git) = GitServer::start(|_| true) else { return };
    let Some(bench) = Bench::new(&[]) else { return };
    let repository = git.repository_of("r.git", "sha256");
    let commit = repository.commit("f", "sha256");
    assert_eq!(commit.len(), 64);
    let url = git.url("r.git");
    for reference in ["", "#main", &format!("#{commit}")] {
        bench.write("Dockerfile", &format!("FROM scratch\nADD {url}{reference} /r/\n"));
        assert_eq!(list(&bench.files(&[])), ["r/ 755", "r/f 644 sha256"], "{reference}");
    }
}

#[test]
fn a_commit_that_is_here_is_not_fetched_again() {
    let Some(git) = GitServer::start(|_| true) else { return };
    let Some(bench) = Bench::new(&[]) else { return };
    let repository = git.repository("r.git");
    let first = repository.commit("f", "one");
    let url = git.url("r.git");
    let write = |source: &str| {
        bench.write("Dockerfile", &format!("FROM scratch\nADD {source} /r/\n"));
    };
    write(&url);
    bench.build(&[]);
    assert_eq!(git.fetches(), 1);
    let again = bench.run(&[]);
    assert!(again.stderr.contains("(1 of 1 steps cached)"), "{}", again.stderr);
    assert_eq!(git.fetches(), 1);
    // Named in full, the commit needs nobody.
    let asked = git.server.requests().len();
    write(&format!("{url}#{first}"));
    let named = bench.run(&[]);
    assert!(named.stderr.contains("(1 of 1 steps cached)"), "{}", named.stderr);
    assert_eq!(git.server.requests().len(), asked);
    repository.commit("f", "two");
    write(&url);
    assert_eq!(list(&bench.files(&[])), ["r/ 755", "r/f 644 two"]);
    assert_eq!(git.fetches(), 2);
}

#[test]
fn keeps_the_git_directory_if_asked() {
    let Some(git) = GitServer::start(|_| true) else { return };
    let Some(bench) = Bench::new(&[]) else { return };
    let repository = git.repository("r.git");
    let commit = repository.commit("d/f", "one");
    repository.git(&["tag", "v1"]);
    let url = git.url("r.git");
    let with_account = url.replacen("http://", "http://user:secret@", 1);
    let add = |source: &str| {
        bench.write("Dockerfile", &format!("FROM scratch\nADD {source} /r/\n"));
        bench.files(&[]).join("r")
    };
    for source in [
        format!("--keep-git-dir {with_account}#v1"),
        format!("{url}?keep-git-dir=1"),
        format!("--keep-git-dir=true {url}#{commit}"),
    ] {
        let tree = add(&source);
        let show = |args: &[&str]| {
            let output = std::process::Command::new("git")
                .args(["-c", "safe.directory=*", "-C"])
                .arg(&tree)
                .args(args)
                .output()
                .unwrap();
            assert!(output.status.success(), "{source} {args:?}");
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        assert_eq!(show(&["rev-parse", "HEAD"]), commit, "{source}");
        assert_eq!(show(&["config", "remote.origin.url"]), url, "{source}");
        assert_eq!(show(&["status", "--porcelain"]), "", "{source}");
        assert!(!tree.join(".git/hooks").exists() && !tree.join(".git/logs").exists());
    }
    assert!(!add(&url).join(".git").exists());
    let directory = add(&format!("--keep-git-dir {url}#:d"));
    assert_eq!(list(&directory), ["f 644 one"]);
}

#[test]
fn submodules_come_along() {
    let Some(git) = GitServer::start(|_| true) else { return };
    let Some(bench) = Bench::new(&[]) else { return };
    let inner = git.repository("inner.git");
    inner.commit("i", "inner");
    let local = git.repository("local.git");
    local.commit("l", "local");
    let outer = git.repository("outer.git");
    outer.git(&["submodule", "add", "-q", "../inner.git", "sub"]);
    outer.commit("o", "outer");
    let url = git.url("outer.git");
    let add = |source: &str| {
        bench.write("Dockerfile", &format!("FROM scratch\nADD {source} /\n"));
        list(&bench.files(&[]))
    };
    let modules = ".gitmodules 644 [submodule \"sub\"]\n\tpath = sub\n\turl = ../inner.git";
    assert_eq!(add(&url), [modules, "o 644 outer", "sub/ 755", "sub/i 644 inner"]);
    assert_eq!(add(&format!("{url}?submodules=false")), [modules, "o 644 outer", "sub/ 755"]);
    assert_eq!(add(&format!("{url}#:sub")), ["i 644 inner"]);
    // git derives the address of a submodule from that of its parent, account and all.
    let account = url.replacen("http://", "http://user:secret@", 1);
    let kept = add(&format!("--keep-git-dir {account}"));
    assert!(kept.iter().any(|line| line.contains("sub/i")), "{kept:?}");
    let secret = kept.iter().find(|line| line.contains("secret"));
    assert_eq!(secret, None);
    // A path of this machine is no submodule.
    let path = local.tree().to_str().unwrap().to_owned();
    outer.git(&["submodule", "add", "-q", &path, "evil"]);
    outer.commit("o", "evil");
    bench.write("Dockerfile", &format!("FROM scratch\nADD {url} /\n"));
    let refused = || {
        let refused = bench.run(&[]);
        assert_eq!(refused.code, 1, "{}", refused.stderr);
        assert!(refused.stderr.contains("not allowed"), "{}", refused.stderr);
    };
    refused();
    // Nor is one over ssh, which would use the user's own keys, or a program.
    for address in ["ssh://root@127.0.0.1:1/r", "root@127.0.0.1:r", "ext::touch /nosuch/%G"] {
        outer.git(&["config", "-f", ".gitmodules", "submodule.evil.url", address]);
        outer.commit("o", address);
        refused();
    }
}

#[test]
fn times_of_a_checkout() {
    let Some(git) = GitServer::start(|_| true) else { return };
    let Some(bench) = Bench::new(&[]) else { return };
    git.repository("r.git").commit("f", "one");
    let url = git.url("r.git");
    let time = |query: &str| {
        bench.write("Dockerfile", &format!("FROM scratch\nADD {url}{query} /\n"));
        fs::symlink_metadata(bench.files(&["--no-cache"]).join("f")).unwrap().mtime()
    };
    let checkout = time("");
    assert!(checkout > MODIFIED_SECONDS);
    assert_eq!(time(""), checkout, "it was not checked out again");
    assert_eq!(time("?mtime=commit"), MODIFIED_SECONDS);
}

/// Secrets are shown to the host that they are for: to none that it sends the client to, and to
/// none that the Dockerfile names beside it.
#[test]
fn secrets_go_to_their_own_host() {
    let other = HttpServer::start_at(Ipv4Addr::new(127, 0, 0, 2), |_| Reply::ok("other"));
    let elsewhere = format!("http://{}/f", other.host());
    let server = HttpServer::start(move |request| match request.path.as_str() {
        "/away" => Reply::status(302).header("Location", &elsewhere),
        _ if request.header("authorization") == Some("Bearer t0ken") => Reply::ok("own"),
        _ => Reply::status(401),
    });
    let Some(bench) = Bench::new(&[]) else { return };
    let (own, there) = (server.host(), other.host());
    let add = format!("ADD http://{own}/f http://{own}/away http://{there}/g /d/\n");
    bench.write("Dockerfile", &format!("FROM scratch\n{add}"));
    let refused = bench.run(&[]);
    assert!(refused.code == 1 && refused.stderr.contains("HTTP_AUTH_TOKEN"), "{}", refused.stderr);
    let file = bench.davit.dir().join("token");
    fs::write(&file, "t0ken\n").unwrap();
    let secret = format!("id=HTTP_AUTH_TOKEN_127.0.0.1,src={}", file.display());
    let files = bench.files(&["--secret", &secret]);
    assert_eq!(fs::read_to_string(files.join("d/f")).unwrap(), "own");
    let shown = |server: &HttpServer| {
        server.requests().iter().any(|request| request.header("authorization").is_some())
    };
    assert!(shown(&server) && !shown(&other));
    assert_eq!(other.requests().len(), 4, "twice in each build");
}

#[test]
fn private_repositories_are_read_with_a_secret() {
    // x-access-token:t0ken
    const BASIC: &str = "basic eC1hY2Nlc3MtdG9rZW46dDBrZW4=";
    let allow = |request: &Request| request.header("authorization") == Some(BASIC);
    let Some(git) = GitServer::start(allow) else { return };
    let Some(bench) = Bench::new(&[]) else { return };
    git.repository("r.git").commit("f", "one");
    let url = git.url("r.git");
    bench.write("Dockerfile", &format!("FROM scratch\nADD {url} /r/\n"));
    let refused = bench.run(&[]);
    assert!(refused.code == 1 && refused.stderr.contains("GIT_AUTH_TOKEN"), "{}", refused.stderr);
    let (token, header) = (bench.davit.dir().join("token"), bench.davit.dir().join("header"));
    fs::write(&token, "t0ken").unwrap();
    fs::write(&header, format!("{BASIC}\n")).unwrap();
    let (token, header) = (token.display().to_string(), header.display().to_string());
    for secret in [
        format!("id=GIT_AUTH_TOKEN,src={token}"),
        format!("id=GIT_AUTH_TOKEN.127.0.0.1,src={token}"),
        format!("id=GIT_AUTH_HEADER,src={header}"),
    ] {
        bench.davit.ok(["builder", "prune", "-af"]);
        assert_eq!(list(&bench.files(&["--secret", &secret])), ["r/ 755", "r/f 644 one"]);
    }
    let secret = format!("id=GIT_AUTH_TOKEN,src={token}");
    // A host that sends git elsewhere gets no second chance to see it.
    let other = HttpServer::start_at(Ipv4Addr::new(127, 0, 0, 2), |_| Reply::status(404));
    let there = other.host();
    let server = HttpServer::start(move |request| {
        let to = format!("http://{there}{}?{}", request.path, request.query);
        Reply::status(302).header("Location", to)
    });
    bench.write("Dockerfile", &format!("FROM scratch\nADD http://{}/r.git /r/\n", server.host()));
    assert_eq!(bench.run(&["--secret", &secret]).code, 1);
    assert!(other.requests().is_empty(), "{:?}", other.requests());
    assert_eq!(bench.run(&[]).code, 1);
    assert!(!other.requests().is_empty(), "without a secret a redirect is followed");
}

#[test]
fn an_account_of_an_address_is_in_no_argument() {
    static SHOWN: AtomicUsize = AtomicUsize::new(0);
    const PASSWORD: &str = "pass-that-nobody-sees";
    // user:PASSWORD
    const BASIC: &str = "Basic dXNlcjpwYXNzLXRoYXQtbm9ib2R5LXNlZXM=";
    let Some(git) = GitServer::start(|request| {
        let arguments = fs::read_dir("/proc").unwrap().flatten();
        let arguments = arguments.filter_map(|it| fs::read(it.path().join("cmdline")).ok());
        let shown = |it: &Vec<u8>| String::from_utf8_lossy(it).contains(PASSWORD);
        SHOWN.fetch_add(arguments.filter(shown).count(), Ordering::Relaxed);
        request.header("authorization") == Some(BASIC)
    }) else {
        return;
    };
    let Some(bench) = Bench::new(&[]) else { return };
    git.repository("r.git").commit("f", "one");
    let url = git.url("r.git").replacen("http://", &format!("http://user:{PASSWORD}@"), 1);
    bench.write("Dockerfile", &format!("FROM scratch\nADD {url} /r/\n"));
    assert_eq!(list(&bench.files(&[])), ["r/ 755", "r/f 644 one"]);
    assert_eq!(SHOWN.load(Ordering::Relaxed), 0);
    let built = bench.run(&["-t", "kept"]);
    assert!(built.code == 0 && !built.stderr.contains(PASSWORD), "{}", built.stderr);
    let history = bench.davit.ok(["history", "--no-trunc", "kept"]);
    assert!(history.contains("/r.git") && !history.contains(PASSWORD), "{history}");
}

#[test]
fn an_offline_build_asks_nobody() {
    let Some(git) = GitServer::start(|_| true) else { return };
    let Some(bench) = Bench::new(&[]) else { return };
    let server = HttpServer::start(|_| Reply::ok("web"));
    let repository = git.repository("r.git");
    repository.commit("f", "git");
    let (file, url) = (format!("http://{}/f", server.host()), git.url("r.git"));
    let add = |sources: &str| {
        bench.write("Dockerfile", &format!("FROM scratch\nADD {sources} /d/\n"));
    };
    add(&format!("{file} {url}#main {url}#main:"));
    let first = bench.build(&["-t", "base"]);
    // The branch moves, and the file would be another one.
    repository.commit("f", "moved");
    let asked = (server.requests().len(), git.server.requests().len());
    let offline = bench.run(&["--offline"]);
    assert_eq!(offline.code, 0, "{}", offline.stderr);
    assert_eq!(bench.config(&offline), first);
    for (sources, hint) in [
        (format!("{file}/other"), "build once without --offline"),
        (format!("{url}#other"), "build once without --offline"),
        (format!("--checksum=sha256:{} {file}", "0".repeat(64)), "its digest is"),
    ] {
        add(&sources);
        let refused = bench.run(&["--offline"]);
        assert_eq!(refused.code, 1, "{sources}");
        assert!(refused.stderr.contains(hint), "{sources}: {}", refused.stderr);
    }
    let host = server.host();
    bench.write("Dockerfile", "FROM base\nLABEL a=b\n");
    bench.build(&["--offline"]);
    bench.write("Dockerfile", &format!("FROM {host}/nosuch\n"));
    assert_eq!(bench.run(&["--offline"]).code, 1);
    assert_eq!((server.requests().len(), git.server.requests().len()), asked);
    assert_ne!(bench.run(&["--offline", "--pull"]).code, 0);
}
