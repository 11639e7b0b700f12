//! `--squash`: one layer in place of several, and the same files.

use std::fs;

use davit_test::{Access, Registry, need_tool};
use serde_json::Value;

use super::bench::{Bench, alpine, list};
use crate::davit;

/// Everything that layers can do to those below: change, replace, hide, link, remove.
const BASE: &str = "FROM alpine AS base
RUN mkdir -p /b/keep /b/hide/deep /b/swap /b/link && echo 1 | tee /b/keep/f /b/hide/f /b/hide/deep/g /b/swap/x \\
    /b/file /b/link/one && ln /b/link/one /b/link/two && ln -s file /b/sym && chmod 700 /b/hide && mknod /b/null c 1 3
";
const STEPS: &str = "
RUN rm -rf /b/hide && mkdir /b/hide && echo new > /b/hide/h
RUN rm -rf /b/swap && echo file > /b/swap && rm /b/file && mkdir /b/file && echo in > /b/file/in
RUN echo 2 >> /b/link/one && mkdir /n && echo gone > /n/gone && echo kept > /n/kept
RUN rm /n/gone && ln /n/kept /n/other && rm -rf /b/swap && mkdir /b/swap && rm /b/sym && ln -s swap /b/sym
RUN chown 12:34 /b/keep && chmod 2711 /b/keep && touch -d '2001-02-03 04:05:06' /b/keep/f && rm -rf /media /b/null
RUN mkdir /c && touch /c/wh && rm -r /c && echo same > /same
COPY . /context/
ENV A=b
";

/// Writes all files of a container as the kernel shows them, but for those that davit puts there: a line
/// of metadata each, targets of links, digests of contents; and which names are one file.
const TREE: &str = r#"
cd / && find . -xdev | LC_ALL=C sort | grep -Ev '^\./(dev|proc|sys|etc/(hosts|hostname|resolv.conf))$' |
while read -r f; do
    stat -c '%A %u %g %t %T %Y %n' "$f"
    if [ -L "$f" ]; then readlink "$f"; elif [ -f "$f" ]; then md5sum < "$f"; fi
done
[ /n/kept -ef /n/other ] && echo linked
[ /b/link/one -ef /b/link/two ] || echo apart
"#;

fn tree(bench: &Bench, image: &str) -> String {
    let run = ["run", "--rm", "--network", "none", "--entrypoint", "/bin/sh", image, "-c", TREE];
    bench.davit.ok(run)
}

fn empty(config: &Value) -> Vec<bool> {
    let entries = config["history"].as_array().unwrap().iter();
    entries.map(|entry| entry["empty_layer"] == true).collect()
}

fn layers(config: &Value) -> Vec<Value> {
    config["rootfs"]["diff_ids"].as_array().unwrap().clone()
}

#[test]
fn a_merged_image_shows_the_same_files() {
    let Some(bench) = alpine("") else { return };
    bench.write("s/a", "1");
    let base = fs::read_to_string(bench.context.join("Dockerfile")).unwrap();
    bench.write("Dockerfile", &format!("{base}{BASE}"));
    let below = bench.build(&["-t", "base:1"]);
    bench.write("Dockerfile", &format!("FROM base:1\n{STEPS}"));
    let plain = bench.build(&["-t", "plain:1"]);
    let expected = tree(&bench, "plain:1");
    assert!(
        expected.contains("./context/s/a") && expected.ends_with("linked\napart"),
        "{expected}"
    );
    let (own, count) = (layers(&below).len(), layers(&plain).len());
    for (option, name, kept) in [("--squash", "new:1", own), ("--squash=all", "all:1", 0)] {
        let merged = bench.build(&[option, "-t", name]);
        assert_eq!(layers(&merged).len(), kept + 1, "{option}");
        assert_eq!(layers(&merged)[..kept], layers(&plain)[..kept]);
        assert!(tree(&bench, name) == expected, "{option}");
        // Every step is still told, and that it has no layer.
        let history = merged["history"].as_array().unwrap();
        assert_eq!(history.len(), plain["history"].as_array().unwrap().len() + 1);
        assert_eq!(empty(&merged).iter().filter(|empty| !**empty).count(), kept + 1);
        let last = history.last().unwrap();
        assert_eq!(last["comment"], format!("merge of {} layers", count - kept));
        assert_eq!(merged["config"], plain["config"]);
        // The steps' own results stay in the cache, and so does the merged layer.
        let again = bench.run(&[option]);
        assert!(again.stderr.contains("(8 of 8 steps cached)"), "{}", again.stderr);
        assert_eq!(bench.config(&again), merged);
    }
    assert_eq!(bench.build(&["--squash=false"]), plain);
    bench.davit.ok(["system", "check"]);
    // One layer is one already, and no layer none.
    for steps in ["COPY s /s/\n", "ENV A=b\n"] {
        bench.write("Dockerfile", &format!("FROM base:1\n{steps}"));
        assert_eq!(bench.build(&["--squash"]), bench.build(&[]), "{steps}");
    }
    let refused = bench.run(&["--squash=some"]);
    assert_eq!(refused.code, 125, "{}", refused.stderr);
}

#[test]
fn merged_layers_go_everywhere() {
    let (Some(bench), Some(registry)) =
        (Bench::new(&[("a/f", "1"), ("b/f", "2")]), Registry::start(Access::Open))
    else {
        return;
    };
    bench.write("Dockerfile", "FROM scratch\nCOPY a /a\nCOPY b /b\nCOPY b /a\n");
    let name = format!("{}/merged:1", registry.host());
    let (tar, out) = (bench.davit.dir().join("m.tar"), bench.davit.dir().join("m"));
    let outputs = [
        format!("type=registry,name={name},compression=estargz"),
        format!("type=oci,name=m:1,dest={}", tar.display()),
        format!("type=local,platform-split=false,dest={}", out.display()),
    ];
    let platforms = ["--platform", "linux/amd64,linux/arm64"];
    let build = |more: &[&str]| {
        let outputs = outputs.iter().flat_map(|spec| ["-o", spec]);
        let args: Vec<&str> = outputs.chain(more.iter().copied()).collect();
        let outcome = bench.run(&args);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    };
    build(&["--squash"]);
    let expected = ["a/ 755", "a/f 644 2", "b/ 755", "b/f 644 2"];
    assert_eq!(list(&out), expected);
    let other = davit();
    other.ok(["pull", &name]);
    other.ok(["load", "-i", tar.to_str().unwrap()]);
    for image in [&name, "m:1"] {
        let layers = other.ok(["image", "inspect", "-f", "{{len .RootFS.Layers}}", image]);
        assert_eq!(layers, "1", "{image}");
    }
    let outcome = bench.run(&[&platforms[..], &["--squash=all", "-t", "two:1"]].concat());
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let saved = bench.davit.ok(["image", "inspect", "-f", "{{len .RootFS.Layers}}", "two:1"]);
    assert_eq!(saved, "1");
}

#[test]
fn a_merged_image_is_the_same_each_time() {
    let Some(bench) = alpine("RUN date > /now; rm /now; mkdir /d\nRUN rmdir /d; echo 1 > /f\n")
    else {
        return;
    };
    if need_tool("tar").is_none() {
        return;
    }
    let tar = bench.davit.dir().join("same.tar");
    let spec = format!("type=oci,rewrite-timestamp=true,dest={}", tar.display());
    for option in ["--squash=new", "--squash=all"] {
        let build = || {
            let args = [option, "--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=900", "-o", &spec];
            let outcome = bench.run(&args);
            assert_eq!(outcome.code, 0, "{}", outcome.stderr);
            fs::read(&tar).unwrap()
        };
        assert!(build() == build(), "{option}");
    }
}
