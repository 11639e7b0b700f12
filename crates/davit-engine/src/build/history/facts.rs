//! What a build is asked, in the words in which it is remembered.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use davit_build::{
    BuildRequest, CachePolicy, Checks, ContextSource, DockerfilePlace, NamedSource, Network,
    PullPolicy, without_secrets,
};
use davit_runtime::plan::Rlimit;

use super::BuildSpec;
use crate::build::BuildCommand;

/// Steps that are remembered.
pub(super) const MOST_STEPS: usize = 2000;
/// Entries of a map, and warnings, that are remembered.
const MOST_ENTRIES: usize = 300;
/// Longest name of a step that is remembered, in bytes.
const LONGEST_NAME: usize = 300;
/// Longest text that is remembered, in bytes.
const LONGEST: usize = 2048;
/// Shortest secret that is looked for in what is remembered: shorter ones are in everything.
const SHORTEST_SECRET: usize = 4;
/// The argument that names a build.
const NAME: &str = "BUILDKIT_BUILD_NAME";
const DOCKERFILE: &str = "Dockerfile";

/// Text of a length that can be kept.
pub(super) fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(LONGEST)].to_owned()
}

/// The name of a step, as it can be kept.
pub(super) fn step_name(name: &str) -> String {
    let name = without_secrets(name);
    name[..name.floor_char_boundary(LONGEST_NAME)].to_owned()
}

/// What is to be remembered of a command before it is carried out.
pub(super) fn of(command: &BuildCommand) -> BuildSpec {
    let request = &command.request;
    let words = Words { request };
    let context = context(request);
    let dockerfile = dockerfile(request);
    let named = request.named_contexts.iter();
    let named = named.map(|it| (it.name.clone(), source(&it.source))).collect();
    let mut spec = BuildSpec {
        name: String::new(),
        dockerfile: below(&context, &dockerfile),
        context,
        target: request.target.as_deref().map(cut),
        platforms: std::iter::once(&request.platform)
            .chain(&request.more_platforms)
            .map(ToString::to_string)
            .collect(),
        named_contexts: words.map(&named),
        build_args: words.map(&request.build_args),
        labels: words.map(&request.labels),
        repository: command.repository.clone(),
        options: words.map(&options(command)),
        ..BuildSpec::default()
    };
    spec.name = cut(&words.shown(&name(request, &spec.context, &dockerfile)));
    spec
}

/// Makes texts fit to be kept.
struct Words<'r> {
    request: &'r BuildRequest,
}

impl Words<'_> {
    /// A text without secrets, accounts and queries of addresses.
    fn shown(&self, text: &str) -> String {
        let mut secrets = self.request.sandbox.secrets.values().map(|secret| secret.expose());
        let is_in = |secret: &[u8]| {
            let secret = secret.trim_ascii();
            secret.len() >= SHORTEST_SECRET
                && text.as_bytes().windows(secret.len()).any(|part| part == secret)
        };
        if secrets.any(is_in) { "****".to_owned() } else { cut(&without_secrets(text)) }
    }

    fn map(&self, entries: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let kept = entries.iter().take(MOST_ENTRIES);
        kept.map(|(name, value)| (cut(name), self.shown(value))).collect()
    }
}

/// The context: an absolute path, an address, `-` or nothing.
fn context(request: &BuildRequest) -> String {
    match &request.context {
        ContextSource::Directory(path) => absolute(path),
        ContextSource::Remote(source) => source.to_string(),
        ContextSource::Tar(_) | ContextSource::Empty => "-".to_owned(),
    }
}

/// The Dockerfile: an absolute path, one in the context that is elsewhere, or an address.
fn dockerfile(request: &BuildRequest) -> String {
    let text = &request.dockerfile;
    match (&text.place, &request.context) {
        (DockerfilePlace::Remote(source), _) => davit_build::public_address(&source.url),
        (DockerfilePlace::Context, _) => text.name.clone(),
        (DockerfilePlace::Given, ContextSource::Directory(context)) => {
            // One below the context is named from there on.
            let below = context.join(&text.name);
            let path = if below.exists() { below } else { text.name.clone().into() };
            if path.exists() { absolute(&path) } else { DOCKERFILE.to_owned() }
        }
        (DockerfilePlace::Given, _) => text.name.clone(),
    }
}

/// Where the Dockerfile lies on this machine, if it does.
#[must_use]
pub fn dockerfile_path(request: &BuildRequest) -> Option<PathBuf> {
    let is_given = request.dockerfile.place == DockerfilePlace::Given;
    Some(PathBuf::from(dockerfile(request))).filter(|path| is_given && path.is_absolute())
}

fn absolute(path: &Path) -> String {
    let whole = fs_err::canonicalize(path).or_else(|_absent| std::path::absolute(path));
    whole.unwrap_or_else(|_| path.to_path_buf()).display().to_string()
}

/// A path from the context on, where it is below that.
fn below(context: &str, file: &str) -> String {
    let rest = Path::new(file).strip_prefix(context).ok();
    let rest = rest.map(|rest| rest.display().to_string()).filter(|rest| !rest.is_empty());
    rest.unwrap_or_else(|| file.to_owned())
}

/// What buildx calls a build: its argument, else where its context or its Dockerfile is, and the stage.
fn name(request: &BuildRequest, context: &str, dockerfile: &str) -> String {
    if let Some(name) = request.build_args.get(NAME).filter(|name| !name.is_empty()) {
        return name.clone();
    }
    let place = match &request.context {
        ContextSource::Remote(_) => context.to_owned(),
        ContextSource::Directory(_) => place(Path::new(context), Path::new(dockerfile)),
        _ => String::new(),
    };
    match request.target.as_deref().filter(|target| !target.is_empty()) {
        None => place,
        Some(target) if place.is_empty() => target.to_owned(),
        Some(target) => format!("{place} ({target})"),
    }
}

/// The last part of the context's path with that of a Dockerfile that has not the usual name.
fn place(context: &Path, dockerfile: &Path) -> String {
    let usual = dockerfile.file_name().is_some_and(|name| name == DOCKERFILE);
    let folder = if usual { dockerfile.parent() } else { Some(dockerfile) };
    let path = folder.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(context);
    let names = |path: &Path, last: usize| {
        let names = path.components().filter(|it| matches!(it, Component::Normal(_)));
        let names: Vec<_> = names.map(|it| it.as_os_str().to_string_lossy()).collect();
        names[names.len().saturating_sub(last)..].join("/")
    };
    match path.strip_prefix(context) {
        Ok(rest) => names(path, 1 + rest.components().count()),
        Err(_) => names(path, if usual { 1 } else { 2 }),
    }
}

fn source(source: &NamedSource) -> String {
    match source {
        NamedSource::Directory(path) | NamedSource::Volume(path) => absolute(path),
        NamedSource::Image(image) => match image.to_string() {
            layout if layout.starts_with("oci-layout://") => layout,
            image => format!("docker-image://{image}"),
        },
        NamedSource::Scratch => "docker-image://scratch".to_owned(),
        NamedSource::Remote(source) => source.to_string(),
    }
}

/// Options that differ from what is usual, under the names that buildx gives them.
fn options(command: &BuildCommand) -> BTreeMap<String, String> {
    let request = &command.request;
    let sandbox = &request.sandbox;
    let mut options = BTreeMap::new();
    let mut add = |name: &str, value: Option<String>| {
        options.extend(value.filter(|it| !it.is_empty()).map(|it| (name.to_owned(), it)));
    };
    let network = Some(&request.network).filter(|network| **network != Network::Default);
    add("Network", network.map(ToString::to_string));
    let hosts = request.add_hosts.iter().map(|(name, address)| format!("{name}={address}"));
    add("ExtraHosts", Some(hosts.collect::<Vec<_>>().join(",")));
    add("CgroupParent", sandbox.cgroup_parent.clone());
    add("ImageResolveMode", (command.pull == PullPolicy::Always).then(|| "pull".to_owned()));
    add("MultiPlatform", (!request.more_platforms.is_empty()).then(|| "true".to_owned()));
    add("NoCache", (request.cache == CachePolicy::Ignore).then(|| "true".to_owned()));
    add("NoCacheFilter", Some(request.no_cache_stages.join(",")));
    add("ShmSize", sandbox.shm_size_bytes.map(|bytes| bytes.to_string()));
    add("Ulimit", Some(sandbox.ulimits.iter().map(ulimit).collect::<Vec<_>>().join(",")));
    let limits = &sandbox.limits;
    add("Memory", limits.memory_bytes.map(|bytes| bytes.to_string()));
    add("MemorySwap", limits.memory_swap_bytes.map(|bytes| bytes.to_string()));
    add("CPUShares", limits.cpu_shares.map(|it| it.to_string()));
    add("CPUPeriod", limits.cpu_period_us.map(|it| it.to_string()));
    add("CPUQuota", limits.cpu_quota_us.map(|it| it.to_string()));
    add("CPUSetCPUs", limits.cpuset_cpus.clone());
    add("CPUSetMems", limits.cpuset_mems.clone());
    add("SourceDateEpoch", request.source_date_epoch.map(|it| it.to_string()));
    options
}

fn ulimit(limit: &Rlimit) -> String {
    format!("{}={}:{}", limit.name, limit.soft, limit.hard)
}

/// The warnings of the build checks, a line each.
pub(super) fn checked(checks: &Checks) -> Vec<String> {
    let warnings = checks.warnings.iter().take(MOST_ENTRIES);
    let line = warnings.map(|warning| {
        let place = format!("{}:{}", checks.file, warning.focus.first_line);
        cut(&format!("{}: {} ({place})", warning.rule, warning.detail))
    });
    line.collect()
}

/// Adds a warning while there is room.
pub(super) fn warn(warnings: &mut Vec<String>, text: &str) {
    if warnings.len() < MOST_ENTRIES {
        warnings.push(cut(&without_secrets(text)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_are_called_as_buildx_calls_them() {
        for (context, dockerfile, expected) in [
            ("/home/u/app", "/home/u/app/Dockerfile", "app"),
            ("/home/u/app", "/home/u/app/sub/Dockerfile", "app/sub"),
            ("/home/u/app", "/home/u/app/dev.Dockerfile", "app/dev.Dockerfile"),
            ("/home/u/app", "/home/u/app/a/b/dev", "app/a/b/dev"),
            ("/home/u/app", "/srv/other/Dockerfile", "other"),
            ("/home/u/app", "/srv/other/dev", "other/dev"),
            ("/home/u/app", "Dockerfile", "app"),
        ] {
            assert_eq!(place(Path::new(context), Path::new(dockerfile)), expected, "{dockerfile}");
        }
        assert_eq!(below("/a/b", "/a/b/c/D"), "c/D");
        assert_eq!(below("/a/b", "/a/bc/D"), "/a/bc/D");
        assert_eq!(cut(&"\u{20ac}".repeat(1000)).len(), 2046);
    }
}
