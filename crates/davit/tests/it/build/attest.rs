//! Attestations of results: provenance and SBOM, where they go and what is never in them.

mod places;
mod provenance;
mod sbom;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::bench::Bench;

const ARTIFACT: &str = "application/vnd.docker.attestation.manifest.v1+json";
const SLSA: &str = "https://slsa.dev/provenance/v1";
const SLSA_02: &str = "https://slsa.dev/provenance/v0.2";
const SPDX: &str = "https://spdx.dev/Document";

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// An OCI layout, as a folder.
struct Layout(PathBuf);

impl Layout {
    /// Builds one.
    fn build(bench: &Bench, name: &str, keys: &str, args: &[&str]) -> Self {
        let folder = bench.davit.dir().join(name);
        let spec = format!("type=oci,tar=false,dest={}{keys}", folder.display());
        let outcome = bench.run(&[args, &["-o", &spec]].concat());
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        Self(folder)
    }

    /// Unpacks what `davit save` writes.
    fn saved(bench: &Bench, name: &str) -> Self {
        let folder = bench.davit.dir().join("saved");
        let _absent = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        let file = bench.davit.dir().join("saved.tar");
        bench.davit.ok(["save", "-o", file.to_str().unwrap(), name]);
        let mut tar = tar_command();
        let status = tar.arg("-xf").arg(&file).arg("-C").arg(&folder).status();
        assert!(status.unwrap().success());
        Self(folder)
    }

    fn index(&self) -> Vec<Value> {
        json(&self.0.join("index.json"))["manifests"].as_array().unwrap().clone()
    }

    fn document(&self, digest: &Value) -> Value {
        let digest = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
        json(&self.0.join("blobs/sha256").join(digest))
    }

    /// The one entry of attestations that refers to an image.
    fn referrer(&self) -> Value {
        let all = self.index();
        let of = |entry: &&Value| entry["artifactType"] == ARTIFACT;
        assert_eq!(all.iter().filter(of).count(), 1, "{all:?}");
        all.iter().find(of).unwrap().clone()
    }

    /// The statement of a kind in a manifest of attestations.
    fn statement(&self, manifest: &Value, kind: &str) -> Value {
        let layers = manifest["layers"].as_array().unwrap();
        let of = |layer: &&Value| layer["annotations"]["in-toto.io/predicate-type"] == kind;
        let layer = layers.iter().find(of).unwrap_or_else(|| panic!("no {kind}: {layers:?}"));
        let statement = self.document(&layer["digest"]);
        assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
        assert_eq!(statement["predicateType"], kind);
        statement
    }
}

fn tar_command() -> std::process::Command {
    std::process::Command::new("tar")
}

/// All files below a folder that hold some bytes.
fn holding(folder: &Path, text: &str) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                let bytes = fs::read(entry.path()).unwrap();
                if bytes.windows(text.len()).any(|it| it == text.as_bytes()) {
                    found.push(entry.path());
                }
            }
        }
    }
    found
}
