//! What a pull brings, asks for and says.

use std::process::Stdio;

use davit_engine::image::{Digest, Platform};
use davit_test::{Content, End, HttpServer, Outcome, Reply, need_tool, noise, tar_of, until};

use super::{blob_requests, davit, layer, serve};
use crate::terminal::Terminal;

#[test]
fn an_image_is_pulled_once() {
    let mut content = Content::default();
    let image = content.add_image("1", &Platform::host(), &[layer("a"), layer("b")]);
    let server = serve(content);
    let (davit, name) = (davit(), format!("{}/x:1", server.host()));
    let first = davit.run(["pull", &name]);
    assert_eq!(first.code, 0, "{}", first.stderr);
    assert_eq!(first.stdout, format!("{name}\n"));
    for line in [
        "1: Pulling from x".to_owned(),
        format!("{}: Pull complete", image.layers[0].digest.short_hex()),
        format!("Digest: {}", image.manifest.digest),
        format!("Status: Downloaded newer image for {name}"),
    ] {
        assert!(first.stderr.lines().any(|l| l == line), "{line}\n{}", first.stderr);
    }
    let asked = server.requests().len();
    let second = davit.run(["pull", &name]);
    assert!(second.stderr.starts_with("1: Pulling from x\nDigest: "), "{}", second.stderr);
    assert!(second.stderr.contains("Status: Image is up to date"), "{}", second.stderr);
    let new: Vec<_> = server.lines().split_off(asked);
    assert!(new.iter().all(|line| line.starts_with("HEAD ")), "{new:?}");
    assert_eq!(davit.ok(["pull", "-q", &name]), name);
    assert_eq!(davit.run(["pull", "-q", &name]).stderr, "");
}

/// Bars end as lines, above what is said about the whole; a terminal that cannot draw bars has the
/// lines at once.
#[test]
fn a_terminal_shows_what_became_of_each_layer() {
    if need_tool("setsid").is_none() {
        return;
    }
    let mut content = Content::default();
    let image = content.add_image("1", &Platform::host(), &[layer("a"), layer("b")]);
    let server = serve(content);
    let name = format!("{}/x:1", server.host());
    for term in [Some("xterm"), Some("dumb"), None] {
        let davit = davit();
        let mut command = davit.command(["pull", &name]);
        match term {
            Some(term) => command.env("TERM", term),
            None => command.env_remove("TERM"),
        };
        let terminal = Terminal::of(&command);
        terminal.expect(&format!("for {name}\r\n{name}\r\n"));
        let text = terminal.text();
        let at = |words: &str| text.rfind(words).unwrap_or_else(|| panic!("{term:?}: {text:?}"));
        let whole = at("Digest: ");
        for layer in &image.layers {
            let line = format!("{}: Pull complete\r\n", layer.digest.short_hex());
            assert!(at(&line) < whole, "{term:?}: {text:?}");
        }
        assert_eq!(text.contains('\x1b'), term == Some("xterm"), "{text:?}");
        assert_eq!(terminal.end(), 0);
    }
}

#[test]
fn a_moved_tag_brings_only_what_is_new() {
    let mut content = Content::default();
    content.add_image("1", &Platform::host(), &[layer("a"), layer("b")]);
    let newer = content.add_image("2", &Platform::host(), &[layer("a"), layer("c")]);
    let server = serve(content);
    let davit = davit();
    davit.ok(["pull", &format!("{}/x:1", server.host())]);
    let asked = blob_requests(&server).len();
    let outcome = davit.run(["pull", &format!("{}/x:2", server.host())]);
    let kept = format!("{}: Already exists", newer.layers[0].digest.short_hex());
    assert!(outcome.stderr.contains(&kept), "{}", outcome.stderr);
    let new = blob_requests(&server).split_off(asked);
    let expected = [newer.id, newer.layers[1].digest].map(|d| format!("/v2/x/blobs/{d}"));
    assert_eq!(new, expected);
}

#[test]
fn an_index_gives_the_chosen_platform() {
    let (host, other) = (Platform::host(), "linux/s390x".parse::<Platform>().unwrap());
    let mut content = Content::default();
    let ours = content.add_image("ours", &host, &[layer("ours")]);
    let theirs = content.add_image("theirs", &other, &[layer("theirs")]);
    let index = content.add_index("all", &[(&other, &theirs), (&host, &ours)]);
    let server = serve(content);
    let name = format!("{}/x:all", server.host());
    let davit = davit();
    let outcome = davit.run(["pull", &name]);
    assert!(outcome.stderr.contains(&format!("Digest: {index}")), "{}", outcome.stderr);
    assert!(outcome.stderr.contains(&ours.layers[0].digest.short_hex()), "{}", outcome.stderr);
    let chosen = davit.run(["pull", "--platform", "linux/s390x", &name]);
    assert!(chosen.stderr.contains(&theirs.layers[0].digest.short_hex()), "{}", chosen.stderr);
    let absent = davit.run(["pull", "--platform", "linux/riscv64", &name]);
    assert_eq!(absent.code, 1);
    let expected = format!(
        "error: {name} has no image for linux/riscv64 (it has linux/s390x, {host})\n\nhint: davit pull --platform linux/s390x {name}\n"
    );
    assert_eq!(
        absent.stderr.split_once("error").map(|(_, rest)| format!("error{rest}")),
        Some(expected)
    );
}

#[test]
fn a_digest_names_an_image_without_a_tag() {
    let mut content = Content::default();
    let image = content.add_image("1", &Platform::host(), &[layer("a")]);
    let server = serve(content);
    let name = format!("{}/x@{}", server.host(), image.manifest.digest);
    assert_eq!(davit().ok(["pull", &name]), name);
    let wrong = format!("{}/x@{}", server.host(), Digest::of(b"other"));
    let outcome = davit().run(["pull", &wrong]);
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("does not exist"), "{}", outcome.stderr);
}

/// Documents whose files are gone or damaged come again, whoever finds them so.
#[test]
fn broken_documents_come_again() {
    let mut content = Content::default();
    let image = content.add_image("1", &Platform::host(), &[layer("a")]);
    let server = serve(content);
    let davit = davit();
    let name = format!("{}/x@{}", server.host(), image.manifest.digest);
    davit.ok(["pull", "-q", &name]);
    let breaks: [fn(&std::path::Path); 2] = [
        |path| fs_err::write(path, "other bytes").unwrap(),
        |path| fs_err::remove_file(path).unwrap(),
    ];
    for digest in [image.manifest.digest, image.id] {
        for break_it in breaks {
            break_it(&davit.root().join("blobs/sha256").join(digest.hex()));
            davit.ok(["pull", "-q", &name]);
            davit.ok(["system", "check"]);
        }
    }
}

/// A name alone is not an image: what a repair could not bring back is pulled.
#[test]
fn an_image_that_is_not_whole_is_not_up_to_date() {
    let mut content = Content::default();
    let image = content.add_image("1", &Platform::host(), &[layer("a"), layer("b")]);
    let server = serve(content);
    let davit = davit();
    let name = format!("{}/x:1", server.host());
    davit.ok(["pull", "-q", &name]);
    let lost = [
        ("layers", "diff_id", Digest::of(&layer("a"))),
        ("blobs", "digest", image.id),
        ("blobs", "digest", image.manifest.digest),
    ];
    for (table, column, digest) in lost {
        let database = rusqlite::Connection::open(davit.root().join("davit.db")).unwrap();
        let delete = format!("DELETE FROM {table} WHERE {column} = ?");
        assert_eq!(database.execute(&delete, [digest.to_string()]).unwrap(), 1);
        drop(database);
        let again = davit.run(["pull", &name]);
        assert_eq!(again.code, 0, "{table}: {}", again.stderr);
        assert!(again.stderr.contains("Downloaded newer image"), "{table}: {}", again.stderr);
        davit.ok(["system", "check"]);
    }
}

#[test]
fn all_tags_come_with_one_word() {
    let mut content = Content::default();
    content.add_image("1", &Platform::host(), &[layer("a")]);
    content.add_image("2", &Platform::host(), &[layer("b")]);
    let server = HttpServer::start(move |request| {
        if request.path.ends_with("/tags/list") {
            return Reply::ok(r#"{"name":"x","tags":["1","2"]}"#);
        }
        content.serve(request)
    });
    let host = server.host();
    let pulled = davit().ok(["pull", "-q", "-a", &format!("{host}/x")]);
    assert_eq!(pulled, format!("{host}/x:1\n{host}/x:2"));
    let outcome = davit().run(["pull", "-a", &format!("{host}/x:1")]);
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
}

#[test]
fn a_killed_pull_goes_on_where_it_was() {
    let mut content = Content::default();
    let tar = tar_of(&[("noise", &noise(3_000_000))]);
    let image = content.add_image("1", &Platform::host(), &[tar]);
    let path = format!("/v2/x/blobs/{}", image.layers[0].digest);
    let (stalled, blob) = (content.clone(), path.clone());
    let server = HttpServer::start(move |request| {
        let reply = stalled.serve(request);
        let first = request.path == blob && request.header("range").is_none();
        if first { reply.end(End::Stall(2_000_000)) } else { reply }
    });
    let davit = davit();
    let name = format!("{}/x:1", server.host());
    let mut child = davit.command(["pull", &name]).stderr(Stdio::null()).spawn().unwrap();
    let partial = || {
        let folder = fs_err::read_dir(davit.root().join("tmp")).ok()?;
        let mut files =
            folder.flatten().filter(|f| f.file_name().to_string_lossy().starts_with("blob-"));
        Some(files.next()?.metadata().ok()?.len())
    };
    // What has arrived is written before the next piece is waited for, but for buffers.
    until("half of it has arrived", || partial().unwrap_or(0) >= 1_000_000);
    child.kill().unwrap();
    child.wait().unwrap();
    let kept = partial().unwrap();
    davit.ok(["pull", &name]);
    let asked: Vec<_> =
        blob_requests(&server).into_iter().filter(|request| request.starts_with(&path)).collect();
    let last = image.layers[0].size - 1;
    assert_eq!(asked, [path.clone(), format!("{path} bytes={kept}-{last}")]);
}

#[test]
fn a_damaged_part_is_downloaded_again() {
    let mut content = Content::default();
    let image = content.add_image("1", &Platform::host(), &[tar_of(&[("n", &noise(300_000))])]);
    let server = serve(content);
    let davit = davit();
    // A store first, then a partial file with other bytes in it.
    let small = serve_small();
    davit.ok(["pull", &format!("{}/x:1", small.host())]);
    let digest = image.layers[0].digest;
    let partial = davit.root().join("tmp").join(format!("blob-sha256-{}", digest.hex()));
    fs_err::write(&partial, vec![7; 100_000]).unwrap();
    let outcome = davit.run(["pull", &format!("{}/x:1", server.host())]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let whole = format!("/v2/x/blobs/{digest}");
    assert_eq!(blob_requests(&server).last(), Some(&whole));
}

fn serve_small() -> HttpServer {
    let mut content = Content::default();
    content.add_image("1", &Platform::host(), &[layer("small")]);
    serve(content)
}

#[test]
fn two_processes_download_each_blob_once() {
    let mut content = Content::default();
    let tars: Vec<_> =
        (0..4).map(|n| tar_of(&[(&format!("f{n}"), &noise(500_000 + n)[..])])).collect();
    let image = content.add_image("1", &Platform::host(), &tars);
    let server = serve(content);
    let davit = davit();
    let name = format!("{}/x:1", server.host());
    let start = || {
        let mut command = davit.command(["pull", &name]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    for child in [start(), start(), start()] {
        let outcome = Outcome::from(child.wait_with_output().unwrap());
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    }
    let asked = blob_requests(&server);
    for digest in image.layers.iter().map(|layer| layer.digest).chain([image.id]) {
        let path = format!("/v2/x/blobs/{digest}");
        assert_eq!(asked.iter().filter(|request| **request == path).count(), 1, "{asked:?}");
    }
}
