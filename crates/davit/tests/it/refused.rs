//! Images that are refused before they have a name, and words that help with damage.

use std::path::PathBuf;

use davit_engine::image::{Digest, Platform};
use davit_test::{Content, Davit, HttpServer, need_root, tar_of};

use crate::davit;

/// A layer with one hard link.
fn link_tar(path: &str, target: &str) -> Vec<u8> {
    let mut tar = tar_of(&[(path, b"")]);
    tar[157..157 + target.len()].copy_from_slice(target.as_bytes());
    set_type(&mut tar, b'1');
    tar
}

/// A layer with one sparse file (PAX 1.0) of a single byte at its start and a hole of 4 EiB.
fn sparse_tar() -> Vec<u8> {
    let records =
        b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n43 GNU.sparse.realsize=4611686018427387904\n21 GNU.sparse.name=f\n";
    let mut content = b"1\n0\n1\n".to_vec();
    content.resize(512, 0);
    content.push(b'x');
    let mut tar = tar_of(&[("records", records), ("GNUSparseFile.0/f", &content)]);
    set_type(&mut tar, b'x');
    tar
}

/// Changes what the first header of a tar describes.
fn set_type(tar: &mut [u8], type_flag: u8) {
    let header = &mut tar[..512];
    header[156] = type_flag;
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// What `docker save` writes of an image of one layer.
fn docker_archive(davit: &Davit, layer: &[u8], name: &str) -> PathBuf {
    let host = Platform::host();
    let config = format!(
        r#"{{"architecture":"{}","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        host.architecture,
        Digest::of(layer)
    );
    let manifest =
        format!(r#"[{{"Config":"c.json","RepoTags":["{name}"],"Layers":["layer.tar"]}}]"#);
    let files = [
        ("c.json", config.as_bytes()),
        ("layer.tar", layer),
        ("manifest.json", manifest.as_bytes()),
    ];
    let path = davit.dir().join("archive.tar");
    fs_err::write(&path, tar_of(&files)).unwrap();
    path
}

#[test]
fn layers_that_can_never_be_mounted_make_no_image() {
    if !need_root() {
        return;
    }
    let davit = davit();
    let link = |target| {
        let told = format!("links `link` to `{target}`, which no layer below holds");
        (link_tar("link", target), told)
    };
    let mut cases = vec![link("nowhere"), link("link")];
    // The other forms find out when they extract.
    if davit.ok(["info", "--format", "{{json .DriverStatus}}"]).contains("erofs") {
        cases.push((sparse_tar(), "sparse files need more than 64 MiB".to_owned()));
    }
    let tar = davit.dir().join("layer.tar");
    let tar = tar.to_str().unwrap();
    for (layer, told) in cases {
        fs_err::write(tar, &layer).unwrap();
        let archive = docker_archive(&davit, &layer, "x:1");
        let mut content = Content::default();
        content.add_image("1", &Platform::host(), &[tar_of(&[("file", b"")]), layer]);
        let server = HttpServer::start(move |request| content.serve(request));
        let name = format!("{}/x:1", server.host());
        let verbs: [&[&str]; 3] =
            [&["import", tar, "x:1"], &["load", "-i", archive.to_str().unwrap()], &["pull", &name]];
        for verb in verbs {
            let outcome = davit.run(verb);
            assert_eq!(outcome.code, 1, "{verb:?}: {}", outcome.stdout);
            assert!(outcome.stderr.contains("is no usable image"), "{}", outcome.stderr);
            assert!(outcome.stderr.contains(&told), "{}", outcome.stderr);
            assert_eq!(davit.ok(["images", "-aq"]), "", "{verb:?}");
        }
    }
}

#[test]
fn names_and_layouts_are_judged_alike() {
    let davit = davit();
    let layer = tar_of(&[("file", b"text")]);
    let archive = docker_archive(&davit, &layer, "UPPER:x");
    let outcome = davit.run(["load", "-i", archive.to_str().unwrap()]);
    assert_eq!(outcome.code, 1, "{}", outcome.stdout);
    let told = "error: invalid reference format: `UPPER:x` of the archive\ncaused by: repository name `UPPER` must be lower case\n";
    assert!(outcome.stderr.ends_with(told), "{}", outcome.stderr);
    for (name, loaded) in [("<none>:<none>", "Loaded image ID: sha256:"), ("x:1", "x:1\n")] {
        let archive = docker_archive(&davit, &layer, name);
        let outcome = davit.run(["load", "-i", archive.to_str().unwrap()]);
        assert!(outcome.stdout.contains(loaded), "{}{}", outcome.stdout, outcome.stderr);
    }
    let folder = davit.dir().join("layout");
    let place = format!("oci:{}", folder.display());
    davit.ok(["copy", "x:1", &place]);
    let load = ["load", "-i", folder.to_str().unwrap()];
    let copy = ["copy", &place, "y:1"];
    let hint = "hint: an OCI layout has oci-layout, index.json and blobs/";
    let blob = folder.join("blobs/sha256").join(Digest::of(&layer).hex());
    let whole = fs_err::read(&blob).unwrap();
    fs_err::write(&blob, &whole[..1000]).unwrap();
    let cut = davit.run(load);
    assert!(cut.code == 1 && !cut.stderr.contains(hint), "{}", cut.stderr);
    fs_err::write(&blob, &whole).unwrap();
    for missing in ["oci-layout", "index.json"] {
        let (file, aside) = (folder.join(missing), davit.dir().join(missing));
        fs_err::rename(&file, &aside).unwrap();
        for verb in [&load[..], &copy[..]] {
            let outcome = davit.run(verb);
            let told = format!("no OCI layout 1.0.0: it has no {missing}");
            assert!(outcome.code == 1 && outcome.stderr.contains(&told), "{}", outcome.stderr);
            assert!(outcome.stderr.contains(hint), "{}", outcome.stderr);
        }
        fs_err::rename(&aside, &file).unwrap();
    }
    davit.ok(load);
    davit.ok(copy);
}

#[test]
fn damage_names_its_remedy() {
    if !need_root() {
        return;
    }
    let davit = davit();
    let tar = tar_of(&[("file", b"text")]);
    let path = davit.dir().join("layer.tar");
    fs_err::write(&path, &tar).unwrap();
    let id = davit.ok(["import", path.to_str().unwrap(), "x:1"]);
    let layer = davit.root().join("layers/sha256").join(Digest::of(&tar).hex());
    let config = davit.root().join("blobs/sha256").join(id.trim_start_matches("sha256:"));
    let saved = davit.dir().join("x.tar");
    let saved = saved.to_str().unwrap();
    let run: &[&str] = &["run", "--rm", "x:1", "true"];
    let cases: [(PathBuf, &[&[&str]]); 3] = [
        (config, &[run, &["save", "-o", saved, "x:1"], &["inspect", "x:1"], &["history", "x:1"]]),
        (layer.join("tar"), &[run, &["save", "-o", saved, "x:1"]]),
        (layer.join("table"), &[run]),
    ];
    for (file, verbs) in cases {
        let aside = davit.dir().join("aside");
        fs_err::rename(&file, &aside).unwrap();
        for tree in fs_err::read_dir(davit.root().join("trees")).unwrap() {
            if file.ends_with("table") {
                fs_err::remove_file(tree.unwrap().path()).unwrap();
            }
        }
        for verb in verbs {
            let outcome = davit.run(*verb);
            let told = outcome.stderr.ends_with("\n\nhint: davit system check --repair\n");
            assert!(outcome.code != 0 && told, "{verb:?}: {}", outcome.stderr);
        }
        fs_err::rename(&aside, &file).unwrap();
    }
}
