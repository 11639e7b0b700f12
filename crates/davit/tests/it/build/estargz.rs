//! Layers in the forms that outputs ask for: eStargz, and the same bytes for any number of cores.

use std::{fs, path::Path, process::Command};

use davit_test::{Access, Davit, Outcome, Registry, find_tool, need_tool, noise};
use serde_json::Value;

use super::bench::{Bench, list};
use crate::davit;

const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
const PLAIN_SIZE: &str = "io.containers.estargz.uncompressed-size";

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Two layers, of which the first has a file of several pieces.
fn bench() -> Option<Bench> {
    let dockerfile = "FROM scratch\nCOPY big s /\nCOPY s /t/\n";
    let bench = Bench::new(&[("s/a", "1"), ("s/sub/b", "2"), ("Dockerfile", dockerfile)])?;
    let letters: Vec<u8> = noise(9_500_000).iter().map(|byte| byte % 64).collect();
    fs::write(bench.context.join("big"), letters).unwrap();
    Some(bench)
}

/// The files of an image in a registry, as `davit` sees them.
fn files(davit: &Davit, image: &str) -> Vec<String> {
    let context = davit.dir().join("pulled");
    fs::create_dir_all(&context).unwrap();
    fs::write(context.join("Dockerfile"), format!("FROM {image}\n")).unwrap();
    let out = davit.dir().join("files");
    let spec = format!("type=local,mode=delete,dest={}", out.display());
    davit.ok([
        "build",
        "-q",
        "--allow",
        "buildx.local.delete",
        "-o",
        &spec,
        context.to_str().unwrap(),
    ]);
    list(&out)
}

#[test]
fn estargz_is_gzip_for_everyone() {
    let (Some(bench), Some(registry)) = (bench(), Registry::start(Access::Open)) else { return };
    let (other, facts) = (davit(), bench.davit.dir().join("facts.json"));
    let expected = list(&bench.files(&[]));
    let name = format!("{}/lazy:1", registry.host());
    let spec = format!("type=image,push=true,compression=estargz,name={name}");
    let push = || {
        let outcome = bench.run(&["-o", &spec, "--metadata-file", facts.to_str().unwrap()]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        (json(&facts), bench.config(&outcome))
    };
    let (told, built) = push();
    assert_eq!(files(&other, &name), expected);
    // What is pulled is what was told; the layers are others than here.
    let id = other.ok(["images", "-q", "--no-trunc", &name]);
    assert_eq!(told["containerimage.config.digest"], *id);
    let blob =
        |davit: &Davit, digest: &str| json(&davit.root().join("blobs/sha256").join(&digest[7..]));
    let config = blob(&other, &id);
    let without_layers = |config: &Value| {
        let mut config = config.clone();
        config.as_object_mut().unwrap().remove("rootfs");
        config
    };
    assert_eq!(without_layers(&config), without_layers(&built));
    assert_ne!(config["rootfs"], built["rootfs"]);
    let manifest = blob(&other, told["containerimage.digest"].as_str().unwrap());
    let layers = manifest["layers"].as_array().unwrap().clone();
    for layer in &layers {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
        let annotations = &layer["annotations"];
        assert!(annotations[TOC_DIGEST].as_str().unwrap().starts_with("sha256:"));
        assert!(annotations[PLAIN_SIZE].as_str().unwrap().parse::<u64>().unwrap() > 2048);
    }
    // The same again, and what the registry has is not sent; `push` knows the form, too.
    assert_eq!(push().0["containerimage.digest"], told["containerimage.digest"]);
    let again = bench.davit.run(["push", "--compression", "estargz", &name]);
    assert!(again.stdout.contains(told["containerimage.digest"].as_str().unwrap()), "{again:?}");
    let all = format!("{}{}", again.stdout, again.stderr);
    assert_eq!(all.matches("Layer already exists").count(), 2, "{all}");
    // A note that was damaged does not count.
    let notes = fs::read_dir(bench.davit.root().join("layers/sha256")).unwrap();
    for layer in notes.map(|layer| layer.unwrap().path()) {
        fs::write(layer.join("estargz-6-4m-zlib-rs.1"), [0; 64]).unwrap();
    }
    assert_eq!(push().0["containerimage.digest"], told["containerimage.digest"]);
    bench.davit.ok(["system", "check"]);
    // An archive has the same layers, and davit loads it.
    let tar = bench.davit.dir().join("lazy.tar");
    let spec = format!("type=docker,compression=estargz,name=lazy:2,dest={}", tar.display());
    assert_eq!(bench.run(&["-o", &spec]).code, 0);
    other.ok(["load", "-i", tar.to_str().unwrap()]);
    assert_eq!(files(&other, "lazy:2"), expected);
    assert_eq!(other.ok(["images", "-q", "--no-trunc", "lazy:2"]), id);
    if let Some(skopeo) = need_tool("skopeo") {
        let target = bench.davit.dir().join("copied");
        let (source, copy) = (format!("docker://{name}"), format!("dir:{}", target.display()));
        let mut command = Command::new(skopeo);
        command.args(["--insecure-policy", "copy", "--src-tls-verify=false", &source, &copy]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // An ordinary tar of such a layer has none of the form's own files.
        let digest = layers[1]["digest"].as_str().unwrap();
        let Some(tool) = find_tool("tar") else { return };
        let listed =
            Command::new(tool).arg("-tzf").arg(target.join(&digest[7..])).output().unwrap();
        let names = String::from_utf8(listed.stdout).unwrap();
        assert_eq!(names, "t/\nt/a\nt/sub/\nt/sub/b\n");
    }
}

#[test]
fn forms_do_not_depend_on_the_number_of_cores() {
    let (Some(bench), Some(taskset)) = (bench(), need_tool("taskset")) else { return };
    let layers = |cores: &str, keys: &str| {
        let folder = bench.davit.dir().join(format!("layout-{cores}-{keys}"));
        let folder = folder.to_str().unwrap().replace(',', "-");
        let spec = format!("type=oci,tar=false,dest={folder},{keys}");
        let context = bench.context.to_str().unwrap();
        let own = bench.davit.command(["build", "-q", "-t", "x:1", "-o", &spec, context]);
        let mut command = Command::new(&taskset);
        command.args(["-c", cores]).arg(own.get_program()).args(own.get_args());
        for (name, value) in own.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let outcome = Outcome::from(command.output().unwrap());
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        fs::read(Path::new(&folder).join("index.json")).unwrap()
    };
    for keys in [
        "compression=estargz",
        "compression=estargz,compression-level=0,force-compression=true",
        "compression=gzip,compression-level=0",
        "compression=gzip,compression-level=9",
        "compression=zstd",
        "compression=zstd,compression-level=22,force-compression=true",
        "compression=uncompressed",
    ] {
        assert!(layers("0", keys) == layers("0-1023", keys), "{keys}");
    }
    for (keys, words) in [
        ("compression=estargz,compression-level=10", "gzip and estargz: 0 to 9"),
        ("compression=zstd,compression-level=23", "0 to 22"),
        ("compression=lzma", "uncompressed, gzip, estargz, zstd"),
    ] {
        let spec = format!("type=oci,dest=x,{keys}");
        let refused = bench.run(&["-o", &spec]);
        assert!(refused.stderr.contains(words), "{keys}: {}", refused.stderr);
    }
}
