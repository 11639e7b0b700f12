//! `davit config`: the settings, what they mean, and where they come from.

use crate::{cli::Context, environment, error::CliError, printer};

// Arguments of `davit config`.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArgs {
    /// Tell what every key means
    #[arg(long)]
    explain: bool,
}

/// Every key of config.toml: its path, its default, and what it does.
const KEYS: &[(&str, &str, &str)] = &[
    (
        "store.keep_blobs",
        "\"always\"",
        "whether received compressed layers are kept (\"always\", \"never\"); a pushed image keeps its digest only if they are",
    ),
    (
        "store.snapshot",
        "chosen by a probe",
        "forces how root filesystems are made: \"erofs\", \"dirs\", \"dirs-volume\" or \"copy\"",
    ),
    (
        "store.upper",
        "a capped tmpfs",
        "directory on a volume for what containers write, used where the root is on an overlay (davit inside a container)",
    ),
    ("store.upper_bytes", "1 GiB", "bytes of the tmpfs that takes its place where none is set"),
    (
        "gc.keep_storage",
        "20 % of the file system",
        "bytes that the build cache may take before the least useful records go",
    ),
    (
        "gc.keep_cache_mounts",
        "no limit",
        "bytes that cache mounts (RUN --mount=type=cache) may take before those go that were not used for longest; they are measured after each build that ran a step",
    ),
    (
        "gc.keep_git_repositories",
        "2 GiB",
        "bytes that the repositories of git sources may take before those go that were not used for longest; they are measured after each build that fetched from one",
    ),
    (
        "build.source_bytes",
        "half of what the disk has free",
        "bytes that one source of a build may have that is fetched, by http or git",
    ),
    (
        "cdi.spec_dirs",
        "[\"/etc/cdi\", \"/var/run/cdi\"]",
        "directories of the files that describe devices (CDI), for --device vendor.com/class=name and RUN --device; a later one counts before an earlier one",
    ),
    (
        "gc.pinned_cache_mounts",
        "[]",
        "ids of cache mounts that neither a budget nor `builder prune --all` removes, but only `builder prune` with their id",
    ),
    (
        "gc.keep_builds",
        "100",
        "builds that are remembered (davit builder history), the newest of them",
    ),
    (
        "gc.keep_build_days",
        "30",
        "days that a build is remembered; looked at after each build that ran a step",
    ),
    (
        "gc.keep_build_logs",
        "256 MiB",
        "bytes on disk that logs of builds may take before the oldest builds are forgotten; one log takes 64 MiB at most",
    ),
    (
        "registry.\"HOST\".insecure",
        "false",
        "whether plain HTTP and unverified TLS are accepted from that registry (the loopback needs no such leave, unless certs.d names an authority for it)",
    ),
    (
        "registry.\"HOST\".mirrors",
        "[]",
        "base addresses that are asked before HOST when pulling, in this order, without HOST's credentials",
    ),
];

/// Runs `davit config`.
///
/// # Errors
/// A configuration file that cannot be read or has unknown keys.
pub(crate) fn run(context: &Context, args: &ConfigArgs) -> Result<u8, CliError> {
    if args.explain {
        for (key, default, meaning) in KEYS {
            printer::line(&format!("{key} (default: {default})\n    {meaning}"))?;
        }
        return Ok(0);
    }
    let config = context.config()?;
    let file = environment::settings_file();
    let file = file.map_or_else(|| "none".to_owned(), |path| path.display().to_string());
    printer::line(&format!("root: {}", config.root.display()))?;
    printer::line(&format!("run root: {}", config.run_root.display()))?;
    printer::line(&format!("configuration file: {file}"))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use davit_engine::Settings;

    use super::*;

    #[test]
    fn every_explained_key_exists() {
        for (key, default, _) in KEYS {
            let value = match *default {
                "false" => "true",
                list if list.starts_with('[') => "[\"https://mirror.example\"]",
                "\"always\"" => "\"never\"",
                "a capped tmpfs" => "\"/mnt/upper\"",
                "chosen by a probe" => "\"dirs\"",
                _ => "1",
            };
            let settings: Settings =
                toml::from_str(&format!("{}={value}", key.replace("HOST", "a.b")))
                    .unwrap_or_else(|error| panic!("{key}: {error}"));
            assert_ne!(settings, Settings::default(), "{key}");
        }
    }
}
