//! Contexts and Dockerfiles that lie elsewhere.

use std::fs;

use davit_test::{HttpServer, Outcome, Reply};

use super::{
    bench::{Bench, list, tar_file},
    git_server::GitServer,
};

/// Builds a context by its address; the result is exported.
fn build(bench: &Bench, context: &str, args: &[&str]) -> (Outcome, Vec<String>) {
    let target = bench.davit.dir().join("remote-out");
    let _absent = fs::remove_dir_all(&target);
    let spec = format!("type=local,dest={}", target.display());
    let fixed = ["build", "--progress", "plain", "--network", "none", "-o", &spec];
    let outcome = bench.davit.run(fixed.iter().chain(args).chain([&context]));
    let files = if outcome.code == 0 { list(&target) } else { Vec::new() };
    (outcome, files)
}

#[test]
fn builds_git_repositories() {
    let Some(git) = GitServer::start(|_| true) else { return };
    let Some(bench) = Bench::new(&[("Dockerfile", "FROM scratch\nCOPY f /local\n")]) else {
        return;
    };
    let repository = git.repository("r.git");
    // The ignore file is for directories alone.
    repository.commit(".dockerignore", "f\n");
    repository.commit("f", "root");
    repository.commit("sub/dockerfile", "FROM scratch\nCOPY f* /sub/\nADD x.tar /sub/\n");
    fs::write(repository.tree().join("sub/x.tar"), archive()).unwrap();
    repository.commit("sub/f", "sub");
    repository.commit("other/Dockerfile.x", "FROM scratch\nCOPY --chown=5 sub/f /x\n");
    repository.commit("other/Dockerfile.lost", "FROM scratch\nCOPY SUB/f /x\n");
    repository.commit("Dockerfile", "FROM scratch\nCOPY f /f\nCOPY . /all/\n");
    repository.git(&["tag", "v1"]);
    repository.commit("f", "newer");
    let url = git.url("r.git");
    let check = |context: &str, args: &[&str], expected: &[&str]| {
        let (outcome, files) = build(&bench, context, args);
        assert_eq!(outcome.code, 0, "{context}: {}", outcome.stderr);
        for line in expected {
            assert!(files.contains(&(*line).to_owned()), "{context} {line}: {files:?}");
        }
        files
    };
    let files = check(&url, &[], &["f 644 newer", "all/f 644 newer", "all/sub/f 644 sub"]);
    assert!(!files.iter().any(|line| line.contains(".git/")), "{files:?}");
    let fetches = git.fetches();
    let (again, _) = build(&bench, &url, &[]);
    assert!(again.stderr.contains("(2 of 2 steps cached)"), "{}", again.stderr);
    assert_eq!(git.fetches(), fetches);
    check(&format!("{url}#v1"), &[], &["f 644 root"]);
    check(&format!("{url}#v1:sub"), &[], &["sub/f 644 sub", "sub/in/x 644 x"]);
    check(&format!("{url}?ref=v1"), &["-f", "./other/Dockerfile.x"], &["x 644 sub"]);
    let keep = ["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"];
    let files = check(&url, &keep, &[]);
    assert!(files.iter().any(|line| line.starts_with("all/.git/HEAD ")), "{files:?}");
    // A Dockerfile of this machine, by its whole path.
    let own = bench.context.join("Dockerfile").display().to_string();
    check(&url, &["-f", &own], &["local 644 newer"]);
    for (context, args, message) in [
        (format!("{url}#none"), &[][..], "the repository has no `none`"),
        (format!("{url}#v1"), &["-f", "other/Dockerfile.lost"], "did you mean `sub/f`?"),
        (format!("{url}#:sub"), &["-f", "nosuch"], "the context holds no `nosuch`"),
        (format!("{url}#-x"), &[], "can be no branch"),
        (git.url("nosuch"), &[], "cannot fetch"),
    ] {
        let (refused, _) = build(&bench, &context, args);
        assert_eq!(refused.code, 1, "{context}");
        assert!(refused.stderr.contains(message), "{context}: {}", refused.stderr);
    }
}

fn archive() -> Vec<u8> {
    [tar_file("in/x", b"x"), vec![0; 1024]].concat()
}

#[test]
fn builds_what_a_web_server_has() {
    let context = [
        tar_file(".dockerignore", b"f\n"),
        tar_file("Dockerfile", b"FROM scratch\nCOPY f /f\n"),
        tar_file("x/Dockerfile", b"FROM scratch\nCOPY f /x\n"),
        tar_file("f", b"packed"),
        vec![0; 1024],
    ];
    let context = context.concat();
    let server = HttpServer::start(move |request| match request.path.as_str() {
        "/context.tar" => Reply::ok(context.clone()).header("ETag", "\"1\""),
        "/text" => Reply::ok("FROM scratch\nCOPY context /own\nCOPY <<EOF /f\ntext\nEOF\n"),
        "/Dockerfile" => Reply::ok("FROM scratch\nCOPY f /by-url\n"),
        "/wrong" => Reply::ok("FROM scratch\nCOPPY f /\n"),
        "/large" => Reply::ok(vec![b'#'; (16 << 20) + 1]),
        _ => Reply::status(404),
    });
    let Some(bench) = Bench::new(&[("f", "local")]) else { return };
    let url = |path: &str| format!("http://{}{path}", server.host());
    for (context, args, expected) in [
        (url("/context.tar"), vec![], "f 644 packed"),
        (url("/context.tar"), vec!["-f".to_owned(), "x/Dockerfile".to_owned()], "x 644 packed"),
        (url("/text"), vec![], "f 644 text"),
        (url("/context.tar"), vec!["-f".to_owned(), url("/Dockerfile")], "by-url 644 packed"),
        (
            bench.context.display().to_string(),
            vec!["-f".to_owned(), url("/Dockerfile")],
            "by-url 644 local",
        ),
    ] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let (outcome, files) = build(&bench, &context, &args);
        assert_eq!(outcome.code, 0, "{context}: {}", outcome.stderr);
        assert!(files.contains(&expected.to_owned()), "{context}: {files:?}");
        let (again, _) = build(&bench, &context, &args);
        let cached = again.stderr.split(" steps cached").next().unwrap_or_default();
        let counts = cached.rsplit('(').next().unwrap().split_once(" of ").unwrap();
        assert_eq!(counts.0, counts.1, "{context}: {}", again.stderr);
    }
    for (context, message) in [
        (url("/none"), "cannot fetch `http://"),
        (url("/wrong"), "unknown instruction `COPPY`"),
        (url("/large"), "too large for a Dockerfile"),
        ("http://".to_owned(), "is no directory"),
    ] {
        let (refused, _) = build(&bench, &context, &[]);
        assert_eq!(refused.code, 1, "{context}");
        assert!(refused.stderr.contains(message), "{context}: {}", refused.stderr);
    }
}
