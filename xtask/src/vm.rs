//! `cargo xtask vm`: the container, limit and snapshot suites on Debian's own kernels.
//!
//! Most hosts look like these: pure cgroup v2, kernel 6.1 or 6.12. They are emulated (QEMU TCG), so
//! this shows correctness only, ten to twenty times slower, and is no part of CI.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{packages, process, suite};

/// Debian releases by the kernel that they bring.
const KERNELS: &[(&str, &str)] = &[("6.1", "bookworm"), ("6.12", "trixie")];
/// Test binaries that are run in the guest.
const SUITES: &[&str] =
    &["davit-runtime", "davit-network", "davit-snapshot", "davit-store", "davit"];
const GUEST_PACKAGES: &str = "linux-image-cloud-amd64,initramfs-tools,iproute2,nftables,busybox-static,strace,attr,tar,xz-utils,zstd";

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
    let binaries = suite::binaries(SUITES)?;
    let mut failed = Vec::new();
    for (kernel, release) in KERNELS {
        if args.kernels.is_empty() || args.kernels.iter().any(|wanted| wanted == kernel) {
            println!("== Linux {kernel} ({release})");
            let guest = Guest::prepare(release, &binaries, args.filter.as_deref())?;
            if !guest.boot()? {
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
    fn prepare(release: &str, binaries: &[PathBuf], filter: Option<&str>) -> Result<Self> {
        let folder = davit_test::cache_dir().join(format!("vm-{release}"));
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

    fn write_disk(&self, root: &Path, binaries: &[PathBuf], filter: Option<&str>) -> Result<()> {
        let overlay = self.folder.join("disk-root");
        process::run(process::as_root("rm").arg("-rf").arg(&overlay))?;
        process::run(
            process::as_root("cp").args(["--archive", "--reflink=auto"]).arg(root).arg(&overlay),
        )?;
        for file in binaries {
            let inside =
                overlay.join(file.strip_prefix("/").context("binaries have absolute paths")?);
            process::run(process::as_root("install").arg("-D").arg(file).arg(inside))?;
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
    fn boot(&self) -> Result<bool> {
        let boot = self.folder.join("root/boot");
        let mut command = process::as_root("qemu-system-x86_64");
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "4096"]);
        command.args(["-nographic", "-no-reboot", "-nic", "none"]);
        command.arg("-kernel").arg(newest(&boot, "vmlinuz-")?);
        command.arg("-initrd").arg(newest(&boot, "initrd.img-")?);
        command.args(["-append", "root=/dev/vda rw console=ttyS0 quiet panic=-1 init=/davit-init"]);
        command
            .arg("-drive")
            .arg(format!("file={},if=virtio,format=raw", self.folder.join("disk.img").display()));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let console = BufReader::new(child.stdout.take().context("the console is piped")?);
        let (mut passed, mut failed) = (0_u64, 0_u64);
        let mut ended = false;
        for line in console.lines() {
            let line = line?;
            let line = line.trim_end_matches('\r');
            if let Some((good, bad)) = suite::passed_and_failed(line) {
                passed += good;
                failed += bad;
            }
            ended |= line == "davit-init: done";
            if !line.ends_with("... ok") {
                println!("{line}");
            }
        }
        child.wait()?;
        println!("{passed} passed, {failed} failed");
        Ok(ended && failed == 0 && passed > 0)
    }
}

/// What the guest does instead of an init system.
fn init_script(binaries: &[PathBuf], filter: Option<&str>) -> String {
    let mut script = String::from(
        "#!/bin/sh\n\
         export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root\n\
         mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev 2>/dev/null\n\
         mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts; mount -t tmpfs tmpfs /dev/shm\n\
         mount -t cgroup2 cgroup2 /sys/fs/cgroup; mount -t tmpfs tmpfs /run\n\
         for module in overlay erofs veth bridge nf_tables nft_chain_nat nft_masq nft_fib_inet; do modprobe -q $module; done\n\
         ip link set lo up; hostname guest\n\
         export DAVIT_TEST_IMAGES=/images DAVIT_TEST_CACHE=/var/cache/davit-tests\n\
         echo \"davit-init: $(uname -r)\"\n",
    );
    for binary in binaries.iter().filter(|path| path.display().to_string().contains("/deps/")) {
        let filter = filter.unwrap_or_default();
        script +=
            &format!("echo 'davit-init: {0}'; {0} {filter} </dev/null 2>&1\n", binary.display());
    }
    script += "echo 'davit-init: done'; sync; echo o > /proc/sysrq-trigger; sleep 60\n";
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
