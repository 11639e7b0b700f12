//! The device filter of a cgroup: a program of eBPF made from the rules, or the files of version 1.

use std::{io, os::fd::AsFd};

use super::CgroupError;
use super::directory::Directory;
use crate::plan::{DeviceKind, DeviceRule};

/// Bits of `bpf_cgroup_dev_ctx.access_type` (`linux/bpf.h`).
const TYPE_BLOCK: u32 = 1;
const TYPE_CHAR: u32 = 2;
const ACCESS_MKNOD: u32 = 1;
const ACCESS_READ: u32 = 2;
const ACCESS_WRITE: u32 = 4;
const ACCESS_ALL: u32 = 7;

/// Registers: result, scratch (first the context), type, access, major, minor.
const RESULT: u8 = 0;
const SCRATCH: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// Opcodes (`linux/bpf_common.h`, `linux/bpf.h`), 32 bits wide.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbc;
const MOVE_NUMBER: u8 = 0xb4;
const AND_NUMBER: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_UNEQUAL: u8 = 0x56;
const JUMP_EQUAL: u8 = 0x16;
const EXIT: u8 = 0x95;

/// One instruction (`struct bpf_insn`) as the number that it is in memory.
#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u8,
    destination: u8,
    source: u8,
    offset: i16,
    number: u32,
}

impl Instruction {
    const fn new(code: u8, destination: u8, number: u32) -> Self {
        Self { code, destination, source: 0, offset: 0, number }
    }

    fn encode(self) -> u64 {
        let registers = self.destination | (self.source << 4);
        let [low, high] = self.offset.to_le_bytes();
        let [a, b, c, d] = self.number.to_le_bytes();
        u64::from_le_bytes([self.code, registers, low, high, a, b, c, d])
    }
}

/// Loads the rules as a program and attaches it.
pub(super) fn attach(cgroup: &impl AsFd, rules: &[DeviceRule]) -> io::Result<()> {
    let instructions: Vec<u64> = program(rules).into_iter().map(Instruction::encode).collect();
    let program = davit_sys::bpf::load_device_filter(&instructions)?;
    davit_sys::bpf::attach_device_filter(cgroup, &program)
}

/// The last rule that matches decides, so it is asked first.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let load = |register, offset| Instruction {
        source: SCRATCH,
        offset,
        ..Instruction::new(LOAD_WORD, register, 0)
    };
    let mut program = vec![
        load(TYPE, 0),
        load(MAJOR, 4),
        load(MINOR, 8),
        Instruction { source: TYPE, ..Instruction::new(MOVE, ACCESS, 0) },
        Instruction::new(AND_NUMBER, TYPE, 0xffff),
        Instruction::new(SHIFT_RIGHT, ACCESS, 16),
    ];
    for rule in rules.iter().rev() {
        program.extend(one_rule(rule));
    }
    program.push(Instruction::new(MOVE_NUMBER, RESULT, 0));
    program.push(Instruction::new(EXIT, 0, 0));
    program
}

/// Checks that jump behind the rule if they fail, then its answer.
fn one_rule(rule: &DeviceRule) -> Vec<Instruction> {
    let mut checks = Vec::new();
    if let Some(kind) = rule.kind {
        let number = match kind {
            DeviceKind::Block => TYPE_BLOCK,
            DeviceKind::Char => TYPE_CHAR,
        };
        checks.push(Instruction::new(JUMP_UNEQUAL, TYPE, number));
    }
    let access = access_bits(rule);
    if access != ACCESS_ALL {
        checks.push(Instruction { source: ACCESS, ..Instruction::new(MOVE, SCRATCH, 0) });
        if rule.allow {
            // Everything that is wanted must be in the rule.
            checks.push(Instruction::new(AND_NUMBER, SCRATCH, ACCESS_ALL & !access));
            checks.push(Instruction::new(JUMP_UNEQUAL, SCRATCH, 0));
        } else {
            checks.push(Instruction::new(AND_NUMBER, SCRATCH, access));
            checks.push(Instruction::new(JUMP_EQUAL, SCRATCH, 0));
        }
    }
    if let Some(major) = rule.major {
        checks.push(Instruction::new(JUMP_UNEQUAL, MAJOR, major));
    }
    if let Some(minor) = rule.minor {
        checks.push(Instruction::new(JUMP_UNEQUAL, MINOR, minor));
    }
    let length = checks.len();
    for (index, check) in checks.iter_mut().enumerate() {
        if matches!(check.code, JUMP_UNEQUAL | JUMP_EQUAL) {
            // Over the rest of the checks and the two instructions of the answer.
            check.offset =
                i16::try_from(length - index + 1).expect("a rule has eight checks at most");
        }
    }
    checks.push(Instruction::new(MOVE_NUMBER, RESULT, u32::from(rule.allow)));
    checks.push(Instruction::new(EXIT, 0, 0));
    checks
}

fn access_bits(rule: &DeviceRule) -> u32 {
    [(rule.read, ACCESS_READ), (rule.write, ACCESS_WRITE), (rule.mknod, ACCESS_MKNOD)]
        .into_iter()
        .filter(|(is_set, _)| *is_set)
        .fold(0, |bits, (_, bit)| bits | bit)
}

/// The same by the `devices` controller of version 1.
pub(super) fn write_v1(directory: &Directory, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    directory.write("devices.deny", "a")?;
    for rule in rules {
        let file = if rule.allow { "devices.allow" } else { "devices.deny" };
        let kinds = match rule.kind {
            Some(DeviceKind::Block) => &["b"][..],
            Some(DeviceKind::Char) => &["c"],
            None => &["b", "c"],
        };
        for kind in kinds {
            directory.write(file, &v1_line(kind, rule))?;
        }
    }
    Ok(())
}

fn v1_line(kind: &str, rule: &DeviceRule) -> String {
    let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |n| n.to_string());
    let access: String = [(rule.read, 'r'), (rule.write, 'w'), (rule.mknod, 'm')]
        .into_iter()
        .filter_map(|(is_set, letter)| is_set.then_some(letter))
        .collect();
    format!("{kind} {}:{} {access}", number(rule.major), number(rule.minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn decide(rules: &[DeviceRule], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let program = program(rules);
        let context = [(access << 16) | kind, major, minor];
        let mut registers = [0_u32; 6];
        let mut at = 0;
        loop {
            let Instruction { code, destination, source, offset, number } = program[at];
            let (destination, source) = (usize::from(destination), usize::from(source));
            at += 1;
            let mut jump = |holds: bool| {
                if holds {
                    at += usize::try_from(offset).unwrap();
                }
            };
            match code {
                LOAD_WORD => {
                    registers[destination] = context[usize::try_from(offset).unwrap() / 4];
                }
                MOVE => registers[destination] = registers[source],
                MOVE_NUMBER => registers[destination] = number,
                AND_NUMBER => registers[destination] &= number,
                SHIFT_RIGHT => registers[destination] >>= number,
                JUMP_UNEQUAL => jump(registers[destination] != number),
                JUMP_EQUAL => jump(registers[destination] == number),
                EXIT => return registers[usize::from(RESULT)] == 1,
                _ => panic!("{code:#x}"),
            }
        }
    }

    #[test]
    fn dockers_defaults() {
        let rules = DeviceRule::defaults();
        let (read_write, mknod) = (ACCESS_READ | ACCESS_WRITE, ACCESS_MKNOD);
        for (kind, access, major, minor, expected) in [
            (TYPE_CHAR, read_write, 1, 3, true),
            (TYPE_CHAR, ACCESS_READ, 1, 9, true),
            (TYPE_CHAR, read_write, 136, 7, true),
            (TYPE_CHAR, read_write, 5, 2, true),
            (TYPE_CHAR, ACCESS_READ, 1, 1, false),
            (TYPE_CHAR, ACCESS_WRITE, 1, 11, false),
            (TYPE_BLOCK, ACCESS_READ, 8, 0, false),
            (TYPE_BLOCK, mknod, 8, 0, true),
            (TYPE_CHAR, mknod, 1, 1, true),
            (TYPE_CHAR, mknod | ACCESS_READ, 1, 1, false),
            (TYPE_CHAR, read_write, 10, 229, false),
        ] {
            let found = decide(&rules, kind, access, major, minor);
            assert_eq!(found, expected, "{kind} {access} {major}:{minor}");
        }
    }

    #[test]
    fn a_later_rule_wins() {
        let all = DeviceRule::allow(None, None, None);
        let no_write = DeviceRule {
            allow: false,
            read: false,
            mknod: false,
            ..DeviceRule::allow(Some(DeviceKind::Block), Some(8), None)
        };
        let rules = [all, no_write];
        assert!(decide(&rules, TYPE_BLOCK, ACCESS_READ, 8, 1));
        assert!(!decide(&rules, TYPE_BLOCK, ACCESS_READ | ACCESS_WRITE, 8, 1));
        assert!(decide(&rules, TYPE_BLOCK, ACCESS_WRITE, 9, 1));
        assert!(!decide(&[], TYPE_CHAR, ACCESS_READ, 1, 3));
    }

    #[test]
    fn the_words_of_version_1() {
        let rule = DeviceRule { mknod: false, ..DeviceRule::allow(None, Some(1), None) };
        assert_eq!(v1_line("c", &rule), "c 1:* rw");
    }
}
