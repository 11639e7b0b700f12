//! `davit bake`: definitions to images and files.

use std::{fs, process::Stdio};

use davit_test::{HttpServer, Outcome, Reply};
use serde_json::Value;

use super::{
    bench::{Bench, list},
    git_server::GitServer,
};

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
fn contexts_go_out_from_the_definition_if_that_is_asked_for() {
    let files = [
        ("a/docker-bake.hcl", "target \"default\" {\n  policy = [\"disabled=true\"]\n}\n"),
        ("a/Dockerfile", "FROM scratch\nCOPY f /\n"),
        ("a/Dockerfile.rego", "package docker\n"),
        ("a/f", "1"),
    ];
    let Some(bench) = Bench::new(&files) else { return };
    let relative = [("BUILDX_BAKE_FILE_RELATIVE_PATHS", "1")];
    let args = ["-f", "a/docker-bake.hcl", "--set", "*.output=type=local,dest=out"];
    assert_ne!(bake(&bench, &args, &[]).code, 0);
    let outcome = bake(&bench, &args, &relative);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert_eq!(list(&bench.context.join("out")), ["f 644 1"]);
    bench.write("a/docker-bake.hcl", "target \"default\" {}\n");
    let judged = bake(&bench, &args, &relative);
    assert!(judged.code == 1 && judged.stderr.contains("Dockerfile.rego is one"), "{judged:?}");
    let free = bake(&bench, &[&args[..], &["--policy", "disabled=true"]].concat(), &relative);
    assert_eq!(free.code, 0, "{}", free.stderr);
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
        ("call = \"nope\"", "the call `nope`: there is no method `nope`"),
        ("policy = [{ filename = \"x.rego\" }]", "source policies are not evaluated"),
        ("tags = [\"-v\"]", "invalid argument"),
        ("tags = [nothing]", "there is no variable `nothing`"),
        ("target = \"gone\"", "the target `t` failed"),
        ("inherits = [\"u\"]", "there is no target `u`"),
    ] {
        check(body, &[], problem);
    }
    check("", &["nope"], "there is no target `nope`");
    let mistyped = bake(&bench, &["bsae"], &[]);
    assert!(mistyped.stderr.contains("did you mean `base`?"), "{}", mistyped.stderr);
    check("", &["--policy", "strict=true"], "only disabled=true is supported");
    bench.write("Other.rego", "package docker\n");
    check("", &[], "Other.rego is one");
    bench.write("compose.yaml", "services: {a: {build: {context: ., nope: 1}}}\n");
    let outcome = bake(&bench, &["-f", "compose.yaml"], &[]);
    assert!(
        outcome.stderr.contains("compose.yaml:1: there is no key `nope`"),
        "{}",
        outcome.stderr
    );
    assert!(!std::path::Path::new("/nowhere-davit").exists());
}

#[test]
fn services_of_a_compose_file_are_built() {
    let Some(bench) = Bench::new(&[
        ("compose.yaml", COMPOSE),
        ("docker-bake.hcl", "target \"app\" {\n  labels = { hcl = \"yes\" }\n}\n"),
        (".env", "NAME=from-dotenv\n"),
        ("vars", "FROM_FILE=of-file\n"),
        ("base/Dockerfile", "FROM scratch\nCOPY own /\n"),
        ("base/own", "own"),
    ]) else {
        return;
    };
    let outcome = bake(&bench, &[], &[("TAG", "v3")]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let image = json(&bench.davit.ok(["image", "inspect", "app:v3"]));
    let labels = &image[0]["Config"]["Labels"];
    assert_eq!((&labels["name"], &labels["file"]), (&"from-dotenv".into(), &"of-file".into()));
    assert_eq!(labels["hcl"], "yes");
    assert_eq!(image[0]["RootFS"]["Layers"].as_array().unwrap().len(), 1);
    // Files of the environment take the place of the usual ones.
    bench.write("other.hcl", "target \"default\" { context = \"base\" }\n");
    let named = [("BUILDX_BAKE_FILE", "other.hcl , docker-bake.hcl"), SEPARATED];
    let shown = json(&bake(&bench, &["--print"], &named).stdout);
    assert_eq!(shown["target"]["default"]["context"], "base");
}

const SEPARATED: (&str, &str) = ("BUILDX_BAKE_PATH_SEPARATOR", ",");
const COMPOSE: &str = r#"
services:
  base:
    build: ./base
    image: base:own
  app:
    image: app:${TAG:-dev}
    env_file: vars
    build:
      dockerfile_inline: |
        FROM base
        ARG NAME
        ARG FROM_FILE
        LABEL name=$$NAME file=$$FROM_FILE
      args: [NAME, FROM_FILE]
      additional_contexts: {base: "service:base"}
"#;

#[test]
fn targets_are_asked_instead_of_built() {
    let Some(bench) = Bench::new(&[
        ("docker-bake.hcl", QUESTIONS),
        ("Dockerfile", "# the default\nFROM scratch AS last\nARG A=1\nCOPY x /\n"),
        ("Bad", "from scratch\nCOPY x /\nmaintainer me\n"),
        ("x", ""),
    ]) else {
        return;
    };
    let outcome = bake(&bench, &["--call=outline"], &[]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stdout.starts_with("bad\nthe bad one\n\n"), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("\n\ngood\n\n"), "{}", outcome.stdout);
    let outcome = bake(&bench, &["--check", "good"], &[]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, "good\n\nno warnings\n"));
    let outcome = bake(&bench, &["--call=check,format=json"], &[]);
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    let shown = json(&outcome.stdout);
    let warnings = shown["target"]["bad"]["check"]["warnings"].as_array().unwrap();
    assert!(!warnings.is_empty(), "{shown}");
    let good = &shown["target"]["good"]["check"]["warnings"];
    assert!(good.as_array().is_none_or(Vec::is_empty), "{shown}");
    assert_eq!(shown["target"]["bad"]["build"]["dockerfile"], "Bad");
    // A definition may ask by itself, beside targets that are built.
    let set = ["--set", "bad.call=targets", "--set", "good.output=type=cacheonly"];
    let outcome = bake(&bench, &set, &[]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stdout.starts_with("bad\n") && outcome.stderr.contains("Built good"));
}

const QUESTIONS: &str = r#"
group "default" { targets = ["good", "bad"] }
target "good" {}
target "bad" {
  description = "the bad one"
  dockerfile = "Bad"
}
"#;

#[test]
fn a_definition_may_lie_in_a_repository() {
    let Some(bench) = Bench::new(&[("sub/docker-bake.hcl", "target \"s\" {}\n")]) else { return };
    let Some(server) = GitServer::start(|_| true) else { return };
    let repository = server.repository("r.git");
    for (name, text) in [
        ("docker-bake.hcl", REMOTE),
        ("one/Dockerfile", "FROM scratch\nCOPY own /\n"),
        ("one/own", "remote"),
    ] {
        let path = server.path("r.git").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    repository.git(&["add", "."]);
    repository.git(&["commit", "-qm", "x"]);
    let url = server.url("r.git#main");
    let outcome = bake(&bench, &["--print", &url], &[]);
    let shown = json(&outcome.stdout);
    assert!(shown["target"]["default"]["context"].as_str().unwrap().ends_with("#main:one"));
    assert_eq!(shown["target"]["default"]["args"]["HERE"], "cwd://");
    // A file of this machine beside it; contexts go out from the repository all the same.
    bench.write("more.hcl", "target \"default\" { output = [\"out\"] }\n");
    let outcome = bake(&bench, &["-f", "docker-bake.hcl", "-f", "cwd://more.hcl", &url], &[]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert_eq!(list(&bench.context.join("out")), ["own 644 remote"]);
    let outcome = bake(&bench, &["-f", "gone.hcl", &url], &[]);
    assert!(outcome.code == 1 && outcome.stderr.contains("gone.hcl"), "{}", outcome.stderr);
    bench.write("leave.hcl", "target \"default\" { context = \"../..\" }\n");
    let outcome = bake(&bench, &["-f", "docker-bake.hcl", "-f", "cwd://leave.hcl", &url], &[]);
    assert!(outcome.stderr.contains("is not in the repository"), "{}", outcome.stderr);
}

#[test]
fn a_definition_of_a_web_server_is_one_file() {
    let Some(bench) = bench() else { return };
    let tar = super::bench::tar_file("docker-bake.hcl", b"target \"default\" {}\n");
    let server = HttpServer::start(move |request| match request.path.as_str() {
        "/x.hcl" => Reply::status(200).body("target \"default\" { tags = [\"far\"] }\n"),
        "/x.tar" => Reply::status(200).body(tar.clone()),
        _ => Reply::status(404),
    });
    let ask =
        |name: &str| bake(&bench, &["--print", &format!("http://{}{name}", server.host())], &[]);
    assert_eq!(json(&ask("/x.hcl").stdout)["target"]["default"]["tags"][0], "far");
    let refused = ask("/x.tar");
    assert!(refused.stderr.contains("x.tar` is an archive"), "{}", refused.stderr);
}

const REMOTE: &str = r#"
target "default" {
  context = "./one"
  args = { HERE = BAKE_CMD_CONTEXT }
}
"#;
