//! `cargo xtask vm`: the container, limit and snapshot suites on Debian's own kernels.
//!
//! Most hosts look like these: pure cgroup v2, kernel 6.1 or 6.12. Where KVM cannot be used they are
//! emulated, ten to twenty times slower. This shows correctness only and is no part of CI.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    packages, process,
    suite::{self, Binaries, Counts},
};

/// Debian releases by the kernel that they bring.
const KERNELS: &[(&str, &str)] = &[("6.1", "bookworm"), ("6.12", "trixie")];
/// Packages whose tests run in the guest, and which of their tests (all where none is named).
const SUITES: [(&str, &[&str]); 5] = [
    ("davit-runtime", &[]),
    ("davit-network", &[]),
    ("davit-snapshot", &[]),
    ("davit", &["containers", "flags", "network", "build::", "reset"]),
    ("davit-store", &[]),
];
const GUEST_PACKAGES: &str = "linux-image-cloud-amd64,initramfs-tools,iproute2,nftables,iptables,busybox-static,strace,attr,tar,xz-utils,zstd";
/// Longest run of one test binary in the guest, in seconds.
const SUITE_SECONDS: u32 = 3600;

/// Arguments of `cargo xtask vm`.
#[derive(Debug, clap::Args)]
pub(crate) struct VmArgs {
    /// Kernels to boot (6.1, 6.12; both where none is named)
    kernels: Vec<String>,
    /// Only tests whose name holds this text
    #[arg(long)]
    filter: Option<String>,
}

/// Boots each kernel and runs the suites in it.
pub(crate) fn run(args: &VmArgs) -> Result<()> {
    for kernel in &args.kernels {
        ensure!(KERNELS.iter().any(|(name, _)| name == kernel), "no kernel {kernel} here");
    }
    packages::install(&packages::missing(&[
        ("mmdebstrap", "/usr/bin/mmdebstrap"),
        ("qemu-system-x86", "/usr/bin/qemu-system-x86_64"),
        ("e2fsprogs", "/sbin/mke2fs"),
    ]))?;
    let packages = SUITES.map(|(package, _)| package);
    let binaries = suite::binaries(&packages)?;
    let mut failed = Vec::new();
    for (kernel, release) in KERNELS {
        if args.kernels.is_empty() || args.kernels.iter().any(|wanted| wanted == kernel) {
            println!("== Linux {kernel} ({release})");
            let guest = Guest::prepare(release, &binaries, args.filter.as_deref())?;
            if !guest.boot(binaries.tests.len())? {
                failed.push(*kernel);
            }
        }
    }
    if !failed.is_empty() {
        bail!("tests failed on Linux {}", failed.join(" and "));
    }
    Ok(())
}

struct Guest {
    folder: PathBuf,
}

impl Guest {
    /// Makes the guest's disk: Debian with its kernel, and the binaries at their own paths.
    fn prepare(release: &str, binaries: &Binaries, filter: Option<&str>) -> Result<Self> {
        let folder = process::cache_folder()?.join(format!("vm-{release}"));
        let root = folder.join("root");
        if !root.exists() {
            fs_err::create_dir_all(&folder)?;
            let fresh = folder.join("root.new");
            process::run(process::as_root("rm").arg("-rf").arg(&fresh))?;
            process::run(
                process::as_root("mmdebstrap")
                    .args(["--quiet", "--variant=minbase"])
                    .arg(format!("--include={GUEST_PACKAGES}"))
                    .arg(release)
                    .arg(&fresh),
            )?;
            process::run(process::as_root("mv").arg(fresh).arg(&root))?;
        }
        let guest = Self { folder };
        guest.write_disk(&root, binaries, filter)?;
        Ok(guest)
    }

    fn write_disk(&self, root: &Path, binaries: &Binaries, filter: Option<&str>) -> Result<()> {
        let overlay = self.folder.join("disk-root");
        process::run(process::as_root("rm").arg("-rf").arg(&overlay))?;
        process::run(
            process::as_root("cp").args(["--archive", "--reflink=auto"]).arg(root).arg(&overlay),
        )?;
        for file in &binaries.programs {
            put(&overlay, file)?;
        }
        for test in &binaries.tests {
            put(&overlay, &test.path)?;
            put_folder(&overlay, &test.folder.join("tests"))?;
        }
        if let Some(images) = suite::images() {
            let inside = overlay.join("images");
            process::run(process::as_root("cp").args(["--recursive"]).arg(images).arg(inside))?;
        }
        let init = self.folder.join("init");
        fs_err::write(&init, init_script(binaries, filter))?;
        process::run(
            process::as_root("install")
                .args(["-m", "755"])
                .arg(&init)
                .arg(overlay.join("davit-init")),
        )?;
        let disk = self.folder.join("disk.img");
        let file = fs_err::File::create(&disk)?;
        file.set_len(8 << 30)?;
        process::run(
            process::as_root("mke2fs")
                .args(["-q", "-F", "-t", "ext4", "-d"])
                .arg(&overlay)
                .arg(&disk),
        )?;
        process::run(process::as_root("rm").arg("-rf").arg(&overlay))
    }

    /// Boots the guest; tells whether every suite in it passed.
    fn boot(&self, suites: usize) -> Result<bool> {
        let mut child = self.qemu()?.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut console = BufReader::new(child.stdout.take().context("the console is piped")?);
        let (mut total, mut counted, mut skips) = (Counts::default(), 0, String::new());
        let mut line = Vec::new();
        while console.read_until(b'\n', &mut line)? > 0 {
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end();
            if let Some(counts) = suite::parse_counts(text) {
                total.add(&counts);
                counted += 1;
            }
            if let Some(skip) = text.strip_prefix("davit-skip: ") {
                skips += &format!("{skip}\n");
            } else if !text.ends_with("... ok") {
                println!("{text}");
            }
            line.clear();
        }
        child.wait()?;
        if counted < suites {
            println!("{} of {suites} suites ended without a count", suites - counted);
        }
        Ok(suite::report(total, &skips).is_ok() && counted == suites)
    }

    fn qemu(&self) -> Result<Command> {
        let boot = self.folder.join("root/boot");
        let mut command = process::as_root("qemu-system-x86_64");
        command.args(["-accel", if has_kvm()? { "kvm" } else { "tcg,thread=multi" }]);
        command.args(["-cpu", "max", "-smp", "2", "-m", "4096"]);
        command.args(["-nographic", "-no-reboot", "-nic", "none"]);
        command.arg("-kernel").arg(newest(&boot, "vmlinuz-")?);
        command.arg("-initrd").arg(newest(&boot, "initrd.img-")?);
        command.args(["-append", "root=/dev/vda rw console=ttyS0 quiet panic=-1 init=/davit-init"]);
        let disk = self.folder.join("disk.img");
        command
            .arg("-drive")
            .arg(format!("file={},if=virtio,format=raw,cache=unsafe", disk.display()));
        Ok(command)
    }
}

/// Whether the processor virtualizes: some virtual machines have a /dev/kvm that runs only kernels
/// made for it.
fn has_kvm() -> Result<bool> {
    let facts = fs_err::read_to_string("/proc/cpuinfo")?;
    let flags = facts.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let virtualizes = flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
    Ok(virtualizes && Path::new("/dev/kvm").exists())
}

/// Copies a file to its own path below `root`.
fn put(root: &Path, file: &Path) -> Result<()> {
    let inside = root.join(file.strip_prefix("/").context("binaries have absolute paths")?);
    process::run(process::as_root("install").arg("-D").arg(file).arg(inside))
}

/// Copies a folder, where there is one, to its own path below `root`.
fn put_folder(root: &Path, folder: &Path) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    let inside = root.join(folder.strip_prefix("/").context("manifests have absolute paths")?);
    process::run(process::as_root("mkdir").arg("-p").arg(&inside))?;
    process::run(process::as_root("cp").arg("-rT").arg(folder).arg(inside))
}

/// What the guest does instead of an init system.
fn init_script(binaries: &Binaries, filter: Option<&str>) -> String {
    let mut script = String::from(
        "#!/bin/sh\n\
         export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root\n\
         mount -t proc proc /proc; mount -t sysfs sysfs /sys 2>/dev/null; mount -t devtmpfs dev /dev 2>/dev/null\n\
         mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts; mount -t tmpfs tmpfs /dev/shm\n\
         mount -t cgroup2 cgroup2 /sys/fs/cgroup; mount -t tmpfs tmpfs /run\n\
         echo '+cpu +memory +pids' >/sys/fs/cgroup/cgroup.subtree_control\n\
         for module in overlay erofs loop veth bridge nf_tables nft_chain_nat nft_masq nft_fib_inet; do modprobe -q $module; done\n\
         ip link set lo up; hostname guest\n\
         export DAVIT_TEST_IMAGES=/images DAVIT_TEST_CACHE=/var/cache/davit-tests\n\
         export DAVIT_TEST_SKIPS=/skips; : >/skips\n\
         ln -s /bin/busybox /usr/local/bin/kill\n\
         echo \"davit-init: $(uname -r)\"\n",
    );
    for test in &binaries.tests {
        let named =
            SUITES.iter().find(|(package, _)| test.name.starts_with(&format!("{package}/")));
        let filters = match (filter, named) {
            (Some(filter), _) => filter.to_owned(),
            (None, Some((_, filters))) if test.name.ends_with("/it") => filters.join(" "),
            _ => String::new(),
        };
        script += &format!(
            "echo 'davit-init: {}'; export CARGO_MANIFEST_DIR={folder}; cd {folder}; \
             export INSTA_WORKSPACE_ROOT={folder}/../..; mkdir -p src; \
             timeout -k 9 {SUITE_SECONDS} {} {filters} </dev/null 2>&1 | cat\n",
            test.name,
            test.path.display(),
            folder = test.folder.display(),
        );
    }
    script += "sed 's/^/davit-skip: /' /skips; echo 'davit-init: done'; sync; \
               echo o > /proc/sysrq-trigger; sleep 60\n";
    script
}

fn newest(boot: &Path, prefix: &str) -> Result<PathBuf> {
    let mut found: Vec<PathBuf> = fs_err::read_dir(boot)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        })
        .collect();
    found.sort();
    found.pop().with_context(|| format!("{} holds no {prefix}*", boot.display()))
}
