//! Programs for another instruction set: the kernel executes an interpreter in their place
//! (`Documentation/admin-guide/binfmt-misc.rst`).
//!
//! The interpreter lies outside the container's root filesystem, so only one that the kernel has
//! opened when it was registered (flag `F`) counts. Where the machine has registered none, a static
//! one of `PATH` is registered for the container alone, in a user namespace of its own (Linux 6.7):
//! see [`Emulator`].

use std::{
    ffi::CString,
    io::Read as _,
    path::{Path, PathBuf},
};

use davit_image::Platform;
use serde::{Deserialize, Serialize};

/// Where the kernel shows what is registered; one file each.
const REGISTERED: &str = "/proc/sys/fs/binfmt_misc";
/// Bytes of a program's beginning that the kernel compares.
const HEAD: usize = 128;
/// Bytes of it that tell an architecture.
const COMPARED: usize = 20;
/// `ET_EXEC` of elf.h.
const EXECUTABLE: u16 = 2;

/// Architectures of which a program's beginning is known.
const ARCHITECTURES: [&str; 10] = [
    "amd64", "arm64", "386", "arm", "loong64", "mips64", "mips64le", "ppc64le", "riscv64", "s390x",
];

/// Where emulators are looked for if nobody says where.
const DIRECTORIES: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];
/// Bytes at the beginning of a program in which its segments are listed.
const HEADERS: usize = 4096;
/// `PT_INTERP` of elf.h: the program needs another one, which a container does not have.
const INTERPRETED: u32 = 3;
/// The first kernel in which a user namespace has interpreters of its own.
const PRIVATE_SINCE: (u32, u32) = (6, 7);
/// Delimiters of a registration; any that its path does not hold.
const DELIMITERS: [u8; 4] = *b":|,;";

/// A static program that executes those of another architecture, for one container alone.
///
/// The container's processes are in a user namespace, in which all users and groups are themselves.
/// What they own and may do is the same as without it, but for what only the machine's own root may:
/// to make device nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emulator {
    /// What the programs are for, in Go's words (`arm64`).
    pub architecture: String,
    /// The emulator, an absolute path of the machine.
    pub program: PathBuf,
}

/// How programs for a platform are executed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Execution {
    /// By the processor, or by what the machine has registered.
    Machine,
    /// By an emulator that is registered for each container.
    Private(Emulator),
    /// Not at all.
    Impossible(Impossible),
}

/// Why programs for a platform cannot be executed here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// There is no emulator.
    #[error("there is no emulator for {architecture}")]
    NoEmulator {
        /// What the programs are for.
        architecture: String,
    },
    /// Only the machine could register it.
    #[error("{} is not registered, and only since Linux 6.7 can it be for one container", .0.display())]
    OldKernel(PathBuf),
    /// No system that could be emulated.
    #[error("it is for {0}")]
    System(String),
}

impl Impossible {
    /// What helps.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoEmulator { architecture } => qemu_name(architecture).map(|name| {
                format!(
                    "install Debian's qemu-user-static or another static `{name}`, or register one \
                     with the flag F in binfmt_misc"
                )
            }),
            Self::OldKernel(_) => Some(
                "register it with the flag F in binfmt_misc; Debian's qemu-user-binfmt does it"
                    .to_owned(),
            ),
            Self::System(_) => None,
        }
    }
}

/// How programs for a platform are executed; emulators are looked for in `directories`, or where
/// programs usually are.
#[must_use]
pub fn execution(platform: &Platform, directories: &[PathBuf]) -> Execution {
    let (host, wanted) = (Platform::host(), platform.normalized());
    if wanted.os != host.os {
        return Execution::Impossible(Impossible::System(wanted.os));
    }
    let own = match host.architecture.as_str() {
        "amd64" => &["amd64", "386"][..],
        "arm64" => &["arm64", "arm"],
        other => &[other],
    };
    let architecture = wanted.architecture;
    if own.contains(&architecture.as_str()) || has_emulator(&architecture) {
        return Execution::Machine;
    }
    match find(&architecture, directories) {
        None => Execution::Impossible(Impossible::NoEmulator { architecture }),
        Some(program) if is_private_possible() => {
            Execution::Private(Emulator { architecture, program })
        }
        Some(program) => Execution::Impossible(Impossible::OldKernel(program)),
    }
}

/// Platforms whose programs are executed here: the host's, then its older kin and those with an
/// emulator.
#[must_use]
pub fn runnable(directories: &[PathBuf]) -> Vec<Platform> {
    let host = Platform::host();
    let can_run =
        |platform: &Platform| !matches!(execution(platform, directories), Execution::Impossible(_));
    let others = ARCHITECTURES.iter().map(|name| Platform::new(&host.os, name));
    let others = others.filter(|it| it.architecture != host.architecture && can_run(it));
    [host.clone()].into_iter().chain(others).collect()
}

fn is_private_possible() -> bool {
    davit_sys::release::running().is_some_and(|release| release >= PRIVATE_SINCE)
}

/// QEMU's name of the emulator for an architecture.
fn qemu_name(architecture: &str) -> Option<String> {
    let name = match architecture {
        "386" => "i386",
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "loong64" => "loongarch64",
        "mips64le" => "mips64el",
        known if ARCHITECTURES.contains(&known) => known,
        _ => return None,
    };
    Some(format!("qemu-{name}-static"))
}

/// A static emulator for an architecture.
fn find(architecture: &str, directories: &[PathBuf]) -> Option<PathBuf> {
    let name = qemu_name(architecture)?;
    // Newer packages have static ones under the plain name.
    let names = [name.as_str(), name.trim_end_matches("-static")];
    let usual = DIRECTORIES.map(PathBuf::from);
    let directories = if directories.is_empty() { &usual } else { directories };
    let places = directories.iter().filter(|directory| directory.is_absolute());
    places
        .flat_map(|directory| names.map(|name| directory.join(name)))
        .filter_map(|path| fs_err::canonicalize(path).ok())
        .find(|path| is_static(path))
}

/// Whether a file is a program of this machine's byte order that needs no other file.
fn is_static(path: &Path) -> bool {
    let mut head = Vec::new();
    let Ok(file) = fs_err::File::open(path) else { return false };
    if !file.metadata().is_ok_and(|facts| facts.is_file()) {
        return false;
    }
    if file.take(HEADERS as u64).read_to_end(&mut head).is_err()
        || !head.starts_with(b"\x7fELF\x02")
    {
        return false;
    }
    let number = |at: usize, length: usize| {
        let bytes = head.get(at..at.checked_add(length)?)?;
        Some(bytes.iter().rev().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte)))
    };
    // e_phoff, e_phentsize and e_phnum of a 64-bit program, little endian.
    let (Some(start), Some(size), Some(count)) = (number(32, 8), number(54, 2), number(56, 2))
    else {
        return false;
    };
    let kind = |at: usize| number(start.checked_add(at.checked_mul(size)?)?, 4);
    count > 0 && (0..count).all(|at| kind(at).is_some_and(|kind| kind != INTERPRETED as usize))
}

impl Emulator {
    /// What is written to `register`: magic and mask of its programs, and flags. `None` for an
    /// unknown architecture or a path that no registration can have.
    ///
    /// `P` keeps the name that a program was called by, `C` and `O` let set-user-ID programs be, `F`
    /// opens the emulator now.
    pub(crate) fn registration(&self) -> Option<Vec<u8>> {
        use std::os::unix::ffi::OsStrExt as _;
        let head = program_head(&self.architecture)?;
        let path = self.program.as_os_str().as_bytes();
        let is_free = |delimiter: &&u8| !path.contains(delimiter);
        let delimiter = char::from(*DELIMITERS.iter().find(is_free)?);
        let is_little = head[5] == 1;
        let mut mask = [0xff; COMPARED];
        // Whatever system it says it is for, and programs that can be anywhere.
        mask[7] = 0;
        mask[if is_little { 16 } else { 17 }] = 0xfe;
        let hex =
            |bytes: &[u8]| bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
        let (magic, mask) = (hex(&head[..COMPARED]), hex(&mask));
        let fields = ["", "davit", "M", "", &magic, &mask, ""].join(&delimiter.to_string());
        let mut line = fields.into_bytes();
        line.extend(path);
        line.extend(format!("{delimiter}POCF").bytes());
        Some(line)
    }

    /// The emulator's path for the kernel.
    pub(crate) fn path(&self) -> Option<CString> {
        use std::os::unix::ffi::OsStrExt as _;
        CString::new(self.program.as_os_str().as_bytes()).ok()
    }
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
        assert_eq!(execution(&Platform::host(), &[]), Execution::Machine);
        for (os, architecture) in [("plan9", "amd64"), ("linux", "pdp11")] {
            let found = execution(&Platform::new(os, architecture), &[]);
            assert!(matches!(found, Execution::Impossible(_)), "{found:?}");
        }
    }

    #[test]
    fn a_registration_takes_the_programs_of_its_architecture() {
        for architecture in ARCHITECTURES {
            let program = PathBuf::from("/opt/a:b/qemu");
            let emulator = Emulator { architecture: architecture.to_owned(), program };
            let line = String::from_utf8(emulator.registration().unwrap()).unwrap();
            let fields: Vec<&str> = line.split('|').collect();
            assert_eq!(
                (fields[1..4].join(" "), fields[6]),
                ("davit M ".to_owned(), "/opt/a:b/qemu")
            );
            assert_eq!(fields[7], "POCF");
            let plain = |field: &str| field.replace("\\x", "");
            let shown = format!(
                "enabled\ninterpreter /q\nflags: F\noffset 0\nmagic {}\nmask {}\n",
                plain(fields[4]),
                plain(fields[5])
            );
            for other in ARCHITECTURES {
                let mut head = program_head(other).unwrap();
                assert_eq!(takes(&shown, &head), other == architecture, "{other}: {line}");
                // ET_DYN, and another system's mark.
                head[if head[5] == 1 { 16 } else { 17 }] = 3;
                head[7] = 3;
                assert_eq!(takes(&shown, &head), other == architecture, "{other}: {line}");
            }
        }
    }

    #[test]
    fn an_emulator_is_static() {
        let temp = davit_test::TempDir::new();
        let mut program = [0_u8; 64 + 2 * 56];
        program[..6].copy_from_slice(b"\x7fELF\x02\x01");
        program[32] = 64;
        program[54] = 56;
        program[56] = 2;
        let write = |bytes: &[u8]| fs_err::write(temp.join("qemu-aarch64"), bytes).unwrap();
        let found = || find("arm64", &[PathBuf::from("."), temp.path().to_path_buf()]);
        for (kind, length, expected) in
            [(1, 176, true), (3, 176, false), (1, 100, false), (1, 3, false)]
        {
            program[64 + 56] = kind;
            write(&program[..length]);
            assert_eq!(found().is_some(), expected, "{kind} {length}");
        }
        assert_eq!(find("riscv64", &[temp.path().to_path_buf()]), None);
    }
}
