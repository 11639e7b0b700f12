//! Capabilities by name and as a 64-bit set.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Names in the kernel's order, without `CAP_` (`capability.h`, Linux 6.18).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// One capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability(u8);

/// A name that is no capability.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("unknown capability {0:?}")]
pub struct UnknownCapability(String);

impl Capability {
    /// May do what many operations of an administrator need, `seccomp` and mounts among them.
    pub const SYS_ADMIN: Self = Self(21);

    /// Every capability that davit knows.
    pub fn all() -> impl Iterator<Item = Self> {
        (0u8..).take(NAMES.len()).map(Self)
    }

    /// The bit number in kernel sets.
    pub fn bit(self) -> u8 {
        self.0
    }

    /// The kernel's name without `CAP_`.
    pub fn name(self) -> &'static str {
        NAMES[usize::from(self.0)]
    }
}

impl FromStr for Capability {
    type Err = UnknownCapability;

    /// Accepts any case, with or without `CAP_`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        Self::all()
            .find(|capability| capability.name() == name)
            .ok_or_else(|| UnknownCapability(text.to_owned()))
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CAP_{}", self.name())
    }
}

/// A set of capabilities: bounding, permitted and effective of a container; inheritable and ambient stay empty (CVE-2022-24769).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Capabilities(u64);

impl Capabilities {
    /// No capability.
    pub const NONE: Self = Self(0);

    /// Docker's fourteen.
    pub const DEFAULT: Self = Self(0xa804_25fb);

    /// All that davit knows; launching keeps those that the caller has itself.
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);

    /// The set with these bits; unknown ones are dropped.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// The bits as in `/proc/self/status`.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Whether the capability is in the set.
    pub fn contains(self, capability: Capability) -> bool {
        self.0 & (1 << capability.bit()) != 0
    }

    /// The set with one more.
    #[must_use]
    pub fn with(self, capability: Capability) -> Self {
        Self(self.0 | 1 << capability.bit())
    }

    /// The set without one.
    #[must_use]
    pub fn without(self, capability: Capability) -> Self {
        Self(self.0 & !(1 << capability.bit()))
    }

    /// Members in the kernel's order.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::all().filter(move |capability| self.contains(*capability))
    }

    /// Applies Docker's `--cap-add` and `--cap-drop` (names or `ALL`) as its daemon does (moby `TweakCapabilities`): with
    /// `add ALL` everything but the names in `drop`; with `drop ALL` only the names in `add`; else a name in `add` wins.
    ///
    /// # Errors
    /// An unknown name.
    pub fn adjust(self, add: &[String], drop: &[String]) -> Result<Self, UnknownCapability> {
        let (add_all, added) = parse_names(add)?;
        let (drop_all, dropped) = parse_names(drop)?;
        let set = match (add_all, drop_all) {
            (true, _) => Self::ALL.0 & !dropped,
            (false, true) => added,
            (false, false) => (self.0 & !dropped) | added,
        };
        Ok(Self(set))
    }
}

/// Whether `ALL` is among the names, and the set of the others.
fn parse_names(names: &[String]) -> Result<(bool, u64), UnknownCapability> {
    let mut all = false;
    let mut set = Capabilities::NONE;
    for name in names {
        if name.eq_ignore_ascii_case("all") {
            all = true;
        } else {
            set = set.with(name.parse()?);
        }
    }
    Ok((all, set.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_set_is_dockers() {
        let names: Vec<_> = Capabilities::DEFAULT.iter().map(Capability::name).collect();
        assert_eq!(
            names.join(" "),
            "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP"
        );
    }

    #[test]
    fn names_parse_in_every_spelling() {
        for text in ["SYS_ADMIN", "sys_admin", "CAP_SYS_ADMIN", "cap_sys_admin"] {
            assert_eq!(text.parse::<Capability>(), Ok(Capability::SYS_ADMIN), "{text}");
        }
        for text in ["", "CAP_", "ALL", "CAP_CAP_KILL", "SYS ADMIN"] {
            assert!(text.parse::<Capability>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn adjusting_follows_docker() {
        let owned =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let adjust = |add: &[&str], drop: &[&str]| {
            Capabilities::DEFAULT.adjust(&owned(add), &owned(drop)).map(Capabilities::bits)
        };
        assert_eq!(adjust(&[], &[]), Ok(0xa804_25fb));
        assert_eq!(adjust(&[], &["ALL"]), Ok(0));
        assert_eq!(adjust(&["net_admin"], &["all"]), Ok(1 << 12));
        assert_eq!(adjust(&["ALL"], &[]), Ok(Capabilities::ALL.bits()));
        assert_eq!(adjust(&["ALL"], &["ALL"]), Ok(Capabilities::ALL.bits()));
        assert_eq!(adjust(&["ALL"], &["CAP_MKNOD"]), Ok(Capabilities::ALL.bits() & !(1 << 27)));
        assert_eq!(adjust(&[], &["MKNOD"]), Ok(0xa004_25fb));
        assert!(adjust(&["NOPE"], &[]).is_err());
    }
}
