//! Names and ids of containers.

use rustix::rand::{GetRandomFlags, getrandom};

use super::ContainerError;

const ADJECTIVES: [&str; 64] = [
    "able", "agile", "amber", "ample", "azure", "bold", "brave", "breezy", "bright", "brisk",
    "calm", "candid", "cheerful", "clear", "clever", "cosmic", "crisp", "curious", "daring",
    "deft", "eager", "early", "fair", "fancy", "fleet", "fluent", "fond", "frosty", "gentle",
    "glad", "golden", "grand", "happy", "hardy", "honest", "humble", "jolly", "keen", "kind",
    "lively", "lucid", "lucky", "mellow", "merry", "mild", "neat", "nimble", "noble", "patient",
    "plucky", "polite", "proud", "quick", "quiet", "rapid", "serene", "sharp", "smart", "steady",
    "sunny", "swift", "tidy", "vivid", "witty",
];

const NOUNS: [&str; 64] = [
    "anchor",
    "barge",
    "beacon",
    "boom",
    "bow",
    "brig",
    "buoy",
    "cabin",
    "capstan",
    "cargo",
    "clipper",
    "coast",
    "compass",
    "coral",
    "crane",
    "crew",
    "cutter",
    "deck",
    "delta",
    "dock",
    "dory",
    "estuary",
    "ferry",
    "fjord",
    "frigate",
    "galley",
    "gull",
    "halyard",
    "harbor",
    "haven",
    "helm",
    "hold",
    "hull",
    "island",
    "jetty",
    "kayak",
    "keel",
    "ketch",
    "lagoon",
    "lantern",
    "lighthouse",
    "marina",
    "mast",
    "mooring",
    "oar",
    "otter",
    "pelican",
    "pier",
    "pilot",
    "pinnace",
    "quay",
    "raft",
    "reef",
    "rudder",
    "sail",
    "schooner",
    "shoal",
    "sloop",
    "spar",
    "strait",
    "tide",
    "trawler",
    "wharf",
    "yawl",
];

/// 64 random lower-case hex digits, never all decimal in the first 12 (a host name that is a number
/// confuses programs).
///
/// # Errors
/// The kernel gives no random bytes.
pub(crate) fn random_id() -> Result<String, ContainerError> {
    loop {
        let bytes: [u8; 32] = random_bytes()?;
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        if id[..12].bytes().any(|byte| byte.is_ascii_alphabetic()) {
            return Ok(id);
        }
    }
}

/// Random bytes of the kernel.
pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N], ContainerError> {
    let mut bytes = [0; N];
    getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(|errno| ContainerError::io("read", "/dev/urandom", errno))?;
    Ok(bytes)
}

/// A name for a container whose user gave none; `attempt` above 0 adds a number.
pub(crate) fn generated(id: &str, attempt: u32) -> String {
    let number = u64::from_str_radix(id.get(..15).unwrap_or("0"), 16).unwrap_or(0);
    let (first, second) = (number % 64, number / 64 % 64);
    let pick = |words: &[&'static str; 64], index: u64| words[usize::try_from(index).unwrap_or(0)];
    let name = format!("{}_{}", pick(&ADJECTIVES, first), pick(&NOUNS, second));
    if attempt == 0 {
        name
    } else {
        format!("{name}{}", number / 4096 % 10_u64.pow(attempt.min(9)))
    }
}

/// Checks a volume's name against the grammar of Docker's `local` driver.
///
/// # Errors
/// [`ContainerError::Invalid`] with Docker's sentence.
pub(crate) fn check_volume(name: &str) -> Result<(), ContainerError> {
    if name.len() < 2 {
        return Err(ContainerError::Invalid(format!(
            "create {name}: volume name is too short, names should be at least two alphanumeric \
             characters"
        )));
    }
    check("volume", name).map_err(|_| {
        ContainerError::Invalid(format!(
            "create {name}: {name:?} includes invalid characters for a local volume name, only \
             \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, \
             use absolute path"
        ))
    })
}

/// Checks a container's or volume's name against Docker's grammar.
///
/// # Errors
/// [`ContainerError::Invalid`] with Docker's sentence.
pub(crate) fn check(kind: &'static str, name: &str) -> Result<(), ContainerError> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if first && name.len() >= 2 && name.len() <= 255 && bytes.all(rest) {
        return Ok(());
    }
    Err(ContainerError::Invalid(format!(
        "Invalid {kind} name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names() {
        let id = random_id().unwrap();
        assert_eq!(id.len(), 64);
        for attempt in 0..3 {
            assert!(check("container", &generated(&id, attempt)).is_ok());
        }
        let repeated = |words: &[&str; 64]| {
            let set: std::collections::BTreeSet<_> = words.iter().collect();
            set.len() != words.len()
        };
        assert!(!repeated(&ADJECTIVES) && !repeated(&NOUNS));
    }

    #[test]
    fn grammar() {
        for good in ["ab", "a-b_c.d", "0abc"] {
            assert!(check("container", good).is_ok(), "{good}");
        }
        for bad in ["", "a", "-ab", ".ab", "a/b", "a b", "ä1", "a\n"] {
            assert!(check("container", bad).is_err(), "{bad:?}");
        }
    }
}
