//! System call numbers per architecture.

use syscalls::{aarch64, arm, x86, x86_64};

/// An ABI of system calls that the kernel tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Architecture {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

/// `__X32_SYSCALL_BIT`.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// Names whose number in x32 is not that of x86_64 (`syscall_64.tbl`, the x32 section from 512 on).
const X32_OWN: [(&str, u32); 36] = [
    ("rt_sigaction", 512),
    ("rt_sigreturn", 513),
    ("ioctl", 514),
    ("readv", 515),
    ("writev", 516),
    ("recvfrom", 517),
    ("sendmsg", 518),
    ("recvmsg", 519),
    ("execve", 520),
    ("ptrace", 521),
    ("rt_sigpending", 522),
    ("rt_sigtimedwait", 523),
    ("rt_sigqueueinfo", 524),
    ("sigaltstack", 525),
    ("timer_create", 526),
    ("mq_notify", 527),
    ("kexec_load", 528),
    ("waitid", 529),
    ("set_robust_list", 530),
    ("get_robust_list", 531),
    ("vmsplice", 532),
    ("move_pages", 533),
    ("preadv", 534),
    ("pwritev", 535),
    ("rt_tgsigqueueinfo", 536),
    ("recvmmsg", 537),
    ("sendmmsg", 538),
    ("process_vm_readv", 539),
    ("process_vm_writev", 540),
    ("setsockopt", 541),
    ("getsockopt", 542),
    ("io_setup", 543),
    ("io_submit", 544),
    ("execveat", 545),
    ("preadv2", 546),
    ("pwritev2", 547),
];

/// Names that x32 does not have at all (`syscall_64.tbl`, marked `64`).
const NOT_IN_X32: [&str; 13] = [
    "uselib",
    "_sysctl",
    "create_module",
    "get_kernel_syms",
    "query_module",
    "nfsservctl",
    "set_thread_area",
    "get_thread_area",
    "epoll_ctl_old",
    "epoll_wait_old",
    "vserver",
    "uretprobe",
    "map_shadow_stack",
];

/// Private calls of arm (`__ARM_NR_BASE` + n), which the tables lack.
const ARM_OWN: [(&str, u32); 6] = [
    ("breakpoint", 0xf_0001),
    ("cacheflush", 0xf_0002),
    ("usr26", 0xf_0003),
    ("usr32", 0xf_0004),
    ("set_tls", 0xf_0005),
    ("sync_file_range2", 341),
];

impl Architecture {
    /// The architecture of this program and those that its kernel also runs, as Docker's
    /// `archMap` has them.
    pub(super) fn native() -> Vec<Self> {
        if cfg!(target_arch = "aarch64") {
            vec![Self::Aarch64, Self::Arm]
        } else {
            vec![Self::X86_64, Self::X86, Self::X32]
        }
    }

    /// The name in `libseccomp`'s spelling.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "SCMP_ARCH_X86_64" => Self::X86_64,
            "SCMP_ARCH_X86" => Self::X86,
            "SCMP_ARCH_X32" => Self::X32,
            "SCMP_ARCH_AARCH64" => Self::Aarch64,
            "SCMP_ARCH_ARM" => Self::Arm,
            _ => return None,
        })
    }

    /// The name in Go's spelling, as in `includes.arches`.
    pub(super) fn go_name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::X86 => "x86",
            Self::X32 => "x32",
            Self::Aarch64 => "arm64",
            Self::Arm => "arm",
        }
    }

    /// `AUDIT_ARCH_*`, the `arch` of the kernel's data.
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Every system call by name and number.
    pub(super) fn calls(self) -> Vec<(&'static str, u32)> {
        let number = |id: i32| id.unsigned_abs();
        match self {
            Self::X86_64 => {
                x86_64::Sysno::iter().map(|call| (call.name(), number(call.id()))).collect()
            }
            Self::X86 => x86::Sysno::iter().map(|call| (call.name(), number(call.id()))).collect(),
            Self::Aarch64 => {
                aarch64::Sysno::iter().map(|call| (call.name(), number(call.id()))).collect()
            }
            Self::Arm => {
                let table = arm::Sysno::iter().map(|call| (call.name(), number(call.id())));
                table.filter(|call| call.1 < 0xf_0000).chain(ARM_OWN).collect()
            }
            Self::X32 => x86_64::Sysno::iter()
                .map(|call| (call.name(), number(call.id())))
                .filter(|(name, _)| !X32_OWN.iter().any(|(own, _)| own == name))
                .filter(|(name, _)| !NOT_IN_X32.contains(name))
                .chain(X32_OWN)
                .map(|(name, number)| (name, number | X32_BIT))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        let number = |architecture: Architecture, name: &str| {
            let calls = architecture.calls();
            calls.into_iter().find(|call| call.0 == name).map(|call| call.1)
        };
        for (architecture, name, expected) in [
            (Architecture::X86_64, "openat2", Some(437)),
            (Architecture::X86_64, "socketcall", None),
            (Architecture::X86, "socketcall", Some(102)),
            (Architecture::X86, "clone3", Some(435)),
            (Architecture::X32, "read", Some(0x4000_0000)),
            (Architecture::X32, "execve", Some(0x4000_0208)),
            (Architecture::Aarch64, "clone", Some(220)),
            (Architecture::Arm, "set_tls", Some(0xf_0005)),
            (Architecture::Arm, "clone", Some(120)),
        ] {
            assert_eq!(number(architecture, name), expected, "{architecture:?} {name}");
        }
    }
}
