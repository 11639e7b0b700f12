//! Real images, path by path against what `umoci unpack` makes of them.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use davit_image::{DiffId, Digest};
use davit_layer::{ReadOptions, Table, read_layer};
use davit_snapshot::{Form, Mountpoints, Upper};
use davit_store::{DiffIdState, Durability, LayerFacts, Presence};
use davit_test::TempDir;
use fs_err::File;
use serde_json::{Value, json};

use crate::support::{Root, Seen, assert_same, in_namespace, overlay, proc_path, see, walk};

/// Layers as they come, compressed or not, bottom first.
struct Image {
    name: &'static str,
    layers: Vec<PathBuf>,
    directory_times: DirectoryTimes,
}

#[derive(Clone, Copy)]
enum DirectoryTimes {
    Compared,
    /// The judge leaves the time of unpacking where it makes a directory that has no entry.
    Ignored,
}

impl Image {
    /// Of an OCI layout among the real images.
    fn layout(name: &'static str) -> Option<Self> {
        let layout = davit_test::need_image(name)?;
        let blob =
            |digest: &Value| layout.join("blobs").join(digest.as_str().unwrap().replace(':', "/"));
        let parse =
            |path: PathBuf| serde_json::from_slice::<Value>(&fs_err::read(path).unwrap()).unwrap();
        let index = parse(layout.join("index.json"));
        let manifest = parse(blob(&index["manifests"][0]["digest"]));
        let layers = manifest["layers"].as_array().unwrap();
        let layers: Vec<PathBuf> = layers.iter().map(|layer| blob(&layer["digest"])).collect();
        Some(Self::files(name, &layers))
    }

    fn files(name: &'static str, paths: &[PathBuf]) -> Self {
        Self { name, layers: paths.to_vec(), directory_times: DirectoryTimes::Compared }
    }

    /// Reads the layers into a store.
    fn ingest(&self, root: &Root) -> Vec<DiffId> {
        let read = |layer: &PathBuf| {
            let lease = root.store.lease("test").unwrap();
            let ingest = root.store.begin_layer(&lease).unwrap();
            let mut tar = ingest.create_tar().unwrap();
            let mut source = File::open(layer).unwrap();
            let read = read_layer(&mut source, &mut tar, None, &ReadOptions::default()).unwrap();
            read.table.write_to(&mut ingest.create_table().unwrap()).unwrap();
            ingest.commit(&row(&read.table)).unwrap().diff_id
        };
        self.layers.iter().map(read).collect()
    }

    /// What umoci makes of it; remembered in the cache, since it takes seconds.
    fn judged(&self) -> Option<Seen> {
        let umoci = davit_test::need_tool("umoci")?;
        let mut digester = davit_image::Digester::new(davit_image::Algorithm::Sha256);
        for layer in &self.layers {
            digester.update(&fs_err::read(layer).unwrap());
        }
        let key = digester.finish().hex();
        let remembered = davit_test::cache_dir().join(format!("umoci-1-{key}.json"));
        if let Ok(json) = fs_err::read(&remembered) {
            return Some(from_json(&serde_json::from_slice(&json).unwrap()));
        }
        let temp = TempDir::new();
        self.write_layout(temp.path());
        let output = Command::new(umoci)
            .args(["unpack", "--image"])
            .arg(format!("{}:test", temp.path().display()))
            .arg(temp.path().join("bundle"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let seen = walk(&temp.path().join("bundle/rootfs"));
        let json = serde_json::to_vec(&to_json(&seen)).unwrap();
        let partial = temp.path().join("partial");
        fs_err::write(&partial, json).unwrap();
        // Another file system perhaps, so no rename; a torn copy would not parse.
        let _best_effort = fs_err::create_dir_all(davit_test::cache_dir())
            .and_then(|()| fs_err::copy(&partial, &remembered).map(drop));
        Some(seen)
    }

    fn write_layout(&self, layout: &Path) {
        let blobs = layout.join("blobs/sha256");
        fs_err::create_dir_all(&blobs).unwrap();
        let put = |media_type: &str, bytes: &[u8]| {
            let digest = Digest::of(bytes);
            fs_err::write(blobs.join(digest.hex()), bytes).unwrap();
            json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
        };
        let oci = |kind: &str| format!("application/vnd.oci.image.{kind}");
        let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
        for layer in &self.layers {
            let layer = fs_err::read(layer).unwrap();
            let gzip = layer.starts_with(&[0x1f, 0x8b]);
            let kind = if gzip { "layer.v1.tar+gzip" } else { "layer.v1.tar" };
            layers.push(put(&oci(kind), &layer));
            let mut tar = Vec::new();
            let read =
                read_layer(&mut &layer[..], &mut tar, None, &ReadOptions::default()).unwrap();
            diff_ids.push(read.table.facts().diff_id.to_string());
        }
        let config = json!({"architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = put(&oci("config.v1+json"), config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        let mut manifest = put(&oci("manifest.v1+json"), manifest.to_string().as_bytes());
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "test"});
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        fs_err::write(layout.join("index.json"), index.to_string()).unwrap();
        fs_err::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    }

    /// All forms show what the judge shows: stacked as builds do it, merged, and written on.
    fn check(&self, forms: &[Form]) {
        let Some(judged) = self.judged() else { return };
        let root = Root::new();
        let chain = self.ingest(&root);
        for form in forms.iter().copied() {
            let what = format!("{} as {form}", self.name);
            let forget = || {
                for tree in root.store.trees().unwrap() {
                    root.store.drop_tree(&tree.id).unwrap();
                }
            };
            // Both forms of directories have the same ones.
            forget();
            let prefixes = (1..=chain.len())
                .map(|length| root.prepare(form, &chain[..length], Mountpoints::None));
            let stack = prefixes.last().unwrap();
            if chain.len() > 1 {
                let parts = if form == Form::Copy { 1 } else { chain.len() };
                assert_eq!(stack.parts.len(), parts);
                self.compare(see(&stack), &judged, &format!("{what}, stacked"));
            }
            forget();
            let stack = root.prepare(form, &chain, Mountpoints::None);
            assert_eq!(stack.parts.len(), 1);
            let upper = match form {
                Form::DirectoriesElsewhere => {
                    Upper::Tmpfs { name: "t".into(), size_bytes: 1 << 20 }
                }
                Form::Copy => Upper::Copy(root.dir.path().to_path_buf()),
                _ => Upper::Directory(root.dir.path().to_path_buf()),
            };
            let of = stack.clone();
            let seen = in_namespace(&stack, move |namespace| {
                let lowers = namespace.lowers(&of).unwrap();
                walk(&proc_path(&overlay(namespace, &lowers, &upper).unwrap()))
            });
            self.compare(seen, &judged, &format!("{what}, writable"));
        }
    }

    fn compare(&self, mut seen: Seen, judged: &Seen, what: &str) {
        if matches!(self.directory_times, DirectoryTimes::Ignored) {
            let directories = seen.iter_mut().filter(|(_, facts)| facts.first_name.is_empty());
            for (path, facts) in directories {
                facts.mtime = judged.get(path).map_or(facts.mtime, |judged| judged.mtime);
            }
        }
        assert_same(&seen, judged, what);
    }
}

fn row(table: &Table) -> LayerFacts {
    LayerFacts {
        diff_id: table.facts().diff_id,
        tar_size: table.facts().tar_size,
        entries: table.len() as u64,
        diffid_state: DiffIdState::Verified,
        presence: Presence::Full,
        durability: Durability::Lazy,
    }
}

fn to_json(seen: &Seen) -> Value {
    let fact = |(path, facts): (&Vec<u8>, &crate::support::Facts)| {
        json!([
            path,
            facts.mode,
            facts.owner,
            facts.mtime,
            facts.size,
            facts.rdev,
            facts.content,
            facts.xattrs,
            facts.first_name
        ])
    };
    seen.iter().map(fact).collect()
}

fn from_json(json: &Value) -> Seen {
    fn get<T: serde::de::DeserializeOwned>(value: &Value) -> T {
        serde_json::from_value(value.clone()).unwrap()
    }
    let fact = |value: &Value| {
        let facts = crate::support::Facts {
            mode: get(&value[1]),
            owner: get(&value[2]),
            mtime: get(&value[3]),
            size: get(&value[4]),
            rdev: get(&value[5]),
            content: get(&value[6]),
            xattrs: get(&value[7]),
            first_name: get(&value[8]),
        };
        (get(&value[0]), facts)
    };
    json.as_array().unwrap().iter().map(fact).collect()
}

#[test]
fn busybox() {
    if !davit_test::need_root() {
        return;
    }
    for name in ["busybox-glibc-amd64", "busybox-musl-amd64"] {
        if let Some(image) = Image::layout(name) {
            image.check(&crate::support::forms());
        }
    }
}

#[test]
fn alpine() {
    if !davit_test::need_root() {
        return;
    }
    let Some(path) = davit_test::need_image("alpine-minirootfs-3.20.3-x86_64.tar.gz") else {
        return;
    };
    Image::files("alpine", &[path]).check(&crate::support::forms());
}

/// An application's dependencies: many small files, as one layer.
fn application(path: &Path, packages: usize) {
    let mut tar = Vec::new();
    header(&mut tar, "app/", b'5', 0);
    header(&mut tar, "app/node_modules/", b'5', 0);
    for package in 0..packages {
        let name = format!("app/node_modules/package-{package:05}/");
        header(&mut tar, &name, b'5', 0);
        for file in 0..9 {
            let content =
                format!("module.exports = {package} * {file};\n").repeat(1 + (package + file) % 20);
            header(&mut tar, &format!("{name}module{file}.js"), b'0', content.len());
            tar.extend(content.as_bytes());
            tar.resize(tar.len().next_multiple_of(512), 0);
        }
    }
    // Takes away and hides some of Debian's.
    header(&mut tar, "etc/.wh.debian_version", b'0', 0);
    header(&mut tar, "usr/share/doc/.wh..wh..opq", b'0', 0);
    header(&mut tar, "var/log/", b'5', 0);
    header(&mut tar, "var/log/app.log", b'0', 0);
    tar.resize(tar.len() + 1024, 0);
    fs_err::write(path, tar).unwrap();
}

fn header(tar: &mut Vec<u8>, name: &str, kind: u8, size: usize) {
    let mut block = [0_u8; 512];
    let mut put = |at: usize, text: &str| {
        block[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    put(0, name);
    put(100, if kind == b'5' { "0000755\0" } else { "0000644\0" });
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "14524600000\0");
    put(257, "ustar\x0000");
    block[156] = kind;
    seal(&mut block);
    tar.extend_from_slice(&block);
}

/// Sets the checksum of a header block.
fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Whiteouts and opaque marks beside, below and behind symlinks.
#[test]
fn whiteouts_and_symlinks_of_lower_layers() {
    if !davit_test::need_root() {
        return;
    }
    let cases: [(&str, &[&str], &[&str]); 6] = [
        ("beside", &["usr/", "usr/old", "lib -> usr"], &[".wh.lib", "lib/new"]),
        ("marked", &["usr/", "usr/old", "lib -> usr"], &[".wh.lib", "lib/.wh..wh..opq", "lib/new"]),
        ("directory", &["d/ 750", "d/old"], &[".wh.d", "d/new"]),
        ("opaque", &["a/", "a/a/", "a/a/x", "c -> a"], &["c/.wh..wh..opq"]),
        ("through", &["a/", "a/a/", "a/a/x", "a/y", "c -> a"], &["c/.wh.a"]),
        ("both", &["b/", "b/c/", "b/c/a/", "b/c/a/old", "b/b -> /b/c"], &["b/c/.wh.a", "b/b/a"]),
    ];
    let temp = TempDir::new();
    for (name, lower, upper) in cases {
        let layers = [("lower", lower), ("upper", upper)].map(|(which, entries)| {
            let path = temp.path().join(format!("{name}-{which}"));
            fs_err::write(&path, small_layer(entries)).unwrap();
            path
        });
        let image = Image::files(name, &layers);
        Image { directory_times: DirectoryTimes::Ignored, ..image }.check(&crate::support::forms());
    }
}

/// `NAME`, `NAME/`, `NAME/ MODE` and `NAME -> TARGET`.
fn small_layer(entries: &[&str]) -> Vec<u8> {
    let mut tar = Vec::new();
    header(&mut tar, "./", b'5', 0);
    for entry in entries {
        let (name, rest) = entry.split_once(' ').unwrap_or((entry, ""));
        let target = rest.strip_prefix("-> ");
        let kind = match target {
            Some(_) => b'2',
            None if name.ends_with('/') => b'5',
            None => b'0',
        };
        let start = tar.len();
        header(&mut tar, name, kind, 0);
        match target {
            Some(target) => {
                tar[start + 157..start + 157 + target.len()].copy_from_slice(target.as_bytes())
            }
            None if !rest.is_empty() => {
                tar[start + 104..start + 107].copy_from_slice(rest.as_bytes())
            }
            None => continue,
        }
        seal(&mut tar[start..]);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

#[test]
fn debian_with_seventy_thousand_entries() {
    if !crate::support::need_erofs() {
        return;
    }
    let Some(base) = davit_test::need_debian_root() else { return };
    let temp = TempDir::new();
    let application_tar = temp.path().join("application.tar");
    application(&application_tar, 6_300);
    let image = Image::files("debian", &[base, application_tar]);
    let Some(judged) = image.judged() else { return };
    assert!(judged.len() > 70_000, "{}", judged.len());
    image.check(&[Form::Erofs]);
}

#[test]
fn one_distribution_on_another() {
    if !davit_test::need_root() {
        return;
    }
    let Some(alpine) = davit_test::need_image("alpine-minirootfs-3.20.3-x86_64.tar.gz") else {
        return;
    };
    let Some(base) = davit_test::need_debian_root() else { return };
    Image::files("alpine on debian", &[base, alpine]).check(&crate::support::forms());
}
