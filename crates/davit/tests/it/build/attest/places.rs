//! Where attestations go: beside the image, into its index, among files, to registries and back.

use std::path::Path;

use davit_test::{Access, Davit, Outcome, Registry, need_tool};
use serde_json::{Value, json};

use super::{ARTIFACT, Layout, SLSA, SPDX, json};
use crate::{build::bench::Bench, davit};

const FILES: [(&str, &str); 2] = [("f", "1"), ("Dockerfile", "FROM scratch\nCOPY f /f\n")];

/// What skopeo reads of a registry, as it is.
fn raw(tool: &Path, name: &str) -> Option<Value> {
    let mut command = std::process::Command::new(tool);
    command.args(["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]);
    let output = command.output().unwrap();
    output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
}

/// What refers to an image of a registry that lists it by tags alone.
fn listed(tool: &Path, repository: &str, subject: &str) -> Vec<Value> {
    let tag = subject.replace(':', "-");
    let list = raw(tool, &format!("{repository}:{tag}"));
    list.map_or_else(Vec::new, |list| list["manifests"].as_array().unwrap().clone())
}

fn digest_of(bench: &Bench) -> String {
    let facts = json(&bench.davit.dir().join("facts.json"));
    facts["containerimage.digest"].as_str().unwrap().to_owned()
}

/// Builds with a metadata file and an environment.
fn build(bench: &Bench, args: &[&str], variables: &[(&str, &str)]) -> Outcome {
    let file = bench.davit.dir().join("facts.json");
    let context = bench.context.to_str().unwrap();
    let fixed = ["build", "--network", "none", "--metadata-file", file.to_str().unwrap()];
    let mut command = bench.davit.command(fixed.iter().chain(args).chain([&context]));
    command.envs(variables.iter().copied());
    Outcome::from(command.output().unwrap())
}

fn inspected(davit: &Davit, name: &str, field: &str) -> Value {
    let format = format!("{{{{json .{field}}}}}");
    let text = davit.ok(["builder", "imagetools", "inspect", "--format", &format, name]);
    serde_json::from_str(&text).unwrap()
}

#[test]
fn attestations_go_with_a_push() {
    let (Some(bench), Some(registry)) = (Bench::new(&FILES), Registry::start(Access::Open)) else {
        return;
    };
    let Some(skopeo) = need_tool("skopeo") else { return };
    let repository = format!("{}/a/b", registry.host());
    let name = format!("{repository}:1");
    // A push has the least provenance unasked, and what did not change has it once.
    let mut digests = Vec::new();
    for _ in 0..2 {
        let outcome = build(&bench, &["--push", "-t", &name], &[]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        digests.push(digest_of(&bench));
    }
    assert_eq!(digests[0], digests[1]);
    let image = raw(&skopeo, &name).unwrap();
    assert!(image["layers"].is_array(), "no index: {image}");
    let list = listed(&skopeo, &repository, &digests[0]);
    assert_eq!(list.len(), 1, "{list:?}");
    assert_eq!(list[0]["artifactType"], ARTIFACT);
    let attestation = format!("{repository}@{}", list[0]["digest"].as_str().unwrap());
    let manifest = raw(&skopeo, &attestation).unwrap();
    assert_eq!(manifest["subject"]["digest"], digests[0]);
    let told = inspected(&davit(), &name, "Provenance");
    let request = &told["SLSA"]["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["frontend"], "dockerfile.v0", "{told}");
    // The statement is about the image as the registry has it.
    let path = bench.davit.dir().join("attested");
    let place = format!("oci:{}", path.display());
    bench.davit.ok(["copy", "-q", &format!("docker://{attestation}"), &place]);
    let statement = Layout(path).statement(&manifest, SLSA);
    let hex = digests[0].strip_prefix("sha256:").unwrap();
    assert_eq!(statement["subject"][0]["digest"], json!({"sha256": hex}));
    // Without it, and with more of it: the image stays the same.
    let none = format!("{}/none:1", registry.host());
    let no_default = [("BUILDX_NO_DEFAULT_ATTESTATIONS", "1")];
    assert_eq!(build(&bench, &["--push", "-t", &none], &no_default).code, 0);
    assert_eq!(digest_of(&bench), digests[0]);
    assert!(listed(&skopeo, none.rsplit_once(':').unwrap().0, &digests[0]).is_empty());
    assert_eq!(inspected(&davit(), &none, "Provenance"), Value::Null);
    // Asked for in the store, it goes with a push of its own.
    let later = format!("{}/later:1", registry.host());
    let asked = ["-t", &later, "--provenance", "mode=max", "--sbom", "true"];
    assert_eq!(build(&bench, &asked, &[]).code, 0);
    bench.davit.ok(["push", "-q", &later]);
    assert_eq!(listed(&skopeo, later.rsplit_once(':').unwrap().0, &digests[0]).len(), 1);
    let told = inspected(&davit(), &later, "Provenance");
    assert!(told["SLSA"]["buildDefinition"]["internalParameters"]["buildConfig"].is_object());
    // The layers of steps are named as the registry names them, compressed.
    let layers = raw(&skopeo, &later).unwrap()["layers"].clone();
    assert!(layers[0]["mediaType"].as_str().unwrap().ends_with("gzip"), "{layers}");
    let metadata = &told["SLSA"]["runDetails"]["metadata"]["buildkit_metadata"];
    assert_eq!(metadata["layers"], json!({"step1:0": [layers]}));
    assert_eq!(inspected(&davit(), &later, "SBOM")["SPDX"]["spdxVersion"], "SPDX-2.3");
    let whole = davit().ok(["builder", "imagetools", "inspect", "--format", "{{json .}}", &later]);
    assert!(whole.contains("SPDX-2.3") && whole.contains("buildDefinition"), "{whole}");
}

#[test]
fn attestations_stand_in_an_index() {
    let (Some(bench), Some(registry)) = (Bench::new(&FILES), Registry::start(Access::Open)) else {
        return;
    };
    let Some(skopeo) = need_tool("skopeo") else { return };
    let repository = format!("{}/a/b", registry.host());
    for (tag, keys, is_artifact) in
        [("art", "attestation-inline=true", true), ("old", "oci-artifact=false", false)]
    {
        let name = format!("{repository}:{tag}");
        let spec = format!("type=image,push=true,name={name},{keys}");
        let args = ["-o", &spec, "--provenance", "mode=max", "--sbom", "true"];
        for _ in 0..2 {
            let outcome = build(&bench, &args, &[]);
            assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        }
        let index = raw(&skopeo, &name).unwrap();
        let entries = index["manifests"].as_array().unwrap();
        assert_eq!(entries.len(), 2, "{index}");
        assert_eq!(entries[1]["platform"], json!({"os": "unknown", "architecture": "unknown"}));
        let notes = &entries[1]["annotations"];
        assert_eq!(notes["vnd.docker.reference.type"], "attestation-manifest");
        assert_eq!(notes["vnd.docker.reference.digest"], entries[0]["digest"]);
        let digest = entries[1]["digest"].as_str().unwrap();
        let manifest = raw(&skopeo, &format!("{repository}@{digest}")).unwrap();
        assert_eq!(manifest["subject"]["digest"] == entries[0]["digest"], is_artifact);
        assert_eq!(manifest["artifactType"] == ARTIFACT, is_artifact);
        let config = manifest["config"]["mediaType"].as_str().unwrap();
        assert_eq!(config.contains("image.config"), !is_artifact);
        for (field, key) in [("Provenance", "SLSA"), ("SBOM", "SPDX")] {
            assert!(inspected(&davit(), &name, field)[key].is_object(), "{tag} {field}");
        }
        // The index is an image like any other.
        let other = davit();
        other.ok(["pull", "-q", &name]);
        let found = other.ok(["image", "inspect", "-f", "{{.Architecture}}", &name]);
        assert_eq!(found.trim(), "amd64");
        bench.davit.ok(["rmi", &name]);
    }
    assert_eq!(bench.davit.ok(["images", "-q"]), "");
}

#[test]
fn archives_bring_attestations_back() {
    let Some(bench) = Bench::new(&FILES) else { return };
    let args = ["-t", "kept:1", "--provenance", "mode=max", "--sbom", "true"];
    bench.build(&args);
    let first = Layout::saved(&bench, "kept:1");
    // The same again changes nothing: neither the image nor what is told of it.
    bench.build(&args);
    assert_eq!(Layout::saved(&bench, "kept:1").index(), first.index());
    assert!(first.index()[0].get("artifactType").is_none(), "the image comes first");
    let other = davit();
    let archive = bench.davit.dir().join("saved.tar");
    let loaded = other.ok(["load", "-i", archive.to_str().unwrap()]);
    assert_eq!(loaded.lines().count(), 1, "attestations are no images: {loaded}");
    let bench = Bench { davit: other, context: bench.context.clone() };
    assert_eq!(bench.davit.ok(["images", "-q"]).lines().count(), 1);
    let again = Layout::saved(&bench, "kept:1");
    assert_eq!(again.index(), first.index());
    let manifest = again.document(&again.referrer()["digest"]);
    again.statement(&manifest, SLSA);
    again.statement(&manifest, SPDX);
    // They stay as long as the image does, and go with it.
    let blobs = || std::fs::read_dir(bench.davit.root().join("blobs/sha256")).unwrap().count();
    bench.davit.ok(["system", "prune", "-f"]);
    let kept = blobs();
    assert!(kept >= 6, "{kept}");
    assert!(bench.davit.ok(["system", "check"]).contains("no faults"));
    bench.davit.ok(["rmi", "kept:1"]);
    assert_eq!(blobs(), 0);
}

/// `ProvenanceExportLocal`, `ProvenanceExportLocalForceSplit`,
/// `ProvenanceExportLocalMultiPlatform`, `ProvenanceExportLocalMultiPlatformNoSplit`
#[test]
fn provenance_export_local() {
    let text = "FROM scratch\nARG TARGETARCH\nCOPY f /$TARGETARCH/f\nCOPY f /provenance.json\n";
    let Some(bench) = Bench::new(&[("f", "1"), ("Dockerfile", text)]) else { return };
    let exported = |name: &str, keys: &str, args: &[&str]| {
        let target = bench.davit.dir().join(name);
        let spec = format!("type=local,dest={}{keys}", target.display());
        let outcome = bench.run(&[args, &["-o", &spec]].concat());
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        target
    };
    let two = ["--platform", "linux/amd64,linux/arm64", "--provenance=mode=max", "--sbom=1"];
    let (one, options) = (&two[2..], ["provenance.json", "sbom.spdx.json"]);
    let target = exported("one", "", one);
    for name in options {
        let statement = json(&target.join(name));
        let subjects = statement["subject"].as_array().unwrap();
        let names: Vec<&str> = subjects.iter().map(|it| it["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["amd64/f", "provenance.json"], "the image's own files");
        let digest = davit_engine::image::Digest::of(b"1").hex();
        assert_eq!(subjects[0]["digest"]["sha256"], digest);
    }
    let exists = |path: std::path::PathBuf| assert!(path.is_file(), "{}", path.display());
    let target = exported("split", ",platform-split=true", one);
    exists(target.join("linux_amd64/provenance.json"));
    let target = exported("several", "", &two);
    for platform in ["linux_amd64", "linux_arm64"] {
        options.iter().for_each(|name| exists(target.join(platform).join(name)));
    }
    bench.write("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY f /$TARGETARCH/f\n");
    let target = exported("joined", ",platform-split=false,attestation-prefix=x-", &two);
    for platform in ["linux_amd64", "linux_arm64"] {
        exists(target.join(format!("x-provenance.{platform}.json")));
        exists(target.join(format!("x-sbom.spdx.{platform}.json")));
    }
    let named = ["--provenance", "filename=p.json,mode=min"];
    exists(exported("named", "", &named).join("p.json"));
    // Only what is an image has what is for images alone, and nothing has what nobody asked for.
    let target = exported("inline", "", &["--provenance", "mode=max,inline-only=true"]);
    assert_eq!(std::fs::read_dir(target).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(exported("bare", "", &[])).unwrap().count(), 1);
    let tar = bench.davit.dir().join("out.tar");
    let spec = format!("type=tar,dest={},source-date-epoch=7", tar.display());
    assert_eq!(bench.run(&["--sbom=1", "-o", &spec]).code, 0);
    let unpacked = super::tar_command().arg("-tvf").arg(&tar).output().unwrap();
    let listing = String::from_utf8(unpacked.stdout).unwrap();
    assert!(listing.contains("-rw------- 0/0"), "{listing}");
    assert!(listing.contains("1970-01-01") && listing.contains("sbom.spdx.json"), "{listing}");
}

#[test]
fn bake_attests_as_it_is_told() {
    let bake = r#"{"target": {"default": {
        "attest": [{"type": "provenance", "mode": "min"}, "type=sbom"],
        "output": ["type=local,dest=out"]}}}"#;
    let Some(bench) = Bench::new(&[FILES[0], FILES[1], ("docker-bake.json", bake)]) else { return };
    let run = |args: &[&str]| {
        let _absent = std::fs::remove_dir_all(bench.context.join("out"));
        let allow = ["bake", "--allow", "fs.write=*"];
        let mut command = bench.davit.command(allow.iter().chain(args));
        let outcome = Outcome::from(command.current_dir(&bench.context).output().unwrap());
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let names = std::fs::read_dir(bench.context.join("out")).unwrap();
        let mut names: Vec<_> = names.map(|it| it.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(run(&[]), ["f", "provenance.json", "sbom.spdx.json"]);
    let statement = json(&bench.context.join("out/provenance.json"));
    assert!(!statement.to_string().contains("llbDefinition"));
    assert_eq!(run(&["--sbom=false"]), ["f", "provenance.json"]);
    run(&["--provenance=mode=max"]);
    let statement = json(&bench.context.join("out/provenance.json"));
    assert!(statement.to_string().contains("llbDefinition"));
}
