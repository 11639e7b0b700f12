//! Real input for the bench, made from Debian packages and kept outside the repository.
//!
//! | name | what |
//! |---|---|
//! | `base` | Debian minbase without documentation, one layer |
//! | `app` | `base`, development tools, 25,000 small files: three layers, 75,000 entries |
//! | `busybox` | a static busybox alone, one layer |
//! | `packages` | Debian packages that `base` can install |
//! | `context` | a folder of 50,000 small files for COPY |
//! | `small-context` | the same with 300, of the text of `base` |

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::{packages, process};

const TOOLS: &str = "--include=python3,nodejs,npm,build-essential,git,curl,ca-certificates";
const SMALL_FILES: &str = include_str!("../corpus/small_files.py");
const PACKAGES: [&str; 6] = ["less", "zip", "unzip", "jq", "libjq1", "libonig5"];
const IMAGE_FILES: u32 = 25_000;
const CONTEXT_FILES: u32 = 50_000;
const SMALL_CONTEXT_FILES: u32 = 300;

/// How much of the corpus is made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Extent {
    /// Everything.
    Full,
    /// What a smoke run needs: `base` and `small-context`.
    Smoke,
}

/// The corpus of one machine.
#[derive(Debug)]
pub(crate) struct Corpus {
    folder: PathBuf,
    extent: Extent,
}

impl Corpus {
    /// Opens the corpus; makes what is missing, which takes some minutes the first time.
    pub(crate) fn open(extent: Extent) -> Result<Self> {
        packages::install(&packages::missing(&[
            ("mmdebstrap", "/usr/bin/mmdebstrap"),
            ("python3", "/usr/bin/python3"),
            ("skopeo", "/usr/bin/skopeo"),
        ]))?;
        let corpus = Self { folder: process::cache_folder()?.join("corpus-2"), extent };
        fs_err::create_dir_all(&corpus.folder)?;
        corpus.make("root-base", |path| {
            let excluded = ["doc", "man", "locale"];
            let options =
                excluded.map(|name| format!("--dpkgopt=path-exclude=/usr/share/{name}/*"));
            debootstrap(path, &options)
        })?;
        corpus.make("base.tar", |path| tar(&corpus.folder.join("root-base"), None, path))?;
        corpus.image("base", &["base"])?;
        corpus.make("root-busybox", busybox)?;
        corpus.make("busybox.tar", |path| tar(&corpus.folder.join("root-busybox"), None, path))?;
        corpus.image("busybox", &["busybox"])?;
        corpus.make("packages", download)?;
        match extent {
            Extent::Full => corpus.make_large()?,
            Extent::Smoke => {
                let text = corpus.folder.join("root-base/usr");
                corpus
                    .make("small-context", |path| small_files(&text, path, SMALL_CONTEXT_FILES))?;
            }
        }
        Ok(corpus)
    }

    fn make_large(&self) -> Result<()> {
        self.make("root-app", |path| debootstrap(path, &[TOOLS.to_owned()]))?;
        let text = self.folder.join("root-app/usr");
        self.make("files", |path| small_files(&text, path, IMAGE_FILES))?;
        self.make("context", |path| small_files(&text, path, CONTEXT_FILES))?;
        self.make("tools.tar", |path| self.tools_layer(path))?;
        self.make("files.tar", |path| tar(&self.folder.join("files"), None, path))?;
        self.image("app", &["base", "tools", "files"])
    }

    /// Compresses the layers and makes both forms of an image of them.
    fn image(&self, image: &str, layers: &[&str]) -> Result<()> {
        for layer in layers {
            let plain = self.folder.join(format!("{layer}.tar"));
            self.make(&format!("{layer}.tar.gz"), |path| gzip(&plain, path))?;
        }
        self.make(&format!("{image}.oci"), |path| self.layout(path, layers))?;
        self.make(&format!("{image}.docker.tar"), |path| self.docker_archive(image, path))
    }

    /// Where it lies.
    pub(crate) fn folder(&self) -> std::path::Display<'_> {
        self.folder.display()
    }

    /// The one layer of `busybox`.
    pub(crate) fn busybox(&self) -> PathBuf {
        self.folder.join("busybox.tar")
    }

    /// OCI layout of an image, tagged `latest`.
    pub(crate) fn oci_layout(&self, image: &str) -> PathBuf {
        self.folder.join(format!("{image}.oci"))
    }

    /// `docker save` archive of an image, tagged `IMAGE:latest`.
    pub(crate) fn archive(&self, image: &str) -> PathBuf {
        self.folder.join(format!("{image}.docker.tar"))
    }

    /// Folder of packages that install on `base`.
    pub(crate) fn packages(&self) -> PathBuf {
        self.folder.join("packages")
    }

    /// The folder of small files; callers copy it before they change it.
    pub(crate) fn context(&self) -> PathBuf {
        self.folder.join(match self.extent {
            Extent::Full => "context",
            Extent::Smoke => "small-context",
        })
    }

    /// Makes one part under a name of its own, so that an interrupted run leaves nothing half-made.
    fn make(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let path = self.folder.join(name);
        if path.exists() {
            return Ok(());
        }
        eprintln!("corpus: making {name}");
        let fresh = self.folder.join(format!("{name}.new"));
        process::run(process::as_root("rm").arg("-rf").arg(&fresh))?;
        make(&fresh).with_context(|| format!("cannot make the corpus part {name}"))?;
        process::run(process::as_root("mv").arg(&fresh).arg(&path))
    }

    /// What an `apt-get install` layer holds: every path of the second root that differs.
    fn tools_layer(&self, path: &Path) -> Result<()> {
        let (below, above) = (self.folder.join("root-base"), self.folder.join("root-app"));
        let old: BTreeSet<String> = listing(&below)?.into_iter().collect();
        let changed = listing(&above)?.into_iter().filter(|line| !old.contains(line));
        let names: String =
            changed.filter_map(|line| Some(line.split('\t').next()?.to_owned() + "\n")).collect();
        let list = path.with_extension("list");
        fs_err::write(&list, names)?;
        tar(&above, Some(&list), path)?;
        Ok(fs_err::remove_file(list)?)
    }

    fn layout(&self, path: &Path, layers: &[&str]) -> Result<()> {
        let blobs = path.join("blobs/sha256");
        fs_err::create_dir_all(&blobs)?;
        fs_err::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let (mut diff_ids, mut descriptors, mut history) = (Vec::new(), Vec::new(), Vec::new());
        for layer in layers {
            let blob = self.folder.join(format!("{layer}.tar.gz"));
            let digest = sha256(&blob)?;
            diff_ids.push(format!("sha256:{}", sha256(&self.folder.join(format!("{layer}.tar")))?));
            fs_err::hard_link(&blob, blobs.join(&digest))?;
            descriptors.push(json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": format!("sha256:{digest}"),
                "size": fs_err::metadata(&blob)?.len(),
            }));
            history.push(json!({"created": "2026-01-01T00:00:00Z", "created_by": layer}));
        }
        let config = json!({
            "created": "2026-01-01T00:00:00Z", "architecture": "amd64", "os": "linux",
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Cmd": ["/bin/bash"],
            },
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        });
        let config = put_json(&blobs, "application/vnd.oci.image.config.v1+json", &config)?;
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": descriptors,
        });
        let mut manifest = put_json(&blobs, media_type, &manifest)?;
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        Ok(fs_err::write(path.join("index.json"), index.to_string())?)
    }

    fn docker_archive(&self, image: &str, path: &Path) -> Result<()> {
        let source = format!("oci:{}:latest", self.oci_layout(image).display());
        let target = format!("docker-archive:{}:{image}:latest", path.display());
        process::run(
            Command::new("skopeo")
                .args(["--insecure-policy", "copy", "--quiet"])
                .args([source, target]),
        )
    }
}

fn put_json(
    blobs: &Path,
    media_type: &str,
    value: &serde_json::Value,
) -> Result<serde_json::Value> {
    let text = value.to_string();
    let fresh = blobs.join("new");
    fs_err::write(&fresh, &text)?;
    let digest = sha256(&fresh)?;
    fs_err::rename(&fresh, blobs.join(&digest))?;
    Ok(json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": text.len()}))
}

fn sha256(path: &Path) -> Result<String> {
    let line = process::output(Command::new("sha256sum").arg(path))?;
    Ok(line.split(' ').next().unwrap_or_default().to_owned())
}

fn busybox(path: &Path) -> Result<()> {
    let bin = path.join("bin");
    fs_err::create_dir_all(&bin)?;
    fs_err::copy("/bin/busybox", bin.join("busybox"))?;
    for name in ["sh", "true", "sleep"] {
        std::os::unix::fs::symlink("busybox", bin.join(name))?;
    }
    Ok(())
}

fn download(path: &Path) -> Result<()> {
    fs_err::create_dir(path)?;
    // The release of `base`, whose libraries they find there.
    let mut command = process::as_root("apt-get");
    command.args(["download", "--quiet", "-o", "APT::Sandbox::User=root"]).args(PACKAGES);
    process::run(command.current_dir(path))
}

fn debootstrap(path: &Path, options: &[String]) -> Result<()> {
    let mut command = process::as_root("mmdebstrap");
    command.args(["--quiet", "--variant=minbase"]).args(options);
    process::run(command.arg("bookworm").arg(path))?;
    // Device nodes are the container's business.
    process::run(process::as_root("find").arg(path.join("dev")).args(["-mindepth", "1", "-delete"]))
}

fn small_files(text: &Path, path: &Path, count: u32) -> Result<()> {
    fs_err::create_dir(path)?;
    let mut python = Command::new("python3");
    python.arg("-c").arg(SMALL_FILES).arg(text).arg(path).arg(count.to_string());
    process::run(&mut python)
}

/// One line for each path: its name, then everything that a layer would hold of it but content.
fn listing(root: &Path) -> Result<Vec<String>> {
    let format = "%P\\t%y %m %U %G %s %T@ %l\\n";
    let text = process::output(process::as_root("find").arg(root).args([
        "-mindepth",
        "1",
        "-printf",
        format,
    ]))?;
    // A directory's size and time change with its entries; layers of real builds hold it then.
    Ok(text.lines().map(str::to_owned).collect())
}

fn tar(root: &Path, list: Option<&Path>, path: &Path) -> Result<()> {
    let mut command = process::as_root("tar");
    command.args(["--format=posix", "--sort=name", "--numeric-owner", "--xattrs"]);
    command.arg("--pax-option=delete=atime,delete=ctime").arg("-C").arg(root).arg("-cf").arg(path);
    match list {
        Some(list) => command.args(["--no-recursion", "--verbatim-files-from", "-T"]).arg(list),
        None => command.arg("."),
    };
    process::run(&mut command)
}

fn gzip(plain: &Path, path: &Path) -> Result<()> {
    let mut command = Command::new("gzip");
    command
        .args(["-6", "-n", "-c"])
        .arg(plain)
        .stdout(Stdio::from(fs_err::File::create(path)?.into_file()));
    process::run(&mut command)
}
