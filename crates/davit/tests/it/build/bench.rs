//! A davit with a context directory, and what tests of builds look at.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use davit_test::{Davit, Outcome};
use serde_json::Value;

use crate::davit;

/// A davit with a context directory.
pub(crate) struct Bench {
    pub(crate) davit: Davit,
    pub(crate) context: PathBuf,
}

impl Bench {
    pub(crate) fn new(files: &[(&str, &str)]) -> Option<Self> {
        if !davit_test::need_root() {
            return None;
        }
        let davit = davit();
        let context = davit.dir().join("context");
        let bench = Self { davit, context };
        fs::create_dir_all(&bench.context).unwrap();
        files.iter().for_each(|(path, content)| bench.write(path, content));
        Some(bench)
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        let path = self.context.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn run(&self, args: &[&str]) -> Outcome {
        let context = self.context.to_str().unwrap();
        // Commands that need a network are tested on a machine of their own.
        let fixed = ["build", "--progress", "plain", "--network", "none"];
        let all = fixed.iter().chain(args).chain([&context]);
        self.davit.run(all)
    }

    /// Builds with `-` as context and `input` there.
    pub(crate) fn feed(&self, input: &[u8], args: &[&str]) -> Outcome {
        let fixed = ["build", "--progress", "plain", "--network", "none"];
        let mut command = self.davit.command(fixed.iter().chain(args).chain([&"-"]));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            // A refused input may be left unread.
            let _unread = stdin.write_all(&input);
        });
        let outcome = Outcome::from(child.wait_with_output().unwrap());
        writer.join().unwrap();
        outcome
    }

    /// Builds; gives the image's config.
    pub(crate) fn build(&self, args: &[&str]) -> Value {
        let outcome = self.run(args);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        self.config(&outcome)
    }

    pub(crate) fn config(&self, outcome: &Outcome) -> Value {
        let id = outcome.stderr.split("Built sha256:").nth(1).unwrap().get(..64).unwrap();
        let bytes = fs::read(self.davit.root().join("blobs/sha256").join(id)).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    /// Builds and exports the files.
    pub(crate) fn files(&self, args: &[&str]) -> PathBuf {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let target = self.davit.dir().join(format!("out-{number}"));
        let spec = format!("type=local,dest={}", target.display());
        let outcome = self.run(&[args, &["-o", &spec]].concat());
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        target
    }
}

/// What a build exports, its owners kept: they are in a tar alone.
pub(crate) fn with_owners(davit: &Davit, build: impl Fn(&str) -> Outcome) -> Option<PathBuf> {
    let tool = davit_test::need_tool("tar")?;
    let target = davit.dir().join("owned");
    let tar = davit.dir().join("owned.tar");
    let outcome = build(&format!("type=tar,dest={}", tar.display()));
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let _absent = fs::remove_dir_all(&target);
    fs::create_dir(&target).unwrap();
    let mut command = Command::new(tool);
    command.args(["--numeric-owner", "-xpf"]).arg(&tar).arg("-C").arg(&target);
    assert!(command.status().unwrap().success());
    Some(target)
}

/// Every path below a directory: `PATH MODE CONTENT`, directories with `/`, symlinks with `->`.
pub(crate) fn list(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut stack = vec![root.to_path_buf()];
    while let Some(directory) = stack.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let stat = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(root).unwrap().display();
            let mode = stat.mode() & 0o7777;
            if stat.is_dir() {
                lines.push(format!("{name}/ {mode:o}"));
                stack.push(path);
            } else if stat.is_symlink() {
                lines.push(format!("{name} -> {}", fs::read_link(&path).unwrap().display()));
            } else {
                let content = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
                lines.push(format!("{name} {mode:o} {}", content.trim_end()));
            }
        }
    }
    lines.sort();
    lines
}

/// One file of a tar.
pub(crate) fn tar_file(name: &str, content: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[156] = b'0';
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum::<u32>() + 8 * 32;
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut bytes = block.to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// A bench whose Dockerfiles begin with Alpine's files.
pub(crate) fn alpine(dockerfile: &str) -> Option<Bench> {
    let archive = davit_test::need_image("alpine-minirootfs-3.20.3-x86_64.tar.gz")?;
    let bench = Bench::new(&[])?;
    fs::copy(archive, bench.context.join("alpine.tar.gz")).unwrap();
    bench
        .write("Dockerfile", &format!("FROM scratch AS alpine\nADD alpine.tar.gz /\n{dockerfile}"));
    Some(bench)
}
