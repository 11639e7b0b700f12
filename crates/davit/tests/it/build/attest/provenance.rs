//! What a provenance tells.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use davit_test::{HttpServer, Outcome, Reply, need_tool};
use serde_json::{Value, json};

use super::{Layout, SLSA, SLSA_02, holding, json};
use crate::build::{
    bench::{Bench, alpine},
    git_server::GitServer,
};

/// Builds with a metadata file; gives the provenance in it.
fn told(bench: &Bench, args: &[&str], variable: Option<&str>) -> Value {
    let file = bench.davit.dir().join("facts.json");
    let context = bench.context.to_str().unwrap();
    let fixed = ["build", "--network", "none", "--metadata-file", file.to_str().unwrap()];
    let mut command = bench.davit.command(fixed.iter().chain(args).chain([&context]));
    command.envs(variable.map(|value| ("BUILDX_METADATA_PROVENANCE", value)));
    let outcome = Outcome::from(command.output().unwrap());
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    json(&file)
}

/// `ProvenanceAttestation`, `CommandSourceMapping`
#[test]
fn provenance_attestation() {
    let text = "FROM scratch AS base\nARG FOO=x\nCOPY f /f\nFROM base\n# why\nCOPY <<EOF /g\n\
                a\nEOF\nWORKDIR /w\n";
    let Some(bench) = Bench::new(&[("f", "1"), ("Dockerfile", text)]) else { return };
    let plain = Layout::build(&bench, "plain", "", &[]).index();
    assert_eq!(plain.len(), 1, "a file has attestations only if they are asked for");
    let args = ["--build-arg", "FOO=bar", "--label", "l=1", "--provenance"];
    let options = "mode=max,builder-id=https://ci/1,reproducible=true";
    let layout = Layout::build(&bench, "max", ",name=foo:1", &[&args[..], &[options]].concat());
    let (entry, subject) = (layout.referrer(), layout.index()[0]["digest"].clone());
    let manifest = layout.document(&entry["digest"]);
    assert_eq!(manifest["subject"]["digest"], subject);
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.oci.empty.v1+json");
    let statement = layout.statement(&manifest, SLSA);
    let hex = subject.as_str().unwrap().strip_prefix("sha256:").unwrap();
    let name = "pkg:docker/foo@1?platform=linux%2Famd64";
    assert_eq!(statement["subject"], json!([{"name": name, "digest": {"sha256": hex}}]));
    let definition = &statement["predicate"]["buildDefinition"];
    let request = &definition["externalParameters"]["request"];
    assert_eq!(request["frontend"], "dockerfile.v0");
    let given = ["build-arg:FOO", "force-network-mode", "label:l"];
    let given: Vec<_> = given.iter().map(|key| request["args"][key].as_str().unwrap()).collect();
    assert_eq!(given, ["bar", "none", "1"]);
    assert_eq!(request["locals"], json!([{"name": "context"}, {"name": "dockerfile"}]));
    assert_eq!(definition["externalParameters"]["configSource"]["path"], "Dockerfile");
    assert_eq!(definition.get("resolvedDependencies"), None);
    let details = &statement["predicate"]["runDetails"];
    assert_eq!(details["builder"]["id"], "https://ci/1");
    let metadata = &details["metadata"];
    assert_eq!(metadata["buildkit_reproducible"], true);
    let complete = json!({"request": true, "resolvedDependencies": false});
    assert_eq!(metadata["buildkit_completeness"], complete);
    assert!(metadata["startedOn"].as_str() <= metadata["finishedOn"].as_str());
    // Steps lead to their lines in the text that is there as well.
    let source = &metadata["buildkit_metadata"]["source"];
    let data = source["infos"][0]["data"].as_str().unwrap();
    assert_eq!(STANDARD.decode(data).unwrap(), text.as_bytes());
    let steps = definition["internalParameters"]["buildConfig"]["llbDefinition"].as_array();
    let mut lines = Vec::new();
    for step in steps.unwrap() {
        let place = &source["locations"][step["id"].as_str().unwrap()]["locations"][0]["ranges"][0];
        let kind = step["op"]["Op"]["file"]["actions"][0]["Action"].as_object();
        let kind = kind.and_then(|it| it.keys().next().cloned()).unwrap_or_default();
        lines.push((kind, place["start"]["line"].as_u64(), place["end"]["line"].as_u64()));
    }
    let at = |kind: &str, first, last| (kind.to_owned(), Some(first), Some(last));
    let none = (String::new(), None, None);
    let expected = [none.clone(), at("copy", 3, 3), at("mkfile", 6, 8), at("mkdir", 9, 9), none];
    assert_eq!(lines, expected);
    // The image is the same with and without, and a bare name asks for nothing else.
    let bare = Layout::build(&bench, "bare", "", &args[..4]).index();
    assert_eq!(bare[0]["digest"], subject);
    let min = Layout::build(&bench, "min", "", &[&args[..], &["mode=min"]].concat());
    let statement = min.statement(&min.document(&min.referrer()["digest"]), SLSA);
    assert_eq!(statement["subject"][0]["name"], "_");
    let predicate = statement["predicate"].to_string();
    assert!(!predicate.contains("bar") && !predicate.contains("llbDefinition"), "{predicate}");
    let complete = &statement["predicate"]["runDetails"]["metadata"]["buildkit_completeness"];
    assert_eq!(complete["request"], false);
    let old = Layout::build(&bench, "old", "", &[&args[..], &["version=v0.2"]].concat());
    let statement = old.statement(&old.document(&old.referrer()["digest"]), SLSA_02);
    let predicate = &statement["predicate"];
    assert_eq!(predicate["buildType"], "https://mobyproject.org/buildkit@v1");
    assert_eq!(predicate["invocation"]["parameters"]["args"]["build-arg:FOO"], "bar");
    assert_eq!(predicate["invocation"]["configSource"]["entryPoint"], "Dockerfile");
    assert!(predicate["buildConfig"]["llbDefinition"].is_array());
}

#[test]
fn a_provenance_may_have_to_be_complete() {
    let Some(bench) = Bench::new(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]) else {
        return;
    };
    let asked = ["--provenance", "complete-materials=true"];
    let refused = bench.run(&asked);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("were read (context, dockerfile)"), "{}", refused.stderr);
    let Some(git) = GitServer::start(|_| true) else { return };
    let repository = git.repository("r.git");
    repository.commit("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let context = format!("{}#main", git.url("r.git"));
    bench.davit.ok(["build", "-q", "--provenance", "complete-materials=true", &context]);
}

#[test]
fn a_metadata_file_tells_the_provenance() {
    let Some(bench) = Bench::new(&[("Dockerfile", "FROM scratch\nARG A\nLABEL a=b\n")]) else {
        return;
    };
    let args = ["--build-arg", "A=value", "--provenance=false"];
    let arguments = |facts: &Value| {
        let found = &facts["buildx.build.provenance"]["buildDefinition"]["externalParameters"];
        found["request"]["args"].clone()
    };
    let min = told(&bench, &args, None);
    assert_eq!(
        min["buildx.build.provenance"]["buildDefinition"]["internalParameters"]["builderPlatform"],
        "linux/amd64"
    );
    let network = json!({"force-network-mode": "none"});
    assert_eq!(arguments(&min), network);
    let max = arguments(&told(&bench, &args, Some("max")));
    assert_eq!(max, json!({"build-arg:A": "value", "force-network-mode": "none"}));
    assert_eq!(told(&bench, &args, Some("disabled")).get("buildx.build.provenance"), None);
    let two = told(&bench, &["--platform", "linux/amd64,linux/arm64"], None);
    for platform in ["linux/amd64", "linux/arm64"] {
        assert!(two[format!("buildx.build.provenance/{platform}")].is_object(), "{two}");
    }
}

/// `SecretSSHProvenance`
#[test]
fn secret_ssh_provenance() {
    const SECRET: &str = "s3cr3t-Value-9";
    let steps = "FROM alpine\nARG LEAK\nRUN --mount=type=secret,id=mine --mount=type=secret,id=need,required \
                 --mount=type=ssh,id=none cat /run/secrets/need | wc -c >/n\n\
                 RUN --mount=type=secret,id=mine,env=TOKEN test \"$TOKEN\" = s3cr3t-Value-9\n";
    let Some(bench) = alpine(steps) else { return };
    let secret = bench.davit.dir().join("secret");
    fs_err::write(&secret, SECRET).unwrap();
    let (mine, need) = ("id=mine,src=", "id=need,src=");
    let secrets = [mine, need].map(|id| format!("{id}{}", secret.display()));
    let leak = format!("LEAK=https://user:{SECRET}@h/p?token={SECRET}");
    let args = ["--secret", &secrets[0], "--secret", &secrets[1], "--provenance", "mode=max"];
    let args = [&args[..], &["--sbom", "true", "-t", "s:1", "--build-arg", &leak]].concat();
    let outcome = bench.run(&args);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(!outcome.stderr.contains(&format!("user:{SECRET}")), "{}", outcome.stderr);
    let layout = Layout::saved(&bench, "s:1");
    let statement = layout.statement(&layout.document(&layout.referrer()["digest"]), SLSA);
    let request = &statement["predicate"]["buildDefinition"]["externalParameters"]["request"];
    // One step alone cannot do without it.
    assert_eq!(request["secrets"], json!([{"id": "mine", "optional": true}, {"id": "need"}]));
    assert_eq!(request["ssh"], json!([{"id": "none", "optional": true}]));
    assert_eq!(request["args"]["build-arg:LEAK"], "https://h/p");
    // Neither what is attested nor any file of the image holds the value, but where the user wrote
    // it: into the Dockerfile's own command and into an argument.
    let text = statement.to_string();
    assert!(!text.contains(SECRET), "{text}");
    let data = &statement["predicate"]["runDetails"]["metadata"]["buildkit_metadata"]["source"];
    let data = STANDARD.decode(data["infos"][0]["data"].as_str().unwrap()).unwrap();
    assert!(!String::from_utf8(data).unwrap().contains(SECRET));
    let config = layout.document(&layout.index()[0]["digest"])["config"]["digest"].clone();
    let config = config.as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
    let held = holding(&layout.0, SECRET);
    let names = held.iter().map(|path| path.file_name().unwrap().to_str().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), [config.as_str()], "history repeats the command");
}

/// `GitProvenanceAttestation`, `GitProvenanceAttestationSHA1`, `GitProvenanceAttestationSHA256`,
/// `FrontendDeduplicateSources`
#[test]
fn git_provenance_attestation() {
    let Some(git) = GitServer::start(|_| true) else { return };
    let Some(bench) = Bench::new(&[]) else { return };
    let web = HttpServer::start(|_| Reply::ok("remote"));
    let web_url = format!("http://{}", web.host());
    for (name, algorithm) in [("one.git", "sha1"), ("two.git", "sha256")] {
        let repository = git.repository_of(name, algorithm);
        let address = format!("{web_url}/f?token=hidden-token");
        let text =
            format!("FROM scratch\nCOPY f /f\nCOPY f /g\nADD {address} /\nADD {address} /h/\n");
        repository.commit("sub/Dockerfile.x", &text);
        let commit = repository.commit("sub/f", "1");
        let url = git.url(name);
        let account = url.replacen("://", "://user:hidden-account@", 1);
        let layout = bench.davit.dir().join(name);
        let spec = format!("type=oci,tar=false,dest={}", layout.display());
        let context = format!("{account}#main:sub");
        let outcome = bench.davit.run([
            "build",
            "--network",
            "none",
            "--provenance",
            "mode=max",
            "-f",
            "Dockerfile.x",
            "-o",
            &spec,
            &context,
        ]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        assert!(holding(&layout, "hidden-account").is_empty());
        let layout = Layout(layout);
        let statement = layout.statement(&layout.document(&layout.referrer()["digest"]), SLSA);
        // As Docker, the history repeats what the Dockerfile says, but nothing else does.
        assert!(!statement.to_string().contains("hidden-token"), "{statement}");
        let definition = &statement["predicate"]["buildDefinition"];
        let source = &definition["externalParameters"]["configSource"];
        assert_eq!(source["uri"], format!("{url}#main:sub"));
        assert_eq!(source["path"], "Dockerfile.x");
        let commit = commit.trim();
        assert_eq!(source["digest"], json!({algorithm: commit}));
        // Each once, however often it is read.
        let digest = davit_engine::image::Digest::of(b"remote").hex();
        let expected = json!([
            {"uri": url, "digest": {algorithm: commit}},
            {"uri": format!("{web_url}/f"), "digest": {"sha256": digest}},
        ]);
        assert_eq!(definition["resolvedDependencies"], expected);
        let metadata = &statement["predicate"]["runDetails"]["metadata"];
        let text = &metadata["buildkit_metadata"]["source"]["infos"][0]["data"];
        let text = String::from_utf8(STANDARD.decode(text.as_str().unwrap()).unwrap()).unwrap();
        assert!(text.contains("/f /h/") && !text.contains("hidden-token"), "{text}");
        assert_eq!(metadata["buildkit_completeness"]["resolvedDependencies"], true);
        assert_eq!(metadata["buildkit_hermetic"], true, "no step reached a network");
    }
}

/// `MultiPlatformProvenance`, `DuplicatePlatformProvenance`, `OCILayoutProvenance`,
/// `DockerIgnoreMissingProvenance`
#[test]
fn multi_platform_provenance() {
    let Some(bench) = alpine("FROM alpine AS made\n") else { return };
    bench.build(&["-t", "base:1"]);
    let host = Layout::build(&bench, "base", ",name=base:2", &[]);
    let digest = host.index()[0]["digest"].as_str().unwrap().to_owned();
    bench.write("Dockerfile", "FROM base:1\nLABEL a=1\n");
    let platforms = ["--platform", "linux/amd64,linux/amd64", "--provenance", "mode=max"];
    let layout = Layout::build(&bench, "one", "", &platforms);
    let statement = layout.statement(&layout.document(&layout.referrer()["digest"]), SLSA);
    let definition = &statement["predicate"]["buildDefinition"];
    let hex = digest.strip_prefix("sha256:").unwrap();
    let expected = json!([{
        "uri": "pkg:docker/base@1?platform=linux%2Famd64", "digest": {"sha256": hex},
    }]);
    assert_eq!(definition["resolvedDependencies"], expected);
    // Nothing of the context is read, and an ignore file need not be there.
    let locals = &definition["externalParameters"]["request"]["locals"];
    assert_eq!(*locals, json!([{"name": "dockerfile"}]));
    let own = format!("base=oci-layout://{}:2", host.0.display());
    bench.write("Dockerfile", "FROM base\nLABEL a=1\n");
    let args = ["--build-context", &own, "--provenance", "mode=max"];
    let layout = Layout::build(&bench, "layout", "", &args);
    let statement = layout.statement(&layout.document(&layout.referrer()["digest"]), SLSA);
    let found = &statement["predicate"]["buildDefinition"]["resolvedDependencies"][0];
    assert!(found["uri"].as_str().unwrap().starts_with("pkg:oci/base"), "{found}");
    assert_eq!(found["digest"]["sha256"], hex);
    let text = statement.to_string();
    let folder = bench.davit.dir().display().to_string();
    assert!(!text.contains(&folder), "no directory of this machine: {text}");
    // Each platform has its own.
    bench.write("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /$TARGETARCH\n");
    let platforms = ["--platform", "linux/amd64,linux/arm64", "--provenance", "mode=max"];
    let layout = Layout::build(&bench, "two", "", &platforms);
    let index = layout.index();
    let images = layout.document(&index[0]["digest"])["manifests"].as_array().unwrap().clone();
    assert_eq!((index.len(), images.len()), (3, 2), "{index:?}");
    for (entry, architecture) in index[1..].iter().zip(["amd64", "arm64"]) {
        let manifest = layout.document(&entry["digest"]);
        let image = images.iter().find(|it| it["digest"] == manifest["subject"]["digest"]);
        assert_eq!(image.unwrap()["platform"]["architecture"], architecture);
        let text = layout.statement(&manifest, SLSA).to_string();
        assert!(text.contains(&format!("\"dest\":\"/{architecture}\"")), "{text}");
    }
}

/// What a statement tells of the layers of steps.
fn layers(statement: &Value) -> Value {
    let predicate = &statement["predicate"];
    match predicate.pointer("/runDetails/metadata/buildkit_metadata") {
        Some(metadata) => metadata["layers"].clone(),
        None => {
            predicate["metadata"]["https://mobyproject.org/buildkit@v1#metadata"]["layers"].clone()
        }
    }
}

/// `DuplicateLayersProvenance`: both stages have one base, and its layers are told once.
#[test]
fn duplicate_layers_provenance() {
    let Some(bench) = alpine("FROM alpine\n") else { return };
    bench.build(&["-t", "base:1"]);
    let base = Layout::saved(&bench, "base:1");
    let base = base.document(&base.index()[0]["digest"])["layers"].clone();
    let text = "FROM base:1 AS base\nFROM base AS a\nRUN echo a >/a.txt\nFROM base AS b\n\
                COPY --from=a /a.txt /\nRUN echo b >/b.txt\nWORKDIR /bin\n";
    bench.write("Dockerfile", text);
    for (name, keys, options) in [
        ("plain", "", "mode=max"),
        ("gzip", ",compression=gzip,force-compression=true", "mode=max"),
        ("docker", ",compression=zstd,oci-mediatypes=false", "mode=max,version=v0.2"),
        ("inline", ",attestation-inline=true", "mode=max"),
    ] {
        let layout = Layout::build(&bench, name, keys, &["--provenance", options]);
        let (image, manifest) = match name {
            "inline" => {
                let index = layout.document(&layout.index()[0]["digest"]);
                let entry = |at: usize| layout.document(&index["manifests"][at]["digest"]);
                (entry(0), entry(1))
            }
            _ => {
                let entry = layout.referrer();
                (layout.document(&layout.index()[0]["digest"]), layout.document(&entry["digest"]))
            }
        };
        let kind = if options.contains("v0.2") { SLSA_02 } else { SLSA };
        let found = layers(&layout.statement(&manifest, kind));
        let image = image["layers"].as_array().unwrap();
        assert_eq!(image.len(), base.as_array().unwrap().len() + 3);
        let of = |count: usize| json!([image[..count]]);
        let lowest = image.len() - 3;
        // The command of the other stage has no layer in the image.
        let expected = json!({
            "step0:0": of(lowest),
            "step2:0": of(lowest + 1),
            "step3:0": of(lowest + 2),
            "step4:0": of(lowest + 3),
        });
        assert_eq!(found, expected, "{name}");
    }
    // Merged layers are no step's; those of a base are there all the same.
    for (name, squash, is_told) in [("new", "--squash", true), ("all", "--squash=all", false)] {
        let layout = Layout::build(&bench, name, "", &["--provenance", "mode=max", squash]);
        let image = layout.document(&layout.index()[0]["digest"])["layers"].clone();
        let found = layers(&layout.statement(&layout.document(&layout.referrer()["digest"]), SLSA));
        let lowest = if is_told { json!([[image[0]]]) } else { json!([base]) };
        assert_eq!(found, json!({"step0:0": lowest}), "{name}");
    }
    // Less tells none, and among files there are those of the base alone.
    let layout = Layout::build(&bench, "min", "", &["--provenance", "mode=min"]);
    let statement = layout.statement(&layout.document(&layout.referrer()["digest"]), SLSA);
    assert_eq!(layers(&statement), Value::Null);
    let files = bench.files(&["--provenance", "mode=max"]);
    assert_eq!(layers(&json(&files.join("provenance.json"))), json!({"step0:0": [base]}));
}

/// Builds with an environment; gives the facts of the repository in the metadata file.
fn repository_told(bench: &Bench, variables: &[(&str, &str)], args: &[&str]) -> Value {
    let file = bench.davit.dir().join("facts.json");
    let context = bench.context.join("app");
    let fixed = ["build", "--network", "none", "--metadata-file", file.to_str().unwrap()];
    let all = fixed.iter().chain(args).copied().chain([context.to_str().unwrap()]);
    let mut command = bench.davit.command(all);
    command.envs(variables.iter().copied());
    let outcome = Outcome::from(command.output().unwrap());
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let found = &json(&file)["buildx.build.provenance"]["runDetails"]["metadata"];
    found["buildkit_metadata"]["vcs"].clone()
}

#[test]
fn the_repository_of_the_context_is_told() {
    let Some(bench) = Bench::new(&[("app/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]) else {
        return;
    };
    assert_eq!(repository_told(&bench, &[], &[]), Value::Null);
    let commit = "a".repeat(40);
    bench.write(".git/HEAD", &commit);
    bench.write(".git/config", "[remote \"origin\"]\nurl = https://u:hidden@h/o.git?t=hidden\n");
    let expected = json!({
        "source": "https://h/o.git",
        "revision": commit,
        "localdir:context": "app",
        "localdir:dockerfile": "app",
    });
    assert_eq!(repository_told(&bench, &[], &[]), expected);
    let elsewhere = bench.davit.dir().join("Dockerfile.x");
    fs_err::write(&elsewhere, "FROM scratch\nCOPY Dockerfile /\n").unwrap();
    let facts = repository_told(&bench, &[], &["-f", elsewhere.to_str().unwrap()]);
    assert_eq!(facts["localdir:dockerfile"], Value::Null, "it lies in no repository");
    assert_eq!(repository_told(&bench, &[("BUILDX_GIT_INFO", "false")], &[]), Value::Null);
    let history = ["builder", "history", "inspect", "--format", "{{.VCSRevision}}"];
    assert_eq!(bench.davit.ok(history).trim(), "");
    let labelled = [("BUILDX_GIT_LABELS", "full"), ("BUILDX_GIT_INFO", "0")];
    assert_eq!(repository_told(&bench, &labelled, &["-t", "labels:1"]), Value::Null);
    let labels = bench.davit.ok(["image", "inspect", "-f", "{{json .Config.Labels}}", "labels:1"]);
    let labels: Value = serde_json::from_str(&labels).unwrap();
    let expected = json!({
        "org.opencontainers.image.revision": commit,
        "org.opencontainers.image.source": "https://h/o.git",
        "com.docker.image.source.entrypoint": "app/Dockerfile",
    });
    assert_eq!(labels, expected);
}

#[test]
fn a_changed_checkout_is_told_as_such() {
    if need_tool("git").is_none() {
        return;
    }
    let Some(bench) = Bench::new(&[("app/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]) else {
        return;
    };
    let git = |args: &[&str]| {
        let who = ["-c", "user.name=n", "-c", "user.email=e@h", "-c", "init.defaultBranch=main"];
        let mut git = std::process::Command::new("git");
        git.current_dir(&bench.context).args(who).args(args);
        let outcome = Outcome::from(git.output().unwrap());
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        outcome.stdout.trim().to_owned()
    };
    git(&["init", "-q"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "m"]);
    let commit = git(&["rev-parse", "HEAD"]);
    // A program that the repository names is not run.
    let ran = bench.davit.dir().join("ran");
    git(&["config", "core.fsmonitor", &format!("touch {}; false", ran.display())]);
    let revision = |variables| repository_told(&bench, variables, &[])["revision"].clone();
    let asked = [("BUILDX_GIT_CHECK_DIRTY", "1")];
    assert_eq!(revision(&asked), json!(commit));
    bench.write("more", "1");
    assert_eq!(revision(&asked), json!(format!("{commit}-dirty")));
    assert_eq!(revision(&[]), json!(commit));
    assert!(!ran.exists());
}
