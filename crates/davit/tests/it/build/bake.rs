//! `davit bake`: definitions to images and files.

use std::{fs, process::Stdio};

use davit_test::Outcome;
use serde_json::Value;

use super::bench::{Bench, list};

const DEFINITION: &str = r#"
variable "TAG" { default = "v1" }
group "default" { targets = ["app", "files"] }
target "_common" {
  args = { NAME = "common" }
  labels = { "org.tag" = TAG }
}
target "base" {
  context = "base"
  output = ["type=registry"]
}
target "app" {
  inherits = ["_common"]
  contexts = { base = "target:base" }
  dockerfile-inline = <<-EOF
    FROM base
    ARG NAME
    LABEL name=$NAME
    COPY own /
  EOF
  tags = ["app:${TAG}", "app:latest"]
}
target "files" {
  inherits = ["_common"]
  dockerfile = "Other"
  contexts = { base = "target:base" }
  output = ["out"]
}
"#;

fn bench() -> Option<Bench> {
    Bench::new(&[
        ("docker-bake.hcl", DEFINITION),
        ("base/Dockerfile", "FROM scratch\nCOPY shared /\n"),
        ("base/shared", "shared"),
        ("own", "own"),
        ("Other", "FROM scratch\nCOPY --from=base shared /copied\n"),
    ])
}

/// Bakes in the folder of the definition.
fn bake(bench: &Bench, args: &[&str], environment: &[(&str, &str)]) -> Outcome {
    let fixed = ["bake", "--progress", "plain"];
    let mut command = bench.davit.command(fixed.iter().chain(args));
    command.current_dir(&bench.context).envs(environment.iter().copied());
    command.stdin(Stdio::null());
    Outcome::from(command.output().unwrap())
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn targets_are_built_once_and_of_each_other() {
    let Some(bench) = bench() else { return };
    let metadata = ["--metadata-file", "facts.json"];
    let outcome = bake(&bench, &metadata, &[("TAG", "v2")]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert_eq!(list(&bench.context.join("out")), ["copied 644 shared"]);
    let image = json(&bench.davit.ok(["image", "inspect", "app:v2"]));
    let labels = &image[0]["Config"]["Labels"];
    assert_eq!((&labels["name"], &labels["org.tag"]), (&"common".into(), &"v2".into()));
    assert_eq!(image[0]["RootFS"]["Layers"].as_array().unwrap().len(), 2);
    assert!(outcome.stderr.contains("Built app: sha256:"), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches("Built base:").count(), 1, "{}", outcome.stderr);
    let facts = json(&fs::read_to_string(bench.context.join("facts.json")).unwrap());
    let id = image[0]["Id"].as_str().unwrap();
    assert_eq!(facts["app"]["containerimage.config.digest"], id);
    let names = facts["app"]["image.name"].as_str().unwrap();
    assert!(names.contains("app:v2") && names.contains("app:latest"), "{names}");
    assert_eq!(bench.davit.ok(["images", "-q", "--no-trunc"]).lines().count(), 2, "{names}");
    // What only others are built of is built for their platforms.
    let many = ["app", "--set", "app.platform=linux/amd64", "--set", "app.platform=linux/arm64"];
    let outcome = bake(&bench, &[&many[..], &["--set", "app.output=type=cacheonly"]].concat(), &[]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    // One job: each target waits for its own nevertheless; flags and `--set` win.
    let set = ["--jobs", "1", "app", "--set", "*.args.NAME=set", "--set", "app.tags=other:1"];
    let outcome = bake(&bench, &set, &[]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let image = json(&bench.davit.ok(["image", "inspect", "other:1"]));
    assert_eq!(image[0]["Config"]["Labels"]["name"], "set");
}

#[test]
fn a_definition_is_shown_and_may_come_from_standard_input() {
    let Some(bench) = bench() else { return };
    let shown = bake(&bench, &["--print", "app"], &[]);
    let shown = json(&shown.stdout);
    assert_eq!(shown["group"]["default"]["targets"], serde_json::json!(["app"]));
    assert_eq!(shown["target"]["base"]["output"], serde_json::json!([{"type": "cacheonly"}]));
    assert_eq!(shown["target"]["app"]["tags"], serde_json::json!(["app:v1", "app:latest"]));
    let listed = bake(&bench, &["--list", "targets"], &[]).stdout;
    let expected = "TARGET    DESCRIPTION\napp\nbase\ndefault   app, files\nfiles\n";
    assert_eq!(listed, expected);
    let listed = bake(&bench, &["--list", "variables"], &[("TAG", "\u{1b}[2J")]).stdout;
    assert!(listed.contains("TAG") && !listed.contains('\u{1b}'), "{listed:?}");
    let text = r#"{"target": {"default": {"dockerfile-inline": "FROM scratch\nCOPY own /\n",
        "output": ["type=local,dest=from-json"]}}}"#;
    bench.write("input.json", text);
    let mut command = bench.davit.command(["bake", "-f", "-", "--progress", "rawjson"]);
    command.current_dir(&bench.context);
    command.stdin(fs::File::open(bench.context.join("input.json")).unwrap());
    let outcome = Outcome::from(command.output().unwrap());
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert_eq!(list(&bench.context.join("from-json")), ["own 644 own"]);
}

#[test]
fn what_a_definition_must_not_is_refused_by_name() {
    let Some(bench) = bench() else { return };
    let check = |body: &str, args: &[&str], problem: &str| {
        bench.write("x.hcl", &format!("target \"t\" {{\n  dockerfile = \"Other\"\n{body}\n}}\n"));
        let outcome = bake(&bench, &[&["-f", "x.hcl", "t"], args].concat(), &[]);
        assert_ne!(outcome.code, 0, "{body}");
        assert!(outcome.stderr.contains(problem), "{body}: {}", outcome.stderr);
    };
    for (body, problem) in [
        ("secret = [\"id=s,src=/etc/shadow\"]", "--allow fs.read=/etc/shadow"),
        ("secret = [\"id=/etc/shadow\"]", "--allow fs.read=/etc/shadow"),
        ("context = \"../..\"", "--allow fs.read="),
        ("output = [\"/nowhere-davit\"]", "--allow fs.write=/nowhere-davit"),
        (
            "output = [{ \"type\" = \"local\", \"dest=/nowhere-davit\" = \"x\" }]",
            "fs.write=/nowhere-",
        ),
        ("output = [{ type = \"local\", DEST = \"/nowhere-davit\" }]", "fs.write=/nowhere-davit"),
        ("entitlements = [\"security.insecure\"]", "--allow security.insecure"),
        ("network = \"host\"", "--allow network.host"),
        ("ssh = [\"default\"]", "--allow ssh"),
        ("cache-to = [\"type=local,dest=/nowhere-davit\"]", "--allow fs.write=/nowhere-davit"),
        ("cache-from = [\"type=local,src=/nowhere-davit\"]", "--allow fs.read=/nowhere-davit"),
        ("call = \"check\"", "`call` is not supported"),
        ("policy = []", "x.hcl:3: there is no attribute `policy`"),
        ("tags = [\"-v\"]", "invalid argument"),
        ("tags = [nothing]", "there is no variable `nothing`"),
        ("target = \"gone\"", "the target `t` failed"),
        ("inherits = [\"u\"]", "there is no target `u`"),
    ] {
        check(body, &[], problem);
    }
    check("", &["nope"], "there is no target `nope`");
    check("", &["https://host/x.git"], "remote definitions are not supported");
    bench.write("compose.yaml", "services: {}\n");
    let outcome = bake(&bench, &["-f", "compose.yaml"], &[]);
    assert!(outcome.stderr.contains("Compose files are not supported"), "{}", outcome.stderr);
    assert!(!std::path::Path::new("/nowhere-davit").exists());
}
