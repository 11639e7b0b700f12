//! Arguments that a build has by itself.

use std::collections::BTreeMap;

use davit_image::Platform;

use crate::BuildRequest;

/// `PATH` of an image that sets none.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Arguments that reach `RUN` without `ARG`, in no key and no history.
const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Arguments that mean something to the builder itself.
const SPECIAL: [&str; 11] = [
    "BUILDKIT_SYNTAX",
    "BUILDKIT_INLINE_CACHE",
    "BUILDKIT_CACHE_MOUNT_NS",
    "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
    "BUILDKIT_MULTI_PLATFORM",
    "BUILDKIT_SANDBOX_HOSTNAME",
    "BUILDKIT_BUILD_NAME",
    "BUILDKIT_DOCKERFILE_CHECK",
    "BUILDKIT_SBOM_SCAN_CONTEXT",
    "BUILDKIT_SBOM_SCAN_STAGE",
    "SOURCE_DATE_EPOCH",
];

/// The platform arguments and `TARGETSTAGE`, build arguments applied.
pub(crate) fn automatic(request: &BuildRequest) -> Vec<(String, String)> {
    let target = request.target.as_deref().unwrap_or("default").to_owned();
    let mut pairs = platform("BUILD", &request.build_platform);
    pairs.extend(platform("TARGET", &request.platform));
    pairs.push(("TARGETSTAGE".to_owned(), target));
    for (name, value) in &mut pairs {
        if let Some(given) = request.build_args.get(name) {
            given.clone_into(value);
        }
    }
    pairs
}

fn platform(prefix: &str, platform: &Platform) -> Vec<(String, String)> {
    let optional = |value: &Option<String>| value.clone().unwrap_or_default();
    [
        ("PLATFORM", platform.to_string()),
        ("OS", platform.os.clone()),
        ("OSVERSION", optional(&platform.os_version)),
        ("ARCH", platform.architecture.clone()),
        ("VARIANT", optional(&platform.variant)),
    ]
    .map(|(name, value)| (format!("{prefix}{name}"), value))
    .to_vec()
}

/// The proxy arguments that were given, as `NAME=value`.
pub(crate) fn proxies(build_args: &BTreeMap<String, String>) -> Vec<String> {
    PROXIES
        .iter()
        .filter_map(|name| build_args.get(*name).map(|value| format!("{name}={value}")))
        .collect()
}

/// Whether a build argument needs no `ARG`.
pub(crate) fn is_predefined(name: &str) -> bool {
    PROXIES.contains(&name) || SPECIAL.contains(&name)
}
