//! What buildx and its Dockerfiles are told by the environment and by build arguments.

use std::fs;

use davit_test::Outcome;
use serde_json::Value;

use super::bench::{Bench, list};

const FILES: [(&str, &str); 2] = [("f", "1"), ("Dockerfile", "FROM scratch\nCOPY f /\n")];

fn build(bench: &Bench, args: &[&str], (name, value): (&str, &str)) -> Outcome {
    let fixed = ["build", "--progress", "plain"];
    let mut command = bench.davit.command(fixed.iter().chain(args));
    Outcome::from(command.arg(&bench.context).env(name, value).output().unwrap())
}

/// What the index of a layout names.
fn top(layout: &std::path::Path) -> Value {
    let index: Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    index["manifests"][0].clone()
}

#[test]
fn one_platform_has_the_form_of_several_if_that_is_asked_for() {
    const ARGUMENT: &str = "BUILDKIT_MULTI_PLATFORM";
    let Some(bench) = Bench::new(&FILES) else { return };
    let dest = |name: &str| bench.davit.dir().join(name);
    let argument = |value: &str| format!("{ARGUMENT}={value}");
    for (value, kind) in [("1", "index"), ("false", "manifest"), ("", "manifest")] {
        let layout = dest(&format!("layout{value}"));
        let spec = format!("type=oci,tar=false,dest={}", layout.display());
        bench.build(&["--build-arg", &argument(value), "-o", &spec, "-o", "type=image"]);
        let media_type = top(&layout)["mediaType"].as_str().unwrap().to_owned();
        assert!(media_type.contains(kind), "{value}: {media_type}");
    }
    let folder = davit_engine::image::Platform::host().to_string().replace('/', "_");
    let files = bench.files(&["--build-arg", &argument("true"), "--platform", "local"]);
    assert_eq!(list(&files), [format!("{folder}/ 755"), format!("{folder}/f 644 1")]);
    bench.build(&["--build-arg", &argument("1"), "-t", "several:1"]);
    assert_eq!(bench.davit.ok(["images", "-q", "several:1"]).lines().count(), 1);
    for (args, problem) in [
        (&["--build-arg", "BUILDKIT_MULTI_PLATFORM=many"][..], "is neither true nor false"),
        (
            &["--build-arg", "BUILDKIT_MULTI_PLATFORM=0", "--platform", "linux/amd64,linux/arm64"],
            "is false, and the build is for several platforms",
        ),
    ] {
        let refused = bench.run(args);
        assert!(refused.code == 1 && refused.stderr.contains(problem), "{}", refused.stderr);
    }
}

#[test]
fn a_result_stays_in_the_cache_if_that_is_the_default() {
    let Some(bench) = Bench::new(&FILES) else { return };
    let variable = ("BUILDX_NO_DEFAULT_LOAD", "1");
    for args in [&["-t", "x:1"][..], &[]] {
        let outcome = build(&bench, args, variable);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    }
    assert_eq!(bench.davit.ok(["images", "-qa"]), "");
    for (args, variable) in
        [(&["-t", "x:1", "--load"][..], variable), (&["-t", "y:1"], (variable.0, "0"))]
    {
        assert_eq!(build(&bench, args, variable).code, 0);
        assert_ne!(bench.davit.ok(["images", "-q", args[1]]), "");
    }
    let refused = build(&bench, &[], (variable.0, "maybe"));
    assert_eq!(refused.code, 125, "{}", refused.stderr);
    assert!(refused.stderr.contains("BUILDX_NO_DEFAULT_LOAD=maybe is"), "{}", refused.stderr);
}

#[test]
fn attestations_have_the_older_form_if_that_is_the_default() {
    let Some(bench) = Bench::new(&FILES) else { return };
    let variable = ("BUILDX_NO_DEFAULT_OCI_ARTIFACT", "true");
    for (name, more, has_index, has_type) in [
        ("old", "", true, false),
        ("new", ",oci-artifact=true,attestation-inline=true", true, true),
        ("beside", ",oci-artifact=true", false, false),
        ("docker", ",oci-mediatypes=false", false, false),
    ] {
        let layout = bench.davit.dir().join(name);
        let spec = format!("type=oci,tar=false,dest={}{more}", layout.display());
        let outcome = build(&bench, &["--provenance", "mode=max", "-o", &spec], variable);
        assert_eq!(outcome.code, 0, "{name}: {}", outcome.stderr);
        let top = top(&layout);
        let is_index = top["mediaType"].as_str().unwrap().contains("index");
        assert_eq!(is_index, has_index, "{name}: {top}");
        if is_index {
            let blob = |digest: &Value| {
                let hex = digest.as_str().unwrap().split_once(':').unwrap().1;
                let bytes = fs::read(layout.join("blobs/sha256").join(hex)).unwrap();
                serde_json::from_slice::<Value>(&bytes).unwrap()
            };
            let attestation = blob(&blob(&top["digest"])["manifests"][1]["digest"]);
            assert_eq!(attestation["artifactType"].is_string(), has_type, "{name}: {attestation}");
        }
    }
}

#[test]
fn files_elsewhere_are_for_a_definition_if_the_environment_says_so() {
    let Some(bench) = Bench::new(&FILES) else { return };
    let out = bench.davit.dir().join("elsewhere");
    let output = format!("*.output=type=local,dest={}", out.display());
    bench.write("docker-bake.hcl", "target \"default\" {}\n");
    for (value, code) in [(None, 1), (Some("1"), 1), (Some("0"), 0)] {
        let mut command = bench.davit.command(["bake", "--progress", "plain", "--set", &output]);
        command.current_dir(&bench.context);
        command.envs(value.map(|value| ("BUILDX_BAKE_ENTITLEMENTS_FS", value)));
        let outcome = Outcome::from(command.output().unwrap());
        assert_eq!(outcome.code, code, "{value:?}: {}", outcome.stderr);
        assert_eq!(out.exists(), code == 0, "{value:?}");
        assert_eq!(outcome.stderr.contains("--allow fs.write="), code == 1, "{}", outcome.stderr);
    }
}

#[test]
fn a_build_that_is_to_be_judged_is_refused() {
    let Some(bench) = Bench::new(&FILES) else { return };
    for variable in [("BUILDX_DEFAULT_POLICY", "1"), ("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY", "x")] {
        let refused = build(&bench, &[], variable);
        assert_eq!(refused.code, 1, "{}", refused.stderr);
        let told = format!("source policies are not evaluated, and what {} ", variable.0);
        assert!(refused.stderr.contains(&told), "{}", refused.stderr);
        let outcome = build(&bench, &["--policy", "disabled=true"], variable);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    }
    assert_eq!(build(&bench, &[], ("BUILDX_DEFAULT_POLICY", "0")).code, 0);
}
