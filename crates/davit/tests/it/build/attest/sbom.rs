//! What an SBOM tells.

use std::{collections::BTreeMap, process::Command};

use davit_test::need_tool;
use serde_json::{Value, json};

use super::{Layout, SPDX, json};
use crate::build::bench::{Bench, alpine};

fn packages(document: &Value) -> Vec<String> {
    let packages = document["packages"].as_array().unwrap().iter();
    let purl = |it: &Value| it["externalRefs"][0]["referenceLocator"].as_str().map(str::to_owned);
    packages.filter_map(purl).collect()
}

/// SHA-1 of all files that a document tells.
fn sums(document: &Value) -> BTreeMap<String, String> {
    let files = document["files"].as_array().unwrap().iter();
    let sum = |it: &Value| {
        let [sum] = it["checksums"].as_array().unwrap().as_slice() else { panic!("{it}") };
        assert_eq!(sum["algorithm"], "SHA1");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (text(&it["fileName"]), text(&sum["checksumValue"]))
    };
    files.map(sum).collect()
}

/// SHA-1 of `content`, by another program.
fn sha1(content: &str) -> String {
    let script = format!("printf '{content}' | sha1sum");
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

/// What dpkg lists is told as far as it is there, with the checksums of what is there.
#[test]
fn files_of_debian_packages_are_told() {
    if need_tool("sha1sum").is_none() {
        return;
    }
    let status = "Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\n\n\
                  Package: b\nStatus: install ok installed\nVersion: 2\nArchitecture: all\n\n\
                  Package: ../x\nStatus: install ok installed\nVersion: 3\n";
    let listed =
        "/.\n/usr\n/usr/bin\n/bin/tool\n/bin/link\n/usr/gone\n/etc/changed\n/../../etc/passwd\n";
    let files = [
        ("status", status),
        ("info/a:amd64.list", listed),
        ("info/b.list", "/etc/twin\n/etc/changed\n/sparse\n/etc/out\n"),
        ("x.list", "/etc/secret\n"),
        ("status.d/c", "Package: c\nVersion: 4\nArchitecture: all\n"),
        ("status.d/c.md5sums", "0123  etc/sum med\nbad\n"),
        ("status.d/again", "Package: b\nVersion: 2\nArchitecture: all\n"),
        ("tool", "tool"),
        ("file", "old"),
        (
            "Dockerfile",
            "FROM scratch\nCOPY status /var/lib/dpkg/\nCOPY info /var/lib/dpkg/info/\n\
             COPY x.list /var/lib/dpkg/\nCOPY status.d /var/lib/dpkg/status.d/\n\
             COPY tool /usr/bin/\nCOPY links /\nCOPY file /etc/changed\n\
             COPY twins /etc/\nCOPY [\"file\", \"/etc/sum med\"]\nCOPY file /etc/secret\nCOPY sparse /sparse\n\
             COPY tool /etc/changed\n",
        ),
    ];
    let Some(bench) = Bench::new(&files) else { return };
    let link = |target: &str, name: &str| {
        let path = bench.context.join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
    };
    link("usr/bin", "links/bin");
    link("tool", "links/usr/bin/link");
    link("/../../../etc/hostname", "twins/out");
    bench.write("twins/one", "twin");
    fs_err::hard_link(bench.context.join("twins/one"), bench.context.join("twins/twin")).unwrap();
    let sparse = fs_err::File::create(bench.context.join("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    let target = bench.files(&["--sbom", "true"]);
    let document = json(&target.join("sbom.spdx.json"))["predicate"].clone();
    let names = packages(&document);
    assert_eq!(names.len(), 4, "each package once: {names:?}");
    let zeros = String::from_utf8(
        Command::new("sha1sum").arg(bench.context.join("sparse")).output().unwrap().stdout,
    );
    let zeros = zeros.unwrap().split(' ').next().unwrap().to_owned();
    let expected = [
        ("/bin/tool", sha1("tool")),
        ("/etc/changed", sha1("tool")),
        ("/etc/sum med", sha1("old")),
        ("/etc/twin", sha1("twin")),
        ("/sparse", zeros),
    ];
    let expected = expected.map(|(name, sum)| (name.to_owned(), sum));
    assert_eq!(sums(&document), BTreeMap::from(expected));
}

#[test]
fn packages_of_the_image_are_told() {
    let Some(tool) = need_tool("sha1sum") else { return };
    let Some(bench) = alpine("FROM alpine\n") else { return };
    let layout = Layout::build(&bench, "alpine", "", &["--sbom", "true"]);
    let statement = layout.statement(&layout.document(&layout.referrer()["digest"]), SPDX);
    let document = &statement["predicate"];
    assert_eq!(document["spdxVersion"], "SPDX-2.3");
    let files = bench.files(&[]);
    let database = fs_err::read_to_string(files.join("lib/apk/db/installed")).unwrap();
    let count = |prefix: &str| database.lines().filter(|line| line.starts_with(prefix)).count();
    let found = packages(document);
    assert_eq!(found.len(), count("P:"), "{found:?}");
    let musl = database.lines().skip_while(|line| *line != "P:musl");
    let version = musl.clone().find_map(|line| line.strip_prefix("V:")).unwrap();
    let musl = format!("pkg:apk/alpine/musl@{version}?arch=x86_64&distro=alpine-3.20.3");
    assert!(found.contains(&musl), "{found:?}");
    let sums = sums(document);
    let busybox = "/bin/busybox".to_owned();
    let output = Command::new(tool).arg(files.join("bin/busybox")).output().unwrap();
    let expected = String::from_utf8(output.stdout).unwrap();
    assert_eq!(sums[&busybox], expected.split(' ').next().unwrap());
    let of_packages = database.lines().filter(|line| line.starts_with("R:")).count();
    assert!(sums.len() > of_packages / 2 && sums.len() <= of_packages, "{}", sums.len());
    let all = document["packages"].as_array().unwrap();
    let musl = all.iter().find(|it| it["name"] == "musl").unwrap();
    assert_eq!((&musl["licenseDeclared"], &musl["versionInfo"]), (&json!("MIT"), &json!(version)));
    // Every id is there once, and every relationship leads from one to another.
    let of = |key: &str| document[key].as_array().unwrap().clone();
    let elements = [of("packages"), of("files")].concat();
    let mut ids: Vec<&str> = elements.iter().map(|it| it["SPDXID"].as_str().unwrap()).collect();
    ids.push("SPDXRef-DOCUMENT");
    ids.sort_unstable();
    let all = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), all);
    for relationship in of("relationships") {
        for end in ["spdxElementId", "relatedSpdxElement"] {
            assert!(ids.binary_search(&relationship[end].as_str().unwrap()).is_ok());
        }
    }
    let again = Layout::build(&bench, "again", "", &["--sbom=true"]);
    assert_eq!(layout.referrer(), again.referrer(), "the same image has the same SBOM");
}

#[test]
fn hostile_databases_are_no_more_than_errors() {
    let files = [
        ("ok", "Package: a\nVersion: 1\nArchitecture: all\nMaintainer: \u{1b}[2J\n"),
        ("odd", "Package: b\x07\nVersion: 1\n\nnothing\n\nPackage: c\n\nVersion: 2\n"),
        ("os-release", "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"\u{1b}]0;x\"\n"),
        (
            "Dockerfile",
            "FROM scratch\nCOPY ok odd /var/lib/dpkg/status.d/\nCOPY os-release /etc/\n",
        ),
    ];
    let Some(bench) = Bench::new(&files) else { return };
    let target = bench.files(&["--sbom", "true"]);
    let document = json(&target.join("sbom.spdx.json"))["predicate"].clone();
    assert_eq!(packages(&document), ["pkg:deb/debian/a@1?arch=all&distro=debian-12"]);
    assert!(!document.to_string().contains("\\u001b"), "{document}");
    // A database that no honest image has; a symlink that leads out of the image.
    let big = fs_err::File::create(bench.context.join("big")).unwrap();
    big.set_len((64 << 20) + 1).unwrap();
    bench.write("Dockerfile", "FROM scratch\nCOPY big /var/lib/dpkg/status\n");
    let refused = bench.run(&["--sbom", "true"]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("more than a package database may have"), "{}", refused.stderr);
    std::os::unix::fs::symlink("/etc", bench.context.join("etc")).unwrap();
    std::os::unix::fs::symlink("loop", bench.context.join("loop")).unwrap();
    bench.write("Dockerfile", "FROM scratch\nCOPY etc loop /x/\nCOPY loop /var/lib/dpkg/status\n");
    let refused = bench.run(&["--sbom", "true"]);
    assert_eq!(refused.code, 1, "a symlink that leads to itself is no source");
}

/// `SBOMScannerArgs`
#[test]
fn sbom_scanner_args() {
    let Some(bench) = alpine(
        "ARG BUILDKIT_SBOM_SCAN_CONTEXT=true\nFROM alpine AS tools\nARG BUILDKIT_SBOM_SCAN_STAGE=true\n\
         RUN touch /made\nFROM alpine AS quiet\nARG BUILDKIT_SBOM_SCAN_STAGE=other\nRUN touch /made\n\
         FROM scratch\nARG BUILDKIT_SBOM_SCAN_CONTEXT\nCOPY --from=tools /made /a\n\
         COPY --from=quiet /made /b\n",
    ) else {
        return;
    };
    let text = fs_err::read_to_string(bench.context.join("Dockerfile")).unwrap();
    let text = text.replacen("FROM scratch AS alpine", "# moved", 1);
    let text = text.replacen("ADD alpine.tar.gz /\n", "", 1);
    let first = "FROM scratch AS alpine\nADD alpine.tar.gz /\n";
    let at = text.find("FROM alpine AS tools").unwrap();
    bench.write("Dockerfile", &format!("{}{first}{}", &text[..at], &text[at..]));
    let names = |args: &[&str]| {
        let target = bench.files(args);
        let names = fs_err::read_dir(&target).unwrap();
        let names = names.map(|it| it.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.ends_with(".spdx.json")).collect();
        names.sort();
        (target, names)
    };
    let (target, found) = names(&["--sbom", "true"]);
    assert_eq!(found, ["sbom-context.spdx.json", "sbom-tools.spdx.json", "sbom.spdx.json"]);
    let count = |name: &str| packages(&json(&target.join(name))["predicate"]).len();
    assert_eq!((count("sbom.spdx.json"), count("sbom-context.spdx.json")), (0, 0));
    assert!(count("sbom-tools.spdx.json") > 10);
    let never = ["--sbom=true", "--build-arg=BUILDKIT_SBOM_SCAN_STAGE=false"];
    let never = [&never[..], &["--build-arg=BUILDKIT_SBOM_SCAN_CONTEXT=false"]].concat();
    assert_eq!(names(&never).1, ["sbom.spdx.json"]);
}

/// `SBOMScannerImage`
#[test]
fn sbom_scanner_image() {
    let script = "#!/bin/sh\nset -e\ntest -f $BUILDKIT_SCAN_SOURCE/f\ntest -w /tmp\n\
                  ! touch $BUILDKIT_SCAN_SOURCE/g 2>/dev/null\n\
                  name=$(cat $BUILDKIT_SCAN_SOURCE/f)$BUILDKIT_SCAN_SUFFIX\n\
                  echo \"{\\\"predicateType\\\":\\\"$KIND\\\",\\\"predicate\\\":{\\\"name\\\":\\\"$name\\\"}}\" \
                  >$BUILDKIT_SCAN_DESTINATION/sbom.spdx.json\n";
    let generator = "FROM alpine\nCOPY --chmod=755 scan /scan\nENTRYPOINT [\"/scan\"]\n";
    let Some(bench) = alpine(&format!("{generator}ENV KIND=https://spdx.dev/Document\n")) else {
        return;
    };
    bench.write("scan", script);
    bench.build(&["-t", "scanner:1"]);
    bench.build(&["-t", "scanner:none", "--target", "alpine"]);
    let text = fs_err::read_to_string(bench.context.join("Dockerfile")).unwrap();
    bench.write("Dockerfile", &text.replace("KIND=https://spdx.dev", "KIND=https://other"));
    bench.build(&["-t", "scanner:wrong"]);
    bench.write("f", "content");
    bench.write("Dockerfile", "FROM scratch\nCOPY f /f\n");
    let plain = Layout::build(&bench, "plain", "", &[]).index();
    let args = ["--sbom", "generator=scanner:1,SUFFIX=-more"];
    let layout = Layout::build(&bench, "scanned", "", &args);
    assert_eq!(layout.index()[0]["digest"], plain[0]["digest"]);
    let statement = layout.statement(&layout.document(&layout.referrer()["digest"]), SPDX);
    assert_eq!(statement["predicate"], json!({"name": "content-more"}));
    let again = bench.run(&args);
    assert!(again.stderr.contains("(4 of 4 steps cached)"), "{}", again.stderr);
    // An image's own cache has nothing of what looks at it.
    let inline = ["--cache-to", "type=inline"];
    let told = |name, more: &[&str]| Layout::build(&bench, name, "", &[&inline, more].concat());
    let (without, with) = (told("without", &[]).index(), told("with", &args).index());
    assert_eq!(with[0]["digest"], without[0]["digest"]);
    for (name, message) in
        [("scanner:none", "has no command"), ("scanner:wrong", "is no statement of type")]
    {
        let refused = bench.run(&["--sbom", &format!("generator={name}")]);
        assert_eq!(refused.code, 1, "{name}");
        assert!(refused.stderr.contains(message), "{name}: {}", refused.stderr);
    }
}
