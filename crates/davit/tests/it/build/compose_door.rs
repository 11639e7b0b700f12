//! What Docker Compose asks of `docker-buildx`: its exact call, and Compose itself where it is.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use davit_test::{HttpServer, Outcome, Reply, find_tool, skip};
use serde_json::{Value, json};

use super::{bench::Bench, docker::Docker};

const SERVICES: &str = r#"
services:
  web:
    image: web:one
    build:
      context: .
      args: {NAME: of-compose}
      additional_contexts: {base: "service:base"}
      secrets: [s]
  base:
    image: base:one
    build:
      context: base
      dockerfile_inline: |
        FROM scratch
        COPY own /
secrets:
  s: {file: ./compose.yaml}
"#;

fn bench() -> Option<Bench> {
    Bench::new(&[
        ("compose.yaml", SERVICES),
        ("Dockerfile", "FROM base\nARG NAME\nLABEL name=$NAME\n"),
        ("base/own", "own"),
    ])
}

/// The bytes that Compose writes to the plugin for these services.
fn definition(bench: &Bench) -> String {
    let context = bench.context.to_str().unwrap();
    let target = |name: &str, more: &Value| {
        let mut target = json!({
            "context": context,
            "labels": {"com.docker.compose.project": "p", "com.docker.compose.service": name},
            "tags": [format!("{name}:call")],
            "output": ["type=docker"],
        });
        target.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        target
    };
    let base = json!({"context": format!("{context}/base"), "dockerfile-inline": "FROM scratch\nCOPY own /\n"});
    let secret = format!("id=s,type=file,src={context}/compose.yaml");
    let web = json!({
        "args": {"NAME": "of-call"}, "dockerfile": "Dockerfile", "secret": [secret],
        "contexts": {"base": "target:base"},
    });
    let targets = json!({"base": target("base", &base), "web": target("web", &web)});
    json!({"group": {"default": {"targets": ["base", "web"]}}, "target": targets}).to_string()
}

#[test]
fn the_call_of_compose_is_answered() {
    let Some(bench) = bench() else { return };
    let Some(docker) = Docker::new(&bench.davit) else { return };
    let facts = bench.davit.dir().join("facts.json");
    let allowed = format!("fs.read={}", bench.context.display());
    let call = |definition: &str, more: &[&str]| {
        let fixed = ["buildx", "bake", "--file", "-", "--progress", "rawjson", "--metadata-file"];
        let words = [facts.to_str().unwrap(), "--allow", &allowed];
        let mut command = docker.command(&[&fixed[..], &words, more].concat());
        command.current_dir("/").stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(definition.as_bytes()).unwrap();
        Outcome::from(child.wait_with_output().unwrap())
    };
    let outcome = call(&definition(&bench), &["--provenance=false", "--sbom=false"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    for line in outcome.stderr.lines() {
        let message: Value = serde_json::from_str(line).unwrap();
        assert!(message.is_object(), "{line}");
    }
    assert!(outcome.stderr.contains("[web 1/"), "{}", outcome.stderr);
    let found: Value = serde_json::from_str(&fs::read_to_string(&facts).unwrap()).unwrap();
    let id = bench.davit.ok(["images", "-q", "--no-trunc", "web:call"]);
    assert_eq!(found["web"]["containerimage.config.digest"], id.trim());
    assert!(found["base"]["containerimage.digest"].is_string(), "{found}");
    // What a target is built of may be attested, too.
    let attested = call(&definition(&bench), &["--provenance=mode=max", "--sbom=true"]);
    assert_eq!(attested.code, 0, "{}", attested.stderr);
    // A question leaves a file, too.
    fs::remove_file(&facts).unwrap();
    let outcome = call(&definition(&bench), &["--call", "check"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stdout.starts_with("base\n\nno warnings\n\nweb\n\n"), "{}", outcome.stdout);
    assert_eq!(fs::read_to_string(&facts).unwrap(), "{\n  \"base\": {},\n  \"web\": {}\n}\n");
}

#[test]
fn compose_builds_with_davit() {
    let Some(bench) = bench() else { return };
    let Some(program) = find_tool("docker-compose") else {
        return skip("needs the program `docker-compose`");
    };
    let version = Command::new(&program).args(["version", "--short"]).output().unwrap().stdout;
    let version = String::from_utf8_lossy(&version).trim().trim_start_matches('v').to_owned();
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if version != "dev" && major.is_none_or(|major| major < 5) {
        return skip(&format!("docker-compose {version} calls no plugin to build"));
    }
    let Some(docker) = Docker::new(&bench.davit) else { return };
    // Compose asks a daemon who it is, and nothing else.
    let server = HttpServer::start(|request| {
        let reply = Reply::status(200).header("Api-Version", "1.51").header("Ostype", "linux");
        if request.path.ends_with("/version") {
            let version = json!({"ApiVersion": "1.51", "MinAPIVersion": "1.24", "Os": "linux"});
            return reply.header("Content-Type", "application/json").body(version.to_string());
        }
        reply.header("Builder-Version", "2").body("OK")
    });
    let plugin = docker.command(&[]);
    let mut command = Command::new(&program);
    for (name, value) in plugin.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("DOCKER_HOST", format!("tcp://{}", server.host()));
    command.args(["build"]).current_dir(&bench.context).stdin(Stdio::null());
    let outcome = Outcome::from(command.output().unwrap());
    assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
    assert!(outcome.stderr.contains("web:one Built"), "{}", outcome.stderr);
    let format = ["image", "inspect", "-f", "{{.Config.Labels.name}}", "web:one"];
    assert_eq!(bench.davit.ok(format).trim(), "of-compose");
}
