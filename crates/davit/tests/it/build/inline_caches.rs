//! Caches that an image carries itself.

use std::{fs, path::Path};

use davit_test::{Access, Registry};
use serde_json::Value;

use super::{
    bench::{Bench, alpine},
    shared_cache::{IDENTITY, blobs, digest, layers_of, other},
};

#[test]
fn an_image_carries_the_results_of_stages_that_it_took_files_from() {
    let stages = format!(
        "FROM alpine AS made\nRUN {IDENTITY} > /made && touch /rest\n\
         FROM alpine\nCOPY --from=made /made /\nRUN {IDENTITY} > /own\n"
    );
    let (Some(one), Some(registry)) = (alpine(&stages), Registry::start(Access::Open)) else {
        return;
    };
    let name = format!("{}/image:1", registry.host());
    let to = ["--cache-to", "type=inline"];
    digest(&one, &[&["-t", &name, "--push"][..], &to].concat());
    // A registry's manifest has compressed layers.
    let (first, _) = digest(&one, &to);
    let two = other(&one);
    let (again, told) = digest(&two, &[&["--cache-from", &name][..], &to].concat());
    assert!(told.contains("(4 of 4 steps cached)"), "{told}");
    assert_eq!(again, first);
    assert_eq!(layers_of(&two), 3, "the other stage's layer is not fetched");
    // What the other stage gave is needed again, and nowhere: it runs.
    let changed = stages.replace("/made /\n", "/made /x\n");
    let dockerfile = format!("FROM scratch AS alpine\nADD alpine.tar.gz /\n{changed}");
    one.write("Dockerfile", &dockerfile);
    let (_, told) = digest(&other(&one), &["--cache-from", &name]);
    assert!(told.contains("(1 of 4 steps cached)"), "{told}");
}

#[test]
fn an_image_carries_the_results_of_its_own_steps() {
    let (Some(one), Some(registry)) =
        (alpine(&format!("COPY f /\nRUN {IDENTITY} > /id\n")), Registry::start(Access::Open))
    else {
        return;
    };
    one.write("f", "1");
    let name = format!("{}/image:1", registry.host());
    let push = ["-t", &name, "--push", "--cache-to", "type=inline"];
    let (first, _) = digest(&one, &push);
    assert_eq!(digest(&one, &push).0, first, "equal builds give equal images");
    let two = other(&one);
    let from = format!("type=registry,ref={name}");
    let (_, told) = digest(&two, &["--cache-from", &from, "--cache-to", "type=inline"]);
    assert!(told.contains("(3 of 3 steps cached)"), "{told}");
    // A layer that is lost costs its step.
    let three = other(&one);
    for blob in blobs(&registry) {
        let path = registry.storage().join("docker/registry/v2/blobs/sha256");
        let path = path.join(&blob[..2]).join(&blob).join("data");
        let bytes = fs::read(&path).unwrap();
        if bytes.len() < 1000 && bytes.starts_with(&[0x1f, 0x8b]) {
            fs::remove_file(path).unwrap();
        }
    }
    let (_, told) = digest(&three, &["--cache-from", &from]);
    assert!(told.contains("is of no use") && told.contains("(1 of 3 steps cached)"), "{told}");
    // An image upon it has its own, and one without is told.
    let four = Bench::new(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]).unwrap();
    let plain = format!("{}/image:2", registry.host());
    digest(&four, &["-t", &plain, "--push"]);
    let (_, told) = digest(&four, &["--cache-from", &plain, "--no-cache"]);
    assert!(told.contains("an image without records of its steps"), "{told}");
}

#[test]
fn records_in_equal_images_are_equal() {
    // The time of a stage that is copied from, and of a layer that is rewritten, is no image's.
    let made = format!("FROM alpine AS made\nRUN {IDENTITY} > /id; touch -d @1 /old\n");
    let upon = "FROM alpine\nRUN touch /x\nCOPY --from=made /old /\n";
    let Some(one) = alpine(&format!("{made}{upon}")) else { return };
    let epoch = ["--build-arg", "SOURCE_DATE_EPOCH=1000", "--cache-to", "type=inline"];
    let rewritten = [&epoch[..], &["-o", "type=image,rewrite-timestamp=true"]].concat();
    let (first, told) = digest(&one, &rewritten);
    assert_eq!(digest(&other(&one), &rewritten).0, first, "{told}");
    assert!(told.contains("its cache is empty"), "{told}");
    // A step that ran for a build without an epoch has another time than its history says.
    let dockerfile = fs::read_to_string(one.context.join("Dockerfile")).unwrap();
    let dockerfile = dockerfile.split("FROM alpine AS").next().unwrap();
    let command = "RUN mkdir /d && touch -d @1 /d/x && touch -d @1 /d\n";
    one.write("Dockerfile", &format!("{dockerfile}FROM alpine\n{command}"));
    let one = other(&one);
    let (first, _) = digest(&other(&one), &epoch);
    digest(&one, &[]);
    assert_eq!(digest(&one, &epoch).0, first);
}

#[test]
fn an_image_has_records_of_its_own_platform() {
    let text = "FROM scratch AS made\nARG TARGETARCH\nCOPY $TARGETARCH /f\n\
                FROM scratch\nCOPY --from=made /f /\n";
    let files = [("amd64", "1"), ("arm64", "2"), ("Dockerfile", text)];
    let Some(bench) = Bench::new(&files) else { return };
    let build = |name: &str, platforms: &str| {
        let folder = bench.davit.dir().join(name);
        let output = format!("type=oci,tar=false,dest={}", folder.display());
        digest(&bench, &["--platform", platforms, "--cache-to", "type=inline", "-o", &output]);
        folder
    };
    let read = |folder: &Path, digest: &str| -> Value {
        let path = folder.join("blobs").join(digest.replace(':', "/"));
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    };
    let top = |folder: &Path| {
        let index = fs::read(folder.join("index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        index["manifests"][0]["digest"].as_str().unwrap().to_owned()
    };
    let alone = build("alone", "linux/amd64");
    let both = build("both", "linux/amd64,linux/arm64");
    let index = read(&both, &top(&both));
    assert_eq!(index["manifests"][0]["digest"], top(&alone), "{index}");
}
