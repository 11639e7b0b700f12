//! Repositories of git sources that stay, and how much a source may take.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use davit_test::{HttpServer, Outcome, Reply, noise};

use super::{
    bench::{Bench, list},
    git_server::GitServer,
};

/// Bytes on disk below a directory.
fn disk_bytes(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let size = |path: PathBuf| {
        let facts = path.symlink_metadata().unwrap();
        facts.blocks() * 512 + if facts.is_dir() { disk_bytes(&path) } else { 0 }
    };
    entries.map(|entry| size(entry.path())).sum()
}

fn add(bench: &Bench, source: &str) -> Outcome {
    bench.write("Dockerfile", &format!("FROM scratch\nADD {source} /r/\n"));
    bench.run(&[])
}

fn added(bench: &Bench, source: &str) {
    let outcome = add(bench, source);
    assert_eq!(outcome.code, 0, "{source}: {}", outcome.stderr);
}

/// The repositories that a davit keeps.
fn kept(bench: &Bench) -> Vec<PathBuf> {
    let mounts = fs::read_dir(bench.davit.root().join("cache/mounts"));
    let mounts = mounts.into_iter().flatten().flatten();
    mounts.map(|it| it.path().join("data/repository")).filter(|it| it.exists()).collect()
}

#[test]
fn of_a_further_commit_what_is_new_is_fetched() {
    let Some(git) = GitServer::start(|_| true) else { return };
    let Some(bench) = Bench::new(&[]) else { return };
    let repository = git.repository("r.git");
    let large: String = noise(1 << 20).iter().map(|byte| format!("{byte:02x}")).collect();
    let first = repository.commit("large", &large);
    let url = git.url("r.git");
    added(&bench, &url);
    let [mirror] = &kept(&bench)[..] else { panic!("one remote, one repository") };
    let before = disk_bytes(mirror);
    assert!(before > 1 << 20, "{before}");
    let second = repository.commit("f", "2");
    added(&bench, &url);
    assert_eq!(kept(&bench).len(), 1);
    let grown = disk_bytes(mirror) - before;
    assert!(grown < 200 << 10, "{grown} of {before}");
    let files = list(&bench.files(&[]));
    assert!(files.contains(&"r/f 644 2".to_owned()));
    // Packs are there whole or not at all, whenever git is stopped.
    let objects = fs::read_dir(mirror.join("objects")).unwrap().flatten();
    let names: Vec<_> = objects.map(|entry| entry.file_name()).collect();
    assert!(names.iter().all(|name| name == "info" || name == "pack"), "{names:?}");
    // What was fetched once is here for all that is made of it.
    let fetches = git.fetches();
    added(&bench, &format!("{url}#{first}"));
    added(&bench, &format!("{url}?subdir=/&commit={second}&ref=main"));
    assert_eq!(git.fetches(), fetches);
    // A branch whose name was a directory of others, and one that went back.
    repository.git(&["checkout", "-q", "-b", "topic"]);
    repository.commit("f", "3");
    added(&bench, &format!("{url}#topic"));
    repository.git(&["checkout", "-q", "--detach"]);
    repository.git(&["branch", "-D", "topic"]);
    repository.git(&["checkout", "-q", "-b", "topic/sub", &first]);
    repository.commit("f", "4");
    added(&bench, &format!("{url}#topic/sub"));
    assert!(list(&bench.files(&[])).contains(&"r/f 644 4".to_owned()));
}

#[test]
fn a_repository_that_is_damaged_is_made_anew() {
    let Some(git) = GitServer::start(|_| true) else { return };
    let Some(bench) = Bench::new(&[]) else { return };
    let repository = git.repository("r.git");
    let url = git.url("r.git");
    let mut number = 0;
    let mut next = || {
        number += 1;
        repository.commit("f", &number.to_string());
        added(&bench, &url);
        let expected = format!("r/f 644 {number}");
        assert!(list(&bench.files(&[])).contains(&expected), "{expected}");
    };
    next();
    let [mirror] = &kept(&bench)[..] else { panic!("one remote, one repository") };
    fs::write(mirror.join("shallow.lock"), "").unwrap();
    next();
    fs::write(mirror.join("config"), "[nonsense").unwrap();
    next();
    fs::remove_file(mirror.join("HEAD")).unwrap();
    next();
    fs::remove_dir_all(mirror.join("objects")).unwrap();
    next();
}

#[test]
fn repositories_are_listed_and_removed() {
    let Some(git) = GitServer::start(|_| true) else { return };
    let Some(bench) = Bench::new(&[]) else { return };
    let repository = git.repository("r.git");
    repository.commit("f", "1");
    let url = git.url("r.git");
    added(&bench, &url);
    let filter = ["--filter", "type=source.git.checkout"];
    let listed = ["builder", "du", "--format", "{{.Description}}"];
    let shown = bench.davit.ok(listed.iter().chain(&filter));
    assert!(shown.lines().any(|line| line == url), "{shown}");
    bench.davit.ok(["builder", "prune", "--force", "--filter", "type=exec.cachemount"]);
    assert_eq!(kept(&bench).len(), 1, "it is no cache mount");
    let pruned = bench.davit.ok(["builder", "prune", "--force"].iter().chain(&filter));
    assert!(pruned.contains(&format!("source.git.checkout {url}")), "{pruned}");
    assert_eq!(kept(&bench).len(), 0);
    configure(&bench, "[gc]\nkeep_git_repositories = 1\n");
    repository.commit("f", "2");
    added(&bench, &url);
    assert_eq!(kept(&bench).len(), 0, "over its budget");
}

fn configure(bench: &Bench, text: &str) {
    let folder = bench.davit.dir().join(".config/davit");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.toml"), text).unwrap();
}

#[test]
fn a_source_takes_no_more_than_it_may() {
    let Some(git) = GitServer::start(|_| true) else { return };
    let Some(bench) = Bench::new(&[]) else { return };
    let server = HttpServer::start(|_| Reply::ok(noise(200_000)));
    let repository = git.repository("r.git");
    repository.commit("large", &String::from_utf8_lossy(&noise(1 << 20)));
    let sources = [format!("http://{}/f", server.host()), git.url("r.git")];
    configure(&bench, "[build]\nsource_bytes = 150000\n");
    for source in &sources {
        let outcome = add(&bench, source);
        assert_eq!(outcome.code, 1, "{source}");
        for words in ["more than 150000 bytes", "build.source_bytes", "Dockerfile:2"] {
            assert!(outcome.stderr.contains(words), "{source} {words}: {}", outcome.stderr);
        }
    }
    configure(&bench, "[build]\nsource_bytes = 100000000\n");
    sources.iter().for_each(|source| added(&bench, source));
}

#[test]
fn an_origin_has_the_variables_of_from() {
    let dockerfile = "ARG WHICH=one\nFROM scratch AS one\nCOPY a /f\nFROM scratch AS two\nCOPY b /f\n\
        FROM scratch\nARG WHICH=none\nCOPY --from=$WHICH /f /g\n";
    let Some(bench) = Bench::new(&[("a", "1"), ("b", "2"), ("Dockerfile", dockerfile)]) else {
        return;
    };
    assert_eq!(list(&bench.files(&[])), ["g 644 1"]);
    assert_eq!(list(&bench.files(&["--build-arg", "WHICH=two"])), ["g 644 2"]);
    let outcome = bench.run(&["--build-arg", "WHICH=three", "--pull=never"]);
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("three"), "{}", outcome.stderr);
    let checked = bench.run(&["--check"]);
    assert_eq!(checked.code, 0, "{}{}", checked.stdout, checked.stderr);
}
