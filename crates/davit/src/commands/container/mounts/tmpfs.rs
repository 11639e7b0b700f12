//! `--tmpfs PATH[:OPTIONS]`

use davit_engine::container::{MountSource, MountSpec};

use super::{absolute, invalid, refused, tmpfs_mode};
use crate::{commands::container::values, error::CliError};

/// Flags of a mount; from `defaults` on they mean nothing to a tmpfs of its own.
const FLAGS: [&str; 20] = [
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "atime",
    "noatime",
    "relatime",
    "strictatime",
    "defaults",
    "norelatime",
    "nostrictatime",
    "diratime",
    "nodiratime",
    "sync",
    "async",
    "dirsync",
    "mand",
    "nomand",
];
/// Options that the filesystem itself takes, with a value.
const VALUES: [&str; 5] = ["uid", "gid", "nr_inodes", "nr_blocks", "mpol"];

/// Parses one.
///
/// # Errors
/// A relative path, or an option that Docker does not know.
pub(super) fn mount(text: &str) -> Result<MountSpec, CliError> {
    let (target, given) = text.split_once(':').unwrap_or((text, ""));
    let (mut size_bytes, mut mode, mut flags) = (None, None, Vec::new());
    let (mut options, mut read_only) = (Vec::new(), false);
    for option in given.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", value)) if value.ends_with('%') => {
                options.push(("size".to_owned(), value.to_owned()));
            }
            Some(("size", value)) => size_bytes = Some(values::bytes(value)?),
            Some(("mode", value)) => {
                mode = Some(tmpfs_mode(value).ok_or_else(|| invalid("mode", value))?);
            }
            Some((key, value)) if VALUES.contains(&key) && !value.is_empty() => {
                options.push((key.to_owned(), value.to_owned()));
            }
            None if option == "ro" => read_only = true,
            None if option == "rw" => read_only = false,
            None if FLAGS.contains(&option) => flags.push(option.to_owned()),
            _ => return Err(CliError::user(format!("invalid tmpfs option {option:?}"))),
        }
    }
    let target = absolute(target).map_err(|reason| refused("tmpfs", &reason))?;
    Ok(MountSpec {
        source: MountSource::Tmpfs { size_bytes, mode, flags, options, listed: false },
        target,
        access: read_only.into(),
        propagation: String::new(),
        mode: given.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_parse() {
        let one = mount("/run:size=64k,exec,ro,uid=5,noatime").unwrap();
        assert!(one.access.is_on());
        let MountSource::Tmpfs { size_bytes, flags, options, .. } = one.source else { panic!() };
        assert_eq!((size_bytes, flags.join(",")), (Some(65_536), "exec,noatime".to_owned()));
        assert_eq!(options, [("uid".to_owned(), "5".to_owned())]);
        assert!(!mount("/run:ro,rw").unwrap().access.is_on());
        assert!(mount("/run:size=10%,mode=1777").is_ok());
        for bad in ["run", "/run:bogus", "/run:uid", "/run:uid=", "/run:size=x", "/run:mode=9"] {
            assert!(mount(bad).is_err(), "{bad}");
        }
    }
}
