//! Runs filters as the kernel does, and checks what they decide.

use std::process::Command;

use super::architecture::Architecture;
use super::compile::{
    AND, JUMP, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_EQUAL, LOAD, RETURN, compile,
};
use super::*;

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const KILL: u32 = 0x8000_0000;

/// Evaluates the filter; also returns how many instructions that took.
fn run(program: &[Instruction], audit: u32, number: u32, arguments: [u64; 6]) -> (u32, usize) {
    let load = |offset: u32| match offset {
        0 => number,
        4 => audit,
        8 | 12 => 0,
        _ => {
            let index = usize::try_from((offset - 16) / 8).unwrap();
            u32::try_from(arguments[index] >> (8 * (offset % 8)) & 0xffff_ffff).unwrap()
        }
    };
    let (mut accumulator, mut at, mut steps) = (0, 0, 0);
    loop {
        let Instruction { code, jump_true, jump_false, operand } = program[at];
        steps += 1;
        at += 1;
        let jump = |holds: bool| usize::from(if holds { jump_true } else { jump_false });
        match code {
            LOAD => accumulator = load(operand),
            AND => accumulator &= operand,
            JUMP => at += usize::try_from(operand).unwrap(),
            JUMP_EQUAL => at += jump(accumulator == operand),
            JUMP_GREATER => at += jump(accumulator > operand),
            JUMP_GREATER_EQUAL => at += jump(accumulator >= operand),
            RETURN => return (operand, steps),
            _ => panic!("unknown code {code:#x}"),
        }
    }
}

fn number(architecture: Architecture, name: &str) -> u32 {
    let calls = architecture.calls();
    calls.into_iter().find(|call| call.0 == name).unwrap_or_else(|| panic!("{name}")).1
}

fn decide(
    program: &[Instruction],
    architecture: Architecture,
    name: &str,
    arguments: &[u64],
) -> u32 {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    run(program, architecture.audit(), number(architecture, name), all).0
}

const X86_64: Architecture = Architecture::X86_64;

#[test]
#[cfg(target_arch = "x86_64")]
fn default_profile_decides_as_dockers() {
    let filter = filter(&Profile::Default, Capabilities::DEFAULT).unwrap().unwrap();
    let program = filter.instructions();
    for (architecture, name, arguments, expected) in [
        (X86_64, "read", &[][..], ALLOW),
        (X86_64, "statmount", &[], ALLOW),
        (X86_64, "ptrace", &[], ALLOW),
        (X86_64, "chroot", &[], ALLOW),
        (X86_64, "mount", &[], EPERM),
        (X86_64, "unshare", &[], EPERM),
        (X86_64, "keyctl", &[], EPERM),
        (X86_64, "bpf", &[], EPERM),
        (X86_64, "io_uring_setup", &[], EPERM),
        (X86_64, "userfaultfd", &[], EPERM),
        (X86_64, "clone3", &[], ENOSYS),
        (X86_64, "clone", &[0x1200011], ALLOW),
        (X86_64, "clone", &[0x1000_0000 | 17], EPERM),
        (X86_64, "clone", &[0x0002_0000 | 17], EPERM),
        (X86_64, "clone", &[0x1_0000_0000], ALLOW),
        (X86_64, "socket", &[2], ALLOW),
        (X86_64, "socket", &[38], EPERM),
        (X86_64, "socket", &[39], ALLOW),
        (X86_64, "socket", &[40], EPERM),
        (X86_64, "socket", &[41], ALLOW),
        (X86_64, "personality", &[0xffff_ffff], ALLOW),
        (X86_64, "personality", &[0x0004_0000], EPERM),
        (X86_64, "personality", &[0x1_0000_0000], EPERM),
        (X86_64, "arch_prctl", &[], ALLOW),
        (Architecture::X86, "socketcall", &[], ALLOW),
        (Architecture::X86, "mount", &[], EPERM),
        (Architecture::X86, "clone3", &[], ENOSYS),
        (Architecture::X32, "execve", &[], ALLOW),
        (Architecture::X32, "mount", &[], EPERM),
    ] {
        let found = decide(program, architecture, name, arguments);
        assert_eq!(found, expected, "{architecture:?} {name} {arguments:?}");
    }
    assert_eq!(run(program, X86_64.audit(), 9999, [0; 6]).0, ENOSYS);
    assert_eq!(run(program, X86_64.audit(), u32::MAX, [0; 6]).0, ENOSYS);
    assert_eq!(run(program, Architecture::Aarch64.audit(), 0, [0; 6]).0, KILL);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn capabilities_open_their_calls() {
    let with =
        |bits: u64| filter(&Profile::Default, Capabilities::from_bits(bits)).unwrap().unwrap();
    let admin = with(1 << 21);
    for name in ["mount", "clone3", "setns", "bpf", "perf_event_open"] {
        assert_eq!(decide(admin.instructions(), X86_64, name, &[]), ALLOW, "{name}");
    }
    assert_eq!(decide(admin.instructions(), X86_64, "clone", &[0x1000_0000]), ALLOW);
    assert_eq!(decide(admin.instructions(), X86_64, "chroot", &[]), EPERM);
    assert_eq!(decide(with(1 << 34).instructions(), X86_64, "syslog", &[]), ALLOW);
    assert_eq!(decide(with(0).instructions(), X86_64, "chroot", &[]), EPERM);
}

#[test]
fn the_tree_is_short_and_shallow() {
    let filter = filter(&Profile::Default, Capabilities::DEFAULT).unwrap().unwrap();
    let program = filter.instructions();
    assert!(program.len() < 700, "{}", program.len());
    for architecture in Architecture::native() {
        for (name, number) in architecture.calls() {
            let (_, steps) = run(program, architecture.audit(), number, [0; 6]);
            assert!(steps < 40, "{architecture:?} {name}: {steps}");
        }
    }
}

/// Every combination of comparison and value around each boundary, against plain arithmetic.
#[test]
fn conditions_compare_64_bits() {
    let interesting =
        [0, 1, 7, 8, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, 0x8000_0000_0000_0000, u64::MAX];
    for value in interesting {
        for (op, holds) in [
            ("EQ", (|a, b| a == b) as fn(u64, u64) -> bool),
            ("NE", |a, b| a != b),
            ("LT", |a, b| a < b),
            ("LE", |a, b| a <= b),
            ("GT", |a, b| a > b),
            ("GE", |a, b| a >= b),
            ("MASKED_EQ", |a, b| a & b == 1),
        ] {
            let text = format!(
                r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["dup"],
                "action":"SCMP_ACT_ALLOW","args":[{{"index":3,"value":{value},"valueTwo":1,
                "op":"SCMP_CMP_{op}"}}]}}]}}"#
            );
            let rules = json::parse(&text, Capabilities::NONE).unwrap();
            let program = compile(&rules).unwrap();
            let native = Architecture::native()[0];
            for argument in interesting {
                let expected = if holds(argument, value) { ALLOW } else { EPERM };
                let found = decide(&program, native, "dup", &[9, 9, 9, argument]);
                assert_eq!(found, expected, "{argument:#x} {op} {value:#x}");
            }
        }
    }
}

#[test]
fn long_profiles_jump_far() {
    let entries: Vec<String> = Architecture::native()[0]
        .calls()
        .iter()
        .step_by(2)
        .enumerate()
        .map(|(index, (name, _))| {
            format!(
                r#"{{"names":["{name}"],"action":"SCMP_ACT_ERRNO","errnoRet":{},
                "args":[{{"index":0,"value":{index},"op":"SCMP_CMP_EQ"}}]}}"#,
                index % 90 + 2
            )
        })
        .collect();
    let text =
        format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{}]}}"#, entries.join(","));
    let program = compile(&json::parse(&text, Capabilities::NONE).unwrap()).unwrap();
    let native = Architecture::native()[0];
    for (index, (name, _)) in native.calls().iter().step_by(2).enumerate() {
        let expected = 0x0005_0000 | u32::try_from(index % 90 + 2).unwrap();
        let value = u64::try_from(index).unwrap();
        assert_eq!(decide(&program, native, name, &[value]), expected, "{name}");
        assert_eq!(decide(&program, native, name, &[value + 1]), ALLOW, "{name}");
    }
}

/// The decisions of libseccomp's own compiler for the default profile, through Debian's Python
/// bindings, for every call and a few arguments.
#[test]
#[cfg(target_arch = "x86_64")]
fn libseccomp_decides_the_same() {
    const SCRIPT: &str = include_str!("../../tests/data/libseccomp.py");
    let rules = default::rules(Capabilities::DEFAULT);
    let mut input = String::new();
    for rule in &rules.rules {
        let action = rule.action.value();
        for name in &rule.names {
            let conditions: Vec<String> = rule
                .conditions
                .iter()
                .map(|condition| format!("{}/{:?}", condition.argument, condition.comparison))
                .collect();
            input.push_str(&format!("{name} {action} {}\n", conditions.join("|")));
        }
    }
    let directory = davit_test::TempDir::new();
    fs_err::write(directory.join("rules"), input).unwrap();
    let output = Command::new("/usr/bin/python3")
        .args(["-c", SCRIPT])
        .arg(directory.join("rules"))
        .arg(directory.join("program"))
        .output();
    let unknown = match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        Ok(output) => {
            let trace = String::from_utf8_lossy(&output.stderr).into_owned();
            let reason = trace.lines().last().unwrap_or_default();
            davit_test::skip(&format!("needs python3-seccomp: {reason}"));
            return;
        }
        Err(error) => {
            davit_test::skip(&format!("needs python3: {error}"));
            return;
        }
    };
    let unknown: Vec<&str> = unknown.lines().collect();
    let theirs = decode(&fs_err::read(directory.join("program")).unwrap());
    let ours = compile(&rules).unwrap();
    let mut compared = 0;
    for architecture in Architecture::native() {
        let last = default_numbers(architecture).into_iter().max().unwrap();
        for (name, number) in architecture.calls() {
            // Above the last call that the profile names davit answers ENOSYS, as runc does.
            if number > last || unknown.contains(&name) {
                continue;
            }
            for argument in [0, 1, 8, 38, 39, 40, 41, 0x2_0008, 0x1000_0011, 0xffff_ffff] {
                let arguments = [argument, 0, 0, 0, 0, 0];
                let found = run(&ours, architecture.audit(), number, arguments).0;
                let expected = run_theirs(&theirs, architecture, number, arguments);
                assert_eq!(found, expected, "{architecture:?} {name}({argument:#x})");
                compared += 1;
            }
        }
    }
    assert!(compared > 8000, "{compared}");
}

fn default_numbers(architecture: Architecture) -> Vec<u32> {
    let rules = default::rules(Capabilities::DEFAULT);
    let calls = architecture.calls();
    let named =
        |name: &str| rules.rules.iter().any(|rule| rule.names.iter().any(|own| own == name));
    calls.into_iter().filter(|call| named(call.0)).map(|call| call.1).collect()
}

fn decode(bytes: &[u8]) -> Vec<Instruction> {
    bytes
        .chunks_exact(8)
        .map(|chunk| Instruction {
            code: u16::from_le_bytes([chunk[0], chunk[1]]),
            jump_true: chunk[2],
            jump_false: chunk[3],
            operand: u32::from_le_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]),
        })
        .collect()
}

fn run_theirs(
    program: &[Instruction],
    architecture: Architecture,
    number: u32,
    arguments: [u64; 6],
) -> u32 {
    run(program, architecture.audit(), number, arguments).0
}
