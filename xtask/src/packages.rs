//! What the suite and the bench need beside the Rust toolchain, installed by their own clients.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::process;

/// Debian packages that the suite uses, with a program or file that shows each to be there.
const SUITE: &[(&str, &str)] = &[
    ("apache2-utils", "/usr/bin/htpasswd"),
    ("attr", "/usr/bin/setfattr"),
    ("busybox-static", "/bin/busybox"),
    ("buildah", "/usr/bin/buildah"),
    ("bzip2", "/bin/bzip2"),
    ("chromium", "/usr/bin/chromium"),
    ("docker-registry", "/usr/bin/docker-registry"),
    ("fish", "/usr/bin/fish"),
    ("git", "/usr/bin/git"),
    ("iproute2", "/bin/ip"),
    ("ldap-utils", "/usr/bin/ldapmodify"),
    ("libcap2-bin", "/sbin/setcap"),
    ("mmdebstrap", "/usr/bin/mmdebstrap"),
    ("nftables", "/usr/sbin/nft"),
    ("nodejs", "/usr/bin/node"),
    ("npm", "/usr/bin/npm"),
    ("openssh-client", "/usr/bin/ssh-keygen"),
    ("openssh-server", "/usr/sbin/sshd"),
    ("openssl", "/usr/bin/openssl"),
    ("podman", "/usr/bin/podman"),
    ("postgresql", "/usr/lib/postgresql"),
    ("procps", "/bin/kill"),
    ("python3-seccomp", "/usr/share/doc/python3-seccomp"),
    ("python3-venv", "/usr/share/doc/python3-venv"),
    ("qemu-user-static", "/usr/bin/qemu-aarch64-static"),
    ("skopeo", "/usr/bin/skopeo"),
    ("slapd", "/usr/sbin/slapd"),
    ("strace", "/usr/bin/strace"),
    ("umoci", "/usr/bin/umoci"),
    ("xz-utils", "/usr/bin/xz"),
    ("zstd", "/usr/bin/zstd"),
];

/// Go modules with the judges that they give, built once and kept in the cache.
const GO_JUDGES: &[(&str, &str)] = &[
    ("crane", "github.com/google/go-containerregistry/cmd/crane@v0.22.1"),
    ("regctl", "github.com/regclient/regclient/cmd/regctl@v0.11.7"),
    ("helm", "helm.sh/helm/v3/cmd/helm@v3.22.0"),
    ("pebble", "github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.1"),
];

/// S3 servers: a program of a crate, kept in the cache, and a Python package in a folder there.
const S3_CRATE: (&str, &str) = ("s3s-fs", "0.14.1");
const MOTO: &str = "moto[server,s3]==5.2.5";

/// Installs the suite's packages; what cannot be had is left out, and the tests that need it skip.
pub(crate) fn install_for_suite() -> Result<()> {
    install(&missing(SUITE))?;
    install_go_judges()?;
    install_s3_servers()
}

fn install_s3_servers() -> Result<()> {
    let cache = davit_test::cache_path();
    let is_absent = |name: &str| davit_test::find_tool(name).is_none();
    let (name, version) = S3_CRATE;
    if is_absent(name) {
        process::cache_folder()?;
        let mut command = process::cargo();
        command.args(["install", name, "--version", version, "--locked", "--features", "binary"]);
        command.arg("--root").arg(cache.join("cargo"));
        note(name, process::run(&mut command));
    }
    if is_absent("moto_server") {
        process::cache_folder()?;
        let made = davit_test::python_with("moto", &[MOTO], "moto.server");
        note("moto", made.map(drop).context("pip cannot install it"));
    }
    Ok(())
}

/// Says what cannot be had; the tests that need it skip.
fn note(name: &str, outcome: Result<()>) {
    if let Err(error) = outcome {
        eprintln!("note: {name} cannot be had: {error:#}");
    }
}

fn install_go_judges() -> Result<()> {
    let folder = davit_test::cache_path().join("go");
    let is_absent = |name: &str| davit_test::find_tool(name).is_none();
    let wanted: Vec<_> = GO_JUDGES.iter().filter(|(name, _)| is_absent(name)).collect();
    if wanted.is_empty() || davit_test::find_tool("go").is_none() {
        return Ok(());
    }
    process::cache_folder()?;
    fs_err::create_dir_all(&folder)?;
    for (name, module) in wanted {
        let mut command = Command::new("go");
        command.args(["install", module]).env("GOBIN", &folder);
        note(name, process::run(&mut command));
    }
    Ok(())
}

/// The packages whose file is not there.
pub(crate) fn missing<'a>(packages: &[(&'a str, &str)]) -> Vec<&'a str> {
    let absent = packages.iter().filter(|(_, file)| !std::path::Path::new(file).exists());
    absent.map(|(package, _)| *package).collect()
}

/// Installs Debian packages, each alone if they cannot be had together.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    if davit_test::find_tool("apt-get").is_none() {
        eprintln!("note: no apt-get here; not installed: {}", packages.join(" "));
        return Ok(());
    }
    process::run(apt().arg("update").stdout(Stdio::null()))?;
    if apt_install(packages).is_ok() {
        return Ok(());
    }
    for package in packages {
        if apt_install(&[package]).is_err() {
            eprintln!("note: the Debian package {package} cannot be had");
        }
    }
    Ok(())
}

/// Name of the Debian release that this machine runs; `stable` where it is another system.
pub(crate) fn release() -> String {
    let facts = fs_err::read_to_string("/etc/os-release").unwrap_or_default();
    let debian = facts.lines().any(|line| line == "ID=debian");
    let name = facts.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.filter(|_| debian).unwrap_or("stable").to_owned()
}

fn apt() -> Command {
    let mut command = process::as_root("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-o", "DPkg::Lock::Timeout=300"]);
    command
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let mut command = apt();
    command.args(["install", "--yes", "--no-install-recommends"]).args(packages);
    process::run(command.stdout(Stdio::null()))
}
