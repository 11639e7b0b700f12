//! `SOURCE_DATE_EPOCH` by the time of a source.

use davit_test::{HttpServer, Outcome, Reply};

use super::{
    bench::{Bench, tar_file},
    git_server::GitServer,
};

/// What the tests' commits and `Last-Modified` say.
const TIME: &str = "2006-01-02T15:04:05Z";
const MODIFIED: &str = "Mon, 02 Jan 2006 15:04:05 GMT";

/// An archive whose newest entry is of 2001-09-09T01:46:40Z.
fn archive() -> Vec<u8> {
    let mut newest = tar_file("foo", b"bar");
    newest[136..148].copy_from_slice(b"07346545000\0");
    newest[148..156].fill(b' ');
    let sum: u32 = newest[..512].iter().map(|&byte| u32::from(byte)).sum();
    newest[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let dockerfile = tar_file("Dockerfile", b"FROM scratch\nCOPY foo /\n");
    [dockerfile, newest, vec![0; 1024]].concat()
}

#[test]
fn the_time_of_a_result_may_be_that_of_a_source() {
    let Some(git) = GitServer::start(|_| true) else { return };
    let Some(bench) = Bench::new(&[("f", "1")]) else { return };
    let repository = git.repository("r.git");
    repository.commit("foo", "bar");
    repository.commit("Dockerfile", "FROM scratch\nCOPY foo /\n");
    let server = HttpServer::start(|request| {
        let reply = Reply::ok(archive());
        if request.path == "/dated.tar" { reply.header("Last-Modified", MODIFIED) } else { reply }
    });
    let web = |path: &str| format!("http://{}{path}", server.host());
    let created = |outcome: &Outcome| {
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        bench.config(outcome)["created"].as_str().unwrap().to_owned()
    };
    let by_context = ["--build-arg", "SOURCE_DATE_EPOCH=context"];
    let newest = "2001-09-09T01:46:40Z";
    for (context, time) in
        [(git.url("r.git"), TIME), (web("/dated.tar"), TIME), (web("/plain.tar"), newest)]
    {
        let fixed = ["build", "--progress", "plain", "--network", "none"];
        let args = fixed.iter().chain(&by_context).copied().chain([context.as_str()]);
        assert_eq!(created(&bench.davit.run(args)), time, "{context}");
    }
    assert_eq!(created(&bench.feed(&archive(), &by_context)), newest);
    // A directory has none.
    bench.write("Dockerfile", "ARG SOURCE_DATE_EPOCH\nFROM scratch\nCOPY f /\n");
    assert!(created(&bench.run(&by_context)).as_str() > "2020");
    // A named context, and a stage that is nothing but a source.
    let named = "ARG SOURCE_DATE_EPOCH=src\nFROM scratch\nARG SOURCE_DATE_EPOCH\n\
                 LABEL epoch=$SOURCE_DATE_EPOCH\n";
    bench.write("Dockerfile", named);
    for (source, time, number) in [
        (web("/dated.tar"), TIME, "1136214245"),
        (web("/plain.tar"), newest, "1000000000"),
        (git.url("r.git"), TIME, "1136214245"),
    ] {
        let outcome = bench.run(&["--build-context", &format!("src={source}")]);
        assert_eq!(created(&outcome), time, "{source}");
        assert_eq!(bench.config(&outcome)["config"]["Labels"]["epoch"], number);
    }
    let stage = |source: &str| {
        let first = format!("ARG SOURCE_DATE_EPOCH=src\nFROM scratch AS src\n{source}\n");
        bench.write("Dockerfile", &format!("{first}FROM scratch\nCOPY f /\n"));
    };
    stage(&format!("ADD {} /", web("/plain.tar")));
    assert_eq!(created(&bench.run(&[])), newest);
    let number = ["--build-arg", "SOURCE_DATE_EPOCH=1136214245"];
    assert_eq!(created(&bench.run(&number)), TIME, "a number counts more");
    stage("COPY f /");
    let refused = bench.run(&[]);
    assert!(refused.code == 1 && refused.stderr.contains("more than to add one"), "{refused:?}");
    let unknown = bench.run(&["--build-arg", "SOURCE_DATE_EPOCH=then"]);
    assert!(unknown.code == 1 && unknown.stderr.contains("`then` is no number"), "{unknown:?}");
}
