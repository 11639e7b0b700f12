//! A build for people.

use std::collections::BTreeMap;

use davit_engine::build::{BuildMaterial, BuildStatus, PastBuild};

use super::{
    inspect::{KILLED, end, places},
    ls,
};
use crate::{format::align, plugin, units};

/// Names of options, where they are not just their words.
const WORDS: [(&str, &str); 15] = [
    ("ExtraHosts", "Extra Hosts"),
    ("CgroupParent", "Cgroup Parent"),
    ("ImageResolveMode", "Image Resolve Mode"),
    ("MultiPlatform", "Multi-Platform"),
    ("NoCache", "No Cache"),
    ("NoCacheFilter", "No Cache Filter"),
    ("ShmSize", "Shm Size"),
    ("Ulimit", "Resource Limits"),
    ("MemorySwap", "Memory Swap"),
    ("CPUShares", "CPU Shares"),
    ("CPUPeriod", "CPU Period"),
    ("CPUQuota", "CPU Quota"),
    ("CPUSetCPUs", "CPUSet CPUs"),
    ("CPUSetMems", "CPUSet Mems"),
    ("SourceDateEpoch", "Source Date Epoch"),
];

/// All that is known of a build but its steps.
pub(super) fn text(build: &PastBuild) -> String {
    let spec = &build.spec;
    let mut parts = vec![asked(build)];
    parts.push(table("NAMED CONTEXT", &spec.named_contexts));
    parts.push(outcome(build));
    let options = spec.options.iter().map(|(name, value)| {
        let known = WORDS.iter().find(|(word, _)| word == name);
        (known.map_or(name.as_str(), |(_, shown)| *shown), value.clone())
    });
    parts.push(lines(options.collect()));
    parts.push(table("BUILD ARG", &spec.build_args));
    parts.push(table("LABEL", &spec.labels));
    if !spec.materials.is_empty() {
        let mut rows = vec!["URI\tDIGEST".to_owned()];
        let shown = |it: &BuildMaterial| format!("{}\t{}", it.uri, it.digests.join(", "));
        rows.extend(spec.materials.iter().map(shown));
        parts.push(format!("Materials:\n{}", align(&rows)));
    }
    if !spec.results.is_empty() {
        let mut rows = vec!["DIGEST\tPLATFORM\tTYPE".to_owned()];
        rows.extend(spec.results.iter().map(|result| {
            let platform = result.platform.as_deref().unwrap_or_default();
            format!("{}\t{platform}\t{}", result.digest, result.kind)
        }));
        parts.push(format!("Attachments:\n{}", align(&rows)));
    }
    if !spec.warnings.is_empty() {
        parts.push(format!("Warnings:\n{}\n", spec.warnings.join("\n")));
    }
    parts.push(failure(build));
    parts.push(format!("Print build logs: {} history logs {}", plugin::words(), build.id));
    parts.retain(|part| !part.is_empty());
    parts.join("\n")
}

fn asked(build: &PastBuild) -> String {
    let spec = &build.spec;
    let (context, dockerfile) = places(build);
    let (repository, revision) =
        spec.repository.as_ref().map_or(("", ""), |it| (&it.url, &it.revision));
    lines(vec![
        ("Name", spec.name.clone()),
        ("Ref", build.id.clone()),
        ("Context", context),
        ("Dockerfile", dockerfile.to_owned()),
        ("VCS Repository", repository.to_owned()),
        ("VCS Revision", revision.to_owned()),
        ("Target", spec.target.clone().unwrap_or_default()),
        ("Platforms", spec.platforms.join(", ")),
    ])
}

fn outcome(build: &PastBuild) -> String {
    let spec = &build.spec;
    let running = if build.status == BuildStatus::Running { " (running)" } else { "" };
    let problem = spec.problem.as_ref().map(|it| it.message.clone()).unwrap_or_default();
    let (status, error) = match build.status {
        BuildStatus::Canceled => ("Canceled".to_owned(), String::new()),
        BuildStatus::Killed => (String::new(), KILLED.to_owned()),
        _ => (String::new(), problem),
    };
    let (done, cached) = spec.counts();
    let share = (100 * cached).checked_div(spec.steps.len()).unwrap_or(0);
    let took = match build.status {
        BuildStatus::Killed => String::new(),
        _ => ls::duration(&PastBuild { finished: Some(end(build)), ..build.clone() }),
    };
    lines(vec![
        ("Started", units::date(Some(build.started))),
        ("Duration", if took.is_empty() { took } else { format!("{took}{running}") }),
        ("Error", error),
        ("Status", status),
        ("Build Steps", format!("{done}/{} ({share}% cached)", spec.steps.len())),
    ])
}

fn failure(build: &PastBuild) -> String {
    let Some(problem) = &build.spec.problem else { return String::new() };
    let mut text = problem.source.clone();
    if !problem.tail.is_empty() {
        text.push_str(&format!("Logs:\n> => {}:\n", problem.step));
        problem.tail.iter().for_each(|line| text.push_str(&format!("> {line}\n")));
    }
    text
}

/// Lines of a name and a value; what is empty is left out.
fn lines(pairs: Vec<(&str, String)>) -> String {
    let shown = pairs.into_iter().filter(|(_, value)| !value.is_empty());
    let rows: Vec<String> = shown.map(|(name, value)| format!("{name}:\t{value}")).collect();
    if rows.is_empty() { String::new() } else { align(&rows) }
}

fn table(head: &str, entries: &BTreeMap<String, String>) -> String {
    if entries.is_empty() {
        return String::new();
    }
    let mut rows = vec![format!("{head}\tVALUE")];
    rows.extend(entries.iter().map(|(name, value)| format!("{name}\t{value}")));
    align(&rows)
}
