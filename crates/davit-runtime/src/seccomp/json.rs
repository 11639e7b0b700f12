//! Profiles in Docker's JSON format (`--security-opt seccomp=FILE`), also with libseccomp's older
//! spellings.

use std::borrow::Cow;

use davit_sys::release;
use serde::Deserialize;
use thiserror::Error;

use super::architecture::Architecture;
use super::rules::{Action, Comparison, Condition, Rule, Rules};
use crate::capability::{Capabilities, Capability};

/// Largest profile that is read.
const MAX_BYTES: usize = 4 << 20;

/// A profile that cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// No JSON of the expected form.
    #[error("the profile is not valid JSON of Docker's format")]
    Json(#[from] serde_json::Error),
    /// Larger than 4 MiB.
    #[error("the profile has {bytes} bytes, more than davit reads")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A word that is none of the format.
    #[error("unknown {what} {word:?} in the profile")]
    Unknown {
        /// What it should be.
        what: &'static str,
        /// The word.
        word: String,
    },
    /// Two exclusive forms at once.
    #[error("the profile uses both {0}")]
    Both(&'static str),
    /// An index over 5, an error number over 4095.
    #[error("{what} {number} in the profile is out of range")]
    OutOfRange {
        /// What.
        what: &'static str,
        /// The number.
        number: u64,
    },
    /// The compiled filter is longer than the kernel takes.
    #[error("the compiled profile has {instructions} instructions, the kernel takes 4096")]
    TooLong {
        /// Its length.
        instructions: usize,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    default_action: String,
    default_errno_ret: Option<u64>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchitectureMap>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    syscalls: Option<Vec<Syscalls>>,
    listener_path: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchitectureMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Syscalls {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u64>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Option<Conditions>,
    #[serde(default)]
    excludes: Option<Conditions>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u64,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Conditions {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

/// Reads a profile for a process with these capabilities.
pub(super) fn parse(
    text: &str,
    capabilities: Capabilities,
) -> Result<Rules<'static>, ProfileError> {
    if text.len() > MAX_BYTES {
        return Err(ProfileError::TooLarge { bytes: text.len() });
    }
    let document: Document = serde_json::from_str(text)?;
    if document.listener_path.is_some_and(|path| !path.is_empty()) {
        let word = "SCMP_ACT_NOTIFY".to_owned();
        return Err(ProfileError::Unknown { what: "supported listener", word });
    }
    let default = action(&document.default_action, document.default_errno_ret)?;
    let mut rules = Vec::new();
    for entry in document.syscalls.unwrap_or_default() {
        if applies(&entry, capabilities)? {
            rules.extend(entry_rules(entry)?);
        }
    }
    // An action equal to the default says nothing, as in libseccomp's front ends.
    rules.retain(|rule: &Rule<'_>| rule.action != default);
    Ok(Rules {
        default,
        architectures: architectures(document.architectures, document.arch_map)?,
        rules,
        flags: flags(document.flags.unwrap_or_default())?,
    })
}

fn entry_rules(entry: Syscalls) -> Result<Vec<Rule<'static>>, ProfileError> {
    let names = match (entry.name.filter(|name| !name.is_empty()), entry.names) {
        (Some(_), Some(names)) if !names.is_empty() => {
            return Err(ProfileError::Both("name and names"));
        }
        (Some(name), _) => vec![name],
        (None, names) => names.unwrap_or_default(),
    };
    let action = action(&entry.action, entry.errno_ret)?;
    let conditions =
        entry.args.unwrap_or_default().iter().map(condition).collect::<Result<Vec<_>, _>>()?;
    let names: Vec<Cow<'static, str>> = names.into_iter().map(Cow::Owned).collect();
    // Several conditions on one argument cannot be one rule of libseccomp: runc makes them
    // alternatives, and profiles count on it.
    let repeats = (0..6).any(|number| {
        conditions.iter().filter(|condition| condition.argument == number).count() > 1
    });
    if repeats {
        let rule = |condition| Rule { names: names.clone(), conditions: vec![condition], action };
        return Ok(conditions.into_iter().map(rule).collect());
    }
    Ok(vec![Rule { names, conditions, action }])
}

/// Whether an entry counts for this machine and these capabilities.
fn applies(entry: &Syscalls, capabilities: Capabilities) -> Result<bool, ProfileError> {
    let native = native_names();
    let holds = |name: &String| -> Result<bool, ProfileError> {
        let what = "capability";
        let unknown = |_| ProfileError::Unknown { what, word: name.clone() };
        Ok(capabilities.contains(name.parse::<Capability>().map_err(unknown)?))
    };
    if let Some(includes) = &entry.includes {
        for name in includes.caps.iter().flatten() {
            if !holds(name)? {
                return Ok(false);
            }
        }
        let arches = includes.arches.as_deref().unwrap_or_default();
        if !arches.is_empty() && !arches.iter().any(|arch| native.contains(&arch.as_str())) {
            return Ok(false);
        }
        if !kernel_is_at_least(includes.min_kernel.as_deref())? {
            return Ok(false);
        }
    }
    if let Some(excludes) = &entry.excludes {
        for name in excludes.caps.iter().flatten() {
            if holds(name)? {
                return Ok(false);
            }
        }
        let arches = excludes.arches.as_deref().unwrap_or_default();
        if arches.iter().any(|arch| native.contains(&arch.as_str())) {
            return Ok(false);
        }
        let minimum = excludes.min_kernel.as_deref();
        if minimum.is_some_and(|text| !text.is_empty()) && kernel_is_at_least(minimum)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The machine in Go's spelling: Docker compares with the native architecture only.
fn native_names() -> Vec<&'static str> {
    Architecture::native().first().map(|architecture| architecture.go_name()).into_iter().collect()
}

fn kernel_is_at_least(minimum: Option<&str>) -> Result<bool, ProfileError> {
    let Some(text) = minimum.filter(|text| !text.is_empty()) else { return Ok(true) };
    let wanted = release::parse(text)
        .ok_or_else(|| ProfileError::Unknown { what: "kernel version", word: text.to_owned() })?;
    Ok(release::running().is_none_or(|running| running >= wanted))
}

fn architectures(
    named: Option<Vec<String>>,
    map: Option<Vec<ArchitectureMap>>,
) -> Result<Vec<Architecture>, ProfileError> {
    let named = named.unwrap_or_default();
    let map = map.unwrap_or_default();
    if !named.is_empty() && !map.is_empty() {
        return Err(ProfileError::Both("architectures and archMap"));
    }
    let native = Architecture::native()[0];
    let mut list = vec![native];
    let mut add = |name: &String| {
        // Names of machines that this one cannot run say nothing here.
        if let Some(architecture) = Architecture::parse(name)
            && Architecture::native().contains(&architecture)
            && !list.contains(&architecture)
        {
            list.push(architecture);
        }
    };
    named.iter().for_each(&mut add);
    for entry in &map {
        if Architecture::parse(&entry.architecture) == Some(native) {
            entry.sub_architectures.iter().flatten().for_each(&mut add);
        }
    }
    Ok(list)
}

fn action(word: &str, errno: Option<u64>) -> Result<Action, ProfileError> {
    const EPERM: u16 = 1;
    let number = match errno {
        None => EPERM,
        Some(number) => u16::try_from(number)
            .ok()
            .filter(|number| *number <= 4095)
            .ok_or(ProfileError::OutOfRange { what: "error number", number })?,
    };
    Ok(match word {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => Action::Errno(number),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_TRACE" => Action::Trace(number),
        "SCMP_ACT_LOG" => Action::Log,
        _ => return Err(ProfileError::Unknown { what: "action", word: word.to_owned() }),
    })
}

fn condition(argument: &Argument) -> Result<Condition, ProfileError> {
    let value = argument.value;
    let number = u8::try_from(argument.index)
        .ok()
        .filter(|number| *number <= 5)
        .ok_or(ProfileError::OutOfRange { what: "argument index", number: argument.index })?;
    let comparison = match argument.op.as_str() {
        "SCMP_CMP_EQ" => Comparison::Equal(value),
        "SCMP_CMP_NE" => Comparison::NotEqual(value),
        "SCMP_CMP_LT" => Comparison::Less(value),
        "SCMP_CMP_LE" => Comparison::LessOrEqual(value),
        "SCMP_CMP_GT" => Comparison::Greater(value),
        "SCMP_CMP_GE" => Comparison::GreaterOrEqual(value),
        // The first value is the mask, the second what must remain.
        "SCMP_CMP_MASKED_EQ" => Comparison::Masked { mask: value, value: argument.value_two },
        word => {
            return Err(ProfileError::Unknown { what: "comparison", word: word.to_owned() });
        }
    };
    Ok(Condition { argument: number, comparison })
}

fn flags(names: Vec<String>) -> Result<u32, ProfileError> {
    names.into_iter().try_fold(0, |set, name| {
        Ok(set
            | match name.as_str() {
                // All threads: there is one only.
                "SECCOMP_FILTER_FLAG_TSYNC" => 0,
                "SECCOMP_FILTER_FLAG_LOG" => 1 << 1,
                "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => 1 << 2,
                _ => return Err(ProfileError::Unknown { what: "flag", word: name }),
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_profiles_are_refused() {
        for text in [
            "",
            "[]",
            r#"{"defaultAction":"ALLOW"}"#,
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4096}"#,
            r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["NOPE"]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86_64"}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"read","names":["write"],"action":"SCMP_ACT_KILL"}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_KILL","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_KILL","args":[{"index":0,"value":0,"op":"EQ"}]}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_KILL","includes":{"caps":["CAP_X"]}}]}"#,
        ] {
            assert!(parse(text, Capabilities::DEFAULT).is_err(), "{text}");
        }
    }

    #[test]
    fn null_is_as_good_as_absent() {
        let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":null,"syscalls":null}"#;
        assert!(parse(text, Capabilities::DEFAULT).unwrap().rules.is_empty());
    }

    #[test]
    fn versions_compare() {
        assert!(kernel_is_at_least(Some("4.8")).unwrap());
        assert!(!kernel_is_at_least(Some("99.0")).unwrap());
    }
}
