//! From rules to BPF: a search tree over ranges of numbers, per architecture.

use std::collections::BTreeMap;

use davit_sys::seccomp::{Instruction, MAX_INSTRUCTIONS};

use super::architecture::{Architecture, X32_BIT};
use super::json::ProfileError;
use super::rules::{Action, Comparison, Condition, Rules};

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Opcodes of classic BPF (`linux/bpf_common.h`).
pub(super) const LOAD: u16 = 0x20;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_GREATER: u16 = 0x25;
pub(super) const JUMP_GREATER_EQUAL: u16 = 0x35;
pub(super) const AND: u16 = 0x54;
pub(super) const RETURN: u16 = 0x06;

/// What happens to one system call: the first branch whose conditions hold, else the default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Call {
    branches: Vec<(Vec<Condition>, Action)>,
    /// Decides where no branch does.
    otherwise: Option<Action>,
}

/// Consecutive numbers that are treated alike.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Range {
    first: u32,
    call: Call,
}

/// Where a jump goes that cannot be encoded yet: code is generated from its end to its beginning,
/// so every target lies behind and its distance is known.
struct Program {
    /// Instructions in reverse.
    reversed: Vec<Instruction>,
}

/// A place in the program, counted from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Label(usize);

impl Program {
    /// Puts an instruction before all others.
    fn prepend(&mut self, code: u16, operand: u32) -> Label {
        self.reversed.push(Instruction { code, jump_true: 0, jump_false: 0, operand });
        self.here()
    }

    /// The place of the instruction that is first now.
    fn here(&self) -> Label {
        Label(self.reversed.len())
    }

    /// Distance from an instruction put next to the label.
    fn distance(&self, label: Label) -> usize {
        self.reversed.len() - label.0
    }

    /// A comparison that goes to one of two places. Distances over 255 take a jump of their own.
    fn branch(&mut self, code: u16, operand: u32, holds: Label, fails: Label) -> Label {
        // A long jump put now moves everything else one further away.
        let holds = self.near(holds, 1);
        let fails = self.near(fails, 0);
        let offset = |distance: usize| u8::try_from(distance).expect("made near");
        let (jump_true, jump_false) = (offset(self.distance(holds)), offset(self.distance(fails)));
        self.reversed.push(Instruction { code, jump_true, jump_false, operand });
        self.here()
    }

    /// The label itself, or that of a jump to it, if it is too far for a comparison.
    fn near(&mut self, label: Label, slack: usize) -> Label {
        if self.distance(label) + slack <= usize::from(u8::MAX) {
            return label;
        }
        let distance = u32::try_from(self.distance(label)).expect("programs are short");
        self.prepend(JUMP, distance)
    }

    fn finish(mut self) -> Vec<Instruction> {
        self.reversed.reverse();
        self.reversed
    }
}

/// Compiles the rules.
pub(super) fn compile(rules: &Rules<'_>) -> Result<Vec<Instruction>, ProfileError> {
    let mut program = Program { reversed: Vec::new() };
    let mut returns = Returns::default();
    // A program of an unknown architecture makes calls by numbers that mean something else.
    let foreign = returns.of(&mut program, Action::KillProcess);
    let mut next = foreign;
    for (audit, tables) in tables_by_audit(rules) {
        let mut blocks = Blocks { default: rules.default, returns: Returns::default() };
        let tree = blocks.tree(&mut program, &tables);
        // The number is loaded, then execution falls into the tree.
        if program.distance(tree) > 0 {
            let distance = u32::try_from(program.distance(tree)).expect("programs are short");
            program.prepend(JUMP, distance);
        }
        let load = program.prepend(LOAD, NUMBER);
        next = program.branch(JUMP_EQUAL, audit, load, next);
    }
    let _ = next;
    program.prepend(LOAD, ARCHITECTURE);
    let program = program.finish();
    if program.len() > MAX_INSTRUCTIONS {
        return Err(ProfileError::TooLong { instructions: program.len() });
    }
    Ok(program)
}

/// The ranges of each value of `AUDIT_ARCH`, the native one last, so that it is compared first.
fn tables_by_audit(rules: &Rules<'_>) -> Vec<(u32, Vec<Range>)> {
    let mut merged: Vec<(u32, BTreeMap<u32, Call>, bool)> = Vec::new();
    for architecture in &rules.architectures {
        let calls = calls(rules, *architecture);
        match merged.iter_mut().find(|table| table.0 == architecture.audit()) {
            Some(table) => {
                table.1.extend(calls);
                table.2 |= *architecture == Architecture::X32;
            }
            None => merged.push((architecture.audit(), calls, *architecture == Architecture::X32)),
        }
    }
    merged.reverse();
    merged
        .into_iter()
        .map(|(audit, calls, has_x32)| (audit, ranges(calls, rules.default, audit, has_x32)))
        .collect()
}

/// What the rules say about each number of an architecture.
fn calls(rules: &Rules<'_>, architecture: Architecture) -> BTreeMap<u32, Call> {
    let mut by_name: BTreeMap<&str, Call> = BTreeMap::new();
    for rule in &rules.rules {
        for name in &rule.names {
            add(by_name.entry(name.as_ref()).or_default(), &rule.conditions, rule.action);
        }
    }
    architecture
        .calls()
        .into_iter()
        .filter_map(|(name, number)| Some((number, by_name.get(name)?.clone())))
        .collect()
}

/// Adds a rule to a call. As in libseccomp, a rule without conditions covers those with; of two
/// without conditions the first one counts.
fn add(call: &mut Call, conditions: &[Condition], action: Action) {
    if conditions.is_empty() {
        call.otherwise.get_or_insert(action);
        call.branches.clear();
    } else if call.otherwise.is_none() {
        call.branches.push((conditions.to_vec(), action));
    }
}

/// Joins numbers that are treated alike; the gaps get the default.
fn ranges(calls: BTreeMap<u32, Call>, default: Action, audit: u32, has_x32: bool) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    let mut push = |first: u32, call: Call| {
        if ranges.last().is_none_or(|last| last.call != call) {
            ranges.push(Range { first, call });
        }
    };
    let gap = || Call { branches: Vec::new(), otherwise: Some(default) };
    let mut expected = 0;
    for (number, call) in calls {
        if number >= X32_BIT && expected < X32_BIT {
            push(expected, Call { branches: Vec::new(), otherwise: Some(unknown(default)) });
            expected = X32_BIT;
        }
        if number > expected {
            push(expected, gap());
        }
        let call = if call.otherwise == Some(default) && call.branches.is_empty() {
            gap()
        } else {
            Call { otherwise: Some(call.otherwise.unwrap_or(default)), ..call }
        };
        push(number, call);
        expected = number + 1;
    }
    push(expected, Call { branches: Vec::new(), otherwise: Some(unknown(default)) });
    // Numbers of x32 on an x86_64 filter that does not name it are a foreign architecture.
    if audit == Architecture::X86_64.audit() && !has_x32 {
        ranges.retain(|range| range.first < X32_BIT);
        let kill = Call { branches: Vec::new(), otherwise: Some(Action::KillProcess) };
        ranges.push(Range { first: X32_BIT, call: kill });
    }
    ranges
}

/// What happens to calls newer than everything that the rules name: programs know how to do without
/// them if the answer is ENOSYS, and not if it is EPERM. (runc does the same.)
fn unknown(default: Action) -> Action {
    const ENOSYS: u16 = 38;
    match default {
        Action::Errno(_) | Action::KillProcess | Action::KillThread | Action::Trap => {
            Action::Errno(ENOSYS)
        }
        Action::Allow | Action::Log | Action::Trace(_) => default,
    }
}

/// Return instructions that later code may share.
#[derive(Debug, Default)]
struct Returns(Vec<(Action, Label)>);

impl Returns {
    fn of(&mut self, program: &mut Program, action: Action) -> Label {
        if let Some((_, label)) = self.0.iter().find(|entry| entry.0 == action) {
            return *label;
        }
        let label = program.prepend(RETURN, action.value());
        self.0.push((action, label));
        label
    }
}

/// Code of one architecture.
struct Blocks {
    default: Action,
    returns: Returns,
}

impl Blocks {
    /// A balanced tree over the ranges; the accumulator holds the number.
    fn tree(&mut self, program: &mut Program, ranges: &[Range]) -> Label {
        match ranges {
            [] => self.returns.of(program, self.default),
            [only] => self.call(program, &only.call),
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let upper = self.tree(program, high);
                let lower = self.tree(program, low);
                program.branch(JUMP_GREATER_EQUAL, high[0].first, upper, lower)
            }
        }
    }

    /// What happens to one call: its branches in order.
    fn call(&mut self, program: &mut Program, call: &Call) -> Label {
        let otherwise = call.otherwise.unwrap_or(self.default);
        let mut next = self.returns.of(program, otherwise);
        for (conditions, action) in call.branches.iter().rev() {
            let mut holds = self.returns.of(program, *action);
            for condition in conditions.iter().rev() {
                holds = check(program, *condition, holds, next);
            }
            next = holds;
        }
        next
    }
}

/// Code that goes to `holds` or `fails`; arguments are compared by halves, the upper one first.
fn check(program: &mut Program, condition: Condition, holds: Label, fails: Label) -> Label {
    match condition.comparison {
        Comparison::Equal(value) => equal(program, condition.argument, value, holds, fails),
        Comparison::NotEqual(value) => equal(program, condition.argument, value, fails, holds),
        Comparison::Greater(value) => {
            order(program, condition.argument, JUMP_GREATER, value, holds, fails)
        }
        Comparison::LessOrEqual(value) => {
            order(program, condition.argument, JUMP_GREATER, value, fails, holds)
        }
        Comparison::GreaterOrEqual(value) => {
            order(program, condition.argument, JUMP_GREATER_EQUAL, value, holds, fails)
        }
        Comparison::Less(value) => {
            order(program, condition.argument, JUMP_GREATER_EQUAL, value, fails, holds)
        }
        Comparison::Masked { mask, value } => {
            let low = masked(
                program,
                low_half(condition.argument),
                (low(mask), low(value)),
                (holds, fails),
            );
            masked(program, high_half(condition.argument), (high(mask), high(value)), (low, fails))
        }
    }
}

/// Offset of an argument's lower half on a little-endian machine.
fn low_half(argument: u8) -> u32 {
    ARGUMENTS + 8 * u32::from(argument)
}

fn high_half(argument: u8) -> u32 {
    low_half(argument) + 4
}

fn low(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).expect("masked")
}

fn high(value: u64) -> u32 {
    u32::try_from(value >> 32).expect("shifted")
}

fn equal(program: &mut Program, argument: u8, value: u64, holds: Label, fails: Label) -> Label {
    program.branch(JUMP_EQUAL, low(value), holds, fails);
    let lower = program.prepend(LOAD, low_half(argument));
    program.branch(JUMP_EQUAL, high(value), lower, fails);
    program.prepend(LOAD, high_half(argument))
}

fn order(
    program: &mut Program,
    argument: u8,
    code: u16,
    value: u64,
    holds: Label,
    fails: Label,
) -> Label {
    program.branch(code, low(value), holds, fails);
    let lower = program.prepend(LOAD, low_half(argument));
    let same = program.branch(JUMP_EQUAL, high(value), lower, fails);
    program.branch(JUMP_GREATER, high(value), holds, same);
    program.prepend(LOAD, high_half(argument))
}

fn masked(
    program: &mut Program,
    offset: u32,
    (mask, value): (u32, u32),
    (holds, fails): (Label, Label),
) -> Label {
    program.branch(JUMP_EQUAL, value, holds, fails);
    program.prepend(AND, mask);
    program.prepend(LOAD, offset)
}
