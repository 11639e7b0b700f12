//! Contexts: archives of every compression, text on standard input, ignore files.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Stdio},
};

use davit_test::need_tool;

use super::bench::{Bench, list, tar_file, with_owners};

/// Compresses by the program of that name.
fn compressed(tool: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let program = need_tool(tool)?;
    let mut command = Command::new(program);
    command.arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    Some(output.stdout)
}

const COMPRESSIONS: [(&str, &str); 4] =
    [("gzip", "gz"), ("bzip2", "bz2"), ("xz", "xz"), ("zstd", "zst")];

#[test]
fn a_tar_context_may_be_compressed_by_anything() {
    let Some(bench) = Bench::new(&[]) else { return };
    let file = tar_file("Dockerfile", b"FROM scratch\nCOPY d /\n");
    let tar = [file, tar_file("d/f", b"file"), vec![0; 1024]].concat();
    let check = |bytes: &[u8], what: &str| {
        let target = bench.davit.dir().join(what);
        let outcome = bench.feed(bytes, &["-o", target.to_str().unwrap()]);
        assert_eq!(outcome.code, 0, "{what}\n{}", outcome.stderr);
        assert_eq!(list(&target), ["f 644 file"], "{what}");
    };
    check(&tar, "plain");
    for (tool, _) in COMPRESSIONS {
        if let Some(bytes) = compressed(tool, &tar) {
            check(&bytes, tool);
            let cut = bench.feed(&bytes[..bytes.len() / 2], &[]);
            assert_eq!(cut.code, 1, "{tool}, cut\n{}", cut.stderr);
        }
    }
}

#[test]
fn the_store_is_no_part_of_a_context() {
    let Some(bench) = Bench::new(&[("f", "1")]) else { return };
    let folder = bench.davit.dir().to_path_buf();
    fs::write(folder.join("Dockerfile"), "FROM scratch\nCOPY . /c\n").unwrap();
    let out = bench.davit.dir().join("context/out");
    let (context, target) = (folder.to_str().unwrap(), out.to_str().unwrap());
    for _ in 0..2 {
        bench.davit.ok(["build", "-q", "-o", target, context]);
        let files = list(&out);
        assert!(files.contains(&"c/context/f 644 1".to_owned()), "{files:?}");
        assert!(!files.iter().any(|line| line.starts_with("c/root/")), "{files:?}");
        fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn add_unpacks_every_compression_and_copy_none() {
    let Some(bench) = Bench::new(&[]) else { return };
    let tar = [tar_file("in/x", b"x"), vec![0; 1024]].concat();
    let mut dockerfile = String::from("FROM scratch\n");
    let mut expected = Vec::new();
    for (tool, suffix) in COMPRESSIONS {
        let (Some(archive), Some(text)) = (compressed(tool, &tar), compressed(tool, b"no tar"))
        else {
            continue;
        };
        // The name says nothing.
        fs::write(bench.context.join(format!("archive-{suffix}")), &archive).unwrap();
        fs::write(bench.context.join(format!("text-{suffix}.tar.{suffix}")), &text).unwrap();
        dockerfile.push_str(&format!(
            "ADD archive-{suffix} /{suffix}\nADD text-{suffix}.tar.{suffix} /text/\n\
             COPY archive-{suffix} /copy/\n"
        ));
        expected.push((format!("{suffix}/in/x"), b"x".to_vec()));
        expected.push((format!("text/text-{suffix}.tar.{suffix}"), text));
        expected.push((format!("copy/archive-{suffix}"), archive));
    }
    bench.write("Dockerfile", &dockerfile);
    let files = bench.files(&[]);
    for (path, content) in expected {
        assert!(fs::read(files.join(&path)).unwrap() == content, "{path}");
    }
}

/// As Docker 26 does: what a tar brings keeps its owner, also through COPY; directories that COPY
/// makes are root's.
#[test]
fn files_of_a_tar_context_keep_their_owner() {
    let Some(bench) = Bench::new(&[("f", "f"), ("d/g", "g")]) else { return };
    bench.write(
        "Dockerfile",
        "FROM scratch\nCOPY f /f\nCOPY d /d\nADD d /add\nCOPY --chown=5 f /own\nCOPY . /all\n",
    );
    let Some(tar) = need_tool("tar") else { return };
    let output = Command::new(tar)
        .arg("-C")
        .arg(&bench.context)
        .args(["--owner=1000", "--group=1001", "-cf", "-", "Dockerfile", "f", "d"])
        .output()
        .unwrap();
    let build = |spec: &str| bench.feed(&output.stdout, &["-o", spec]);
    let Some(target) = with_owners(&bench.davit, build) else { return };
    let owner = |path: &str| {
        let stat = Path::new(&target).join(path).symlink_metadata().unwrap();
        (stat.uid(), stat.gid())
    };
    for path in ["f", "d/g", "add/g", "all/f", "all/d", "all/d/g", "all/Dockerfile"] {
        assert_eq!(owner(path), (1000, 1001), "{path}");
    }
    for path in ["d", "add", "all"] {
        assert_eq!(owner(path), (0, 0), "{path}");
    }
    assert_eq!(owner("own"), (5, 5));
}

#[test]
fn a_dockerfile_on_standard_input_has_no_context() {
    let Some(bench) = Bench::new(&[("f", "1")]) else { return };
    let ok = bench.feed(b"# syntax=docker/dockerfile:1\nFROM scratch\nLABEL a=b\n", &["-t", "x:1"]);
    assert_eq!(ok.code, 0, "{}", ok.stderr);
    assert_eq!(bench.config(&ok)["config"]["Labels"]["a"], "b");
    let lost = bench.feed(b"FROM scratch\nCOPY f /\n", &[]);
    assert!(lost.code == 1 && lost.stderr.contains("Dockerfile:2"), "{}", lost.stderr);
    let empty = bench.feed(b"", &[]);
    assert_eq!(empty.code, 1, "{}", empty.stderr);
    // -f - with a directory: the text is from there, the files from the directory.
    let context = bench.context.to_str().unwrap().to_owned();
    let target = bench.davit.dir().join("by-f");
    let spec = format!("type=local,dest={}", target.display());
    let mut command = bench.davit.command(["build", "-q", "-f", "-", "-o", &spec, &context]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"FROM scratch\nCOPY f /g\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(list(&target), ["g 644 1"]);
}

#[test]
fn ignore_files_have_their_corners() {
    let Some(bench) = Bench::new(&[
        ("keep", ""),
        ("a.log", ""),
        ("deep/b.log", ""),
        ("deep/er/c.log", ""),
        ("deep/er/keep.log", ""),
        ("# odd", ""),
        ("!bang", ""),
        ("space ", ""),
        ("node_modules/m/index", ""),
        ("sub/node_modules/m/index", ""),
        ("Dockerfile", "FROM scratch\nCOPY . /\n"),
    ]) else {
        return;
    };
    let all = [
        "!bang",
        "# odd",
        "a.log",
        "deep/b.log",
        "deep/er/c.log",
        "deep/er/keep.log",
        "keep",
        "node_modules/m/index",
        "space ",
        "sub/node_modules/m/index",
    ];
    let without = |gone: &[&str]| -> Vec<&str> {
        all.into_iter().filter(|name| !gone.contains(name)).collect()
    };
    for (ignore, gone) in [
        ("", &[][..]),
        ("# odd\n", &[]),
        ("\\# odd\n", &["# odd"]),
        ("\u{feff}a.log\n", &["a.log"]),
        ("a.log\r\nkeep\r\n", &["a.log", "keep"]),
        ("  a.log  \n", &["a.log"]),
        ("/a.log\n", &["a.log"]),
        ("./a.log\n", &["a.log"]),
        ("x/../a.log\n", &["a.log"]),
        ("*.log\n", &["a.log"]),
        ("**/*.log\n", &["a.log", "deep/b.log", "deep/er/c.log", "deep/er/keep.log"]),
        ("**/*.log\n!**/keep.log\n", &["a.log", "deep/b.log", "deep/er/c.log"]),
        ("!**/keep.log\ndeep\n", &["deep/b.log", "deep/er/c.log", "deep/er/keep.log"]),
        ("deep/*\n!deep/er\n", &["deep/b.log"]),
        ("deep/\n", &["deep/b.log", "deep/er/c.log", "deep/er/keep.log"]),
        ("**/node_modules\n", &["node_modules/m/index", "sub/node_modules/m/index"]),
        ("node_modules\n", &["node_modules/m/index"]),
        ("d??p/[ab].log\n", &["deep/b.log"]),
    ] {
        bench.write(".dockerignore", ignore);
        let files = bench.files(&["--no-cache"]);
        let mut found: Vec<String> = list(&files)
            .into_iter()
            .filter(|line| !line.contains("/ ") && !line.contains("ocker"))
            .map(|line| line.split_once(" 644").unwrap().0.to_owned())
            .collect();
        found.sort();
        assert_eq!(found, without(gone), "{ignore:?}");
    }
    // Both files are used although they are excluded; one beside the Dockerfile wins.
    bench.write(".dockerignore", "Dockerfile\n.dockerignore\n*\n!keep\n");
    assert_eq!(list(&bench.files(&[])), ["keep 644"].map(|it| format!("{it} ")));
    bench.write("Dockerfile.dockerignore", "*\n!a.log\n");
    assert_eq!(list(&bench.files(&[])), ["a.log 644 "]);
    bench.write(".dockerignore", "[\n");
    fs::remove_file(bench.context.join("Dockerfile.dockerignore")).unwrap();
    let outcome = bench.run(&[]);
    assert!(outcome.code == 1 && outcome.stderr.contains(".dockerignore"), "{}", outcome.stderr);
}

/// A pattern may match nothing, but the directory that it names must be there: else a result
/// lacks its files and nobody is told.
#[test]
fn a_wildcard_needs_its_directory() {
    let files = [("dist/a", "1"), ("out/b", "2"), ("f", "3"), (".dockerignore", "dist\nout/*\n")];
    let Some(bench) = Bench::new(&files) else { return };
    for (steps, message, hint) in [
        ("COPY dist/* /x/", r#""dist/*" is excluded by .dockerignore:1"#, "the pattern `dist`"),
        ("COPY out/*b /x/", r#""out/*b" is excluded by .dockerignore:2"#, "the pattern `out/*`"),
        ("COPY f out/*.js /x/", r#""out/*.js" matches nothing in the context"#, ""),
        ("ADD nosuch/*/x /x/", r#"ADD: source "nosuch/*/x" matches nothing in the"#, ""),
        ("COPY f/* /x/", r#""f/*" matches nothing in the context"#, "Dockerfile:2:6"),
        ("COPY dits/* /x/", r#""dits/*" matches"#, "did you mean `dist/*`?"),
        ("COPY f /\nFROM scratch\nCOPY --from=0 /no/* /x/", "COPY: source `no/*` does not", ""),
    ] {
        bench.write("Dockerfile", &format!("FROM scratch\n{steps}\n"));
        let outcome = bench.run(&[]);
        assert_eq!(outcome.code, 1, "{steps}");
        assert!(outcome.stderr.contains(message), "{steps}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(hint), "{steps}: {}", outcome.stderr);
    }
    let none = "COPY f no* /d/\nFROM scratch\nCOPY --from=0 /d/n* /d/f /\n";
    bench.write("Dockerfile", &format!("FROM scratch\n{none}"));
    assert_eq!(list(&bench.files(&[])), ["f 644 3"]);
    let tar = [tar_file("Dockerfile", b"FROM scratch\nCOPY x/* /\n"), vec![0; 1024]].concat();
    let outcome = bench.feed(&tar, &[]);
    assert!(outcome.stderr.contains("\"x/*\" matches nothing"), "{}", outcome.stderr);
}
