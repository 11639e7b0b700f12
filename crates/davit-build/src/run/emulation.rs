//! Commands for another instruction set: they run where the kernel has an interpreter for them
//! (`Documentation/admin-guide/binfmt-misc.rst`).
//!
//! The interpreter lies outside the step's root filesystem, so only one that the kernel has opened
//! when it was registered (flag `F`) counts.

use std::path::Path;

use davit_image::Platform;

/// Where the kernel shows what is registered; one file each.
const REGISTERED: &str = "/proc/sys/fs/binfmt_misc";
/// Bytes of a program's beginning that the kernel compares.
const HEAD: usize = 128;
/// `ET_EXEC` of elf.h.
const EXECUTABLE: u16 = 2;

/// Architectures of which a program's beginning is known.
const ARCHITECTURES: [&str; 10] = [
    "amd64", "arm64", "386", "arm", "loong64", "mips64", "mips64le", "ppc64le", "riscv64", "s390x",
];

/// Whether commands for a platform can run here.
pub(crate) fn can_run(platform: &Platform) -> bool {
    let (host, wanted) = (Platform::host(), platform.normalized());
    let own = match host.architecture.as_str() {
        "amd64" => &["amd64", "386"][..],
        "arm64" => &["arm64", "arm"],
        other => &[other],
    };
    wanted.os == host.os
        && (own.contains(&wanted.architecture.as_str()) || has_emulator(&wanted.architecture))
}

/// Platforms whose commands can run here: the host's, then its older kin and those with an emulator.
#[must_use]
pub fn runnable() -> Vec<Platform> {
    let host = Platform::host();
    let others = ARCHITECTURES.iter().map(|name| Platform::new(&host.os, name));
    let others = others.filter(|it| it.architecture != host.architecture && can_run(it));
    [host.clone()].into_iter().chain(others).collect()
}

fn has_emulator(architecture: &str) -> bool {
    let Some(head) = program_head(architecture) else { return false };
    let files = fs_err::read_dir(Path::new(REGISTERED)).into_iter().flatten().flatten();
    files
        .filter(|file| !matches!(file.file_name().to_str(), Some("register" | "status")))
        .filter_map(|file| fs_err::read_to_string(file.path()).ok())
        .any(|entry| takes(&entry, &head))
}

/// The beginning of an ELF program for an architecture.
fn program_head(architecture: &str) -> Option<[u8; HEAD]> {
    // (64 bits, little endian, number of the machine) of elf.h.
    let (is_64, is_little, machine): (bool, bool, u16) = match architecture {
        "386" => (false, true, 3),
        "amd64" => (true, true, 62),
        "arm" => (false, true, 40),
        "arm64" => (true, true, 183),
        "loong64" => (true, true, 258),
        "mips64" => (true, false, 8),
        "mips64le" => (true, true, 8),
        "ppc64le" => (true, true, 21),
        "riscv64" => (true, true, 243),
        "s390x" => (true, false, 22),
        _ => return None,
    };
    let mut head = [0; HEAD];
    head[..4].copy_from_slice(b"\x7fELF");
    head[4] = if is_64 { 2 } else { 1 };
    head[5] = if is_little { 1 } else { 2 };
    head[6] = 1;
    for (at, number) in [(16, EXECUTABLE), (18, machine)] {
        let bytes = if is_little { number.to_le_bytes() } else { number.to_be_bytes() };
        head[at..at + 2].copy_from_slice(&bytes);
    }
    Some(head)
}

/// Whether a registered interpreter, as the kernel shows it, gets programs that begin so, whatever
/// is in their root filesystem.
fn takes(entry: &str, head: &[u8; HEAD]) -> bool {
    let field = |name: &str| entry.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let is_open = field("flags:").is_some_and(|flags| flags.contains('F'));
    let offset: usize = field("offset ").and_then(|text| text.parse().ok()).unwrap_or(0);
    let Some(magic) = field("magic ").and_then(bytes) else { return false };
    let mask = field("mask ").and_then(bytes).unwrap_or_else(|| vec![0xff; magic.len()]);
    let Some(part) = head.get(offset..).and_then(|rest| rest.get(..magic.len())) else {
        return false;
    };
    let equal = |((own, magic), mask): ((&u8, &u8), &u8)| own & mask == magic & mask;
    is_open
        && entry.starts_with("enabled")
        && mask.len() == magic.len()
        && part.iter().zip(&magic).zip(&mask).all(equal)
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let pair = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARM64: &str = "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: F\noffset 0\n\
        magic 7f454c460201010000000000000000000200b700\n\
        mask ffffffffffffff00fffffffffffffffffeffffff\n";

    #[test]
    fn an_interpreter_is_for_the_programs_that_it_matches() {
        let head = |name: &str| program_head(name).unwrap();
        assert!(takes(ARM64, &head("arm64")));
        for other in ["amd64", "arm", "riscv64", "s390x", "386"] {
            assert!(!takes(ARM64, &head(other)), "{other}");
        }
        for (from, to) in [
            ("enabled", "disabled"),
            ("flags: F", "flags: OC"),
            ("offset 0", "offset 1"),
            ("magic 7f", "magic 7"),
            ("magic", "extension .x\nno"),
            ("mask ff", "mask "),
        ] {
            let entry = ARM64.replace(from, to);
            assert!(!takes(&entry, &head("arm64")), "{entry}");
        }
    }

    #[test]
    fn what_the_machine_is_needs_no_interpreter() {
        assert!(can_run(&Platform::host()));
        assert!(!can_run(&Platform::new("plan9", "amd64")));
        assert!(!can_run(&Platform::new("linux", "pdp11")));
    }
}
