//! What a filter says, before numbers: names of system calls, conditions on arguments, actions.

use std::borrow::Cow;

use super::architecture::Architecture;

/// What happens to a system call (`linux/seccomp.h` `SECCOMP_RET_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    Errno(u16),
    KillProcess,
    KillThread,
    Trap,
    Trace(u16),
    Log,
}

impl Action {
    /// The filter's return value.
    pub(super) fn value(self) -> u32 {
        match self {
            Self::KillProcess => 0x8000_0000,
            Self::KillThread => 0,
            Self::Trap => 0x0003_0000,
            Self::Errno(number) => 0x0005_0000 | u32::from(number),
            Self::Trace(number) => 0x7ff0_0000 | u32::from(number),
            Self::Log => 0x7ffc_0000,
            Self::Allow => 0x7fff_0000,
        }
    }
}

/// Comparison of an argument, unsigned and 64 bits wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    /// `argument & mask == value`.
    Masked {
        mask: u64,
        value: u64,
    },
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0 to 5.
    pub(super) argument: u8,
    pub(super) comparison: Comparison,
}

/// What happens to some system calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule<'a> {
    pub(super) names: Vec<Cow<'a, str>>,
    /// All must hold; none = always.
    pub(super) conditions: Vec<Condition>,
    pub(super) action: Action,
}

/// A filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rules<'a> {
    /// For what no rule matches.
    pub(super) default: Action,
    pub(super) architectures: Vec<Architecture>,
    pub(super) rules: Vec<Rule<'a>>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub(super) flags: u32,
}
