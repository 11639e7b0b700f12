//! One build, from the checkout to the push.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use davit_distribution::Secret;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::{
    super::{
        claim::{Outcome, Report},
        queue::Plan,
        rules::{concerns, with_commit},
        source::Autotest,
    },
    Davit,
    files::private,
    git::{Git, GitAccess, GitError},
    hooks,
};

/// File whose service `sut` is a test.
const COMPOSE: &str = "docker-compose.test.yml";
/// Parent of the steps' cgroups: one for all builds, for nobody removes it when a build ends.
const CGROUP: &str = "autobuild";

/// What a build task needs to know.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::autobuild) struct BuildTask {
    pub(in crate::autobuild) davit: Davit,
    pub(in crate::autobuild) git: GitAccess,
    pub(in crate::autobuild) reference: String,
    pub(in crate::autobuild) commit: Option<String>,
    pub(in crate::autobuild) plan: Plan,
    /// The registry, `HOST:PORT`, and name and token for it.
    pub(in crate::autobuild) registry: String,
    pub(in crate::autobuild) login: (String, String),
    /// The repository.
    pub(in crate::autobuild) path: String,
    pub(in crate::autobuild) variables: Vec<TaskVariable>,
    pub(in crate::autobuild) test: Autotest,
    /// What names of containers begin with.
    pub(in crate::autobuild) name: String,
    /// Where the build is shown: what its provenance names as the builder.
    pub(in crate::autobuild) builder: String,
    pub(in crate::autobuild) hook_image: String,
    pub(in crate::autobuild) limits: Limits,
}

/// A variable of hooks and builds.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::autobuild) struct TaskVariable {
    pub(in crate::autobuild) name: String,
    pub(in crate::autobuild) value: Secret,
    pub(in crate::autobuild) is_secret: bool,
}

/// What one step, and one container, may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory, as `--memory` takes them.
    pub memory: String,
    /// Processors.
    pub cpus: u32,
    /// Network of the steps: `default` or `none`.
    pub network: String,
}

/// Why a build fails.
#[derive(Debug)]
pub(super) struct Failure(pub(super) String);

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<GitError> for Failure {
    fn from(error: GitError) -> Self {
        Self(error.to_string())
    }
}

/// Where the parts of a build are.
#[derive(Debug)]
pub(super) struct Place {
    /// The task's own.
    pub(super) directory: PathBuf,
    /// The checkout in it, without links on the way.
    pub(super) tree: PathBuf,
    /// The Dockerfile, from the top.
    dockerfile: String,
    commit: String,
    message: String,
    tags: Vec<String>,
}

impl Place {
    /// The directory of the Dockerfile, within the checkout.
    pub(super) fn dockerfile_directory(&self) -> Result<PathBuf, Failure> {
        let before = self.dockerfile.rsplit_once('/').map_or("", |(before, _)| before);
        self.within(before)
    }

    /// A path of the checkout; links may not lead out of it.
    fn within(&self, path: &str) -> Result<PathBuf, Failure> {
        let found = fs_err::canonicalize(self.tree.join(path));
        let found = found.map_err(|_| Failure(format!("the repository has no `/{path}`")))?;
        if found.starts_with(&self.tree) {
            return Ok(found);
        }
        Err(Failure(format!("`/{path}` leads out of the repository")))
    }

    fn config(&self) -> PathBuf {
        self.directory.join("config")
    }

    /// Runs a command whose words go into the log.
    pub(super) fn step(&self, name: &str, command: &mut Command) -> Result<(), Failure> {
        say(&format!("==> {name}"))?;
        let status = command.stdin(Stdio::null()).status()?;
        match status.code() {
            Some(0) => Ok(()),
            Some(code) => Err(Failure(format!("{name} failed with exit code {code}"))),
            None => Err(Failure(format!("{name} was killed"))),
        }
    }
}

fn say(words: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{words}")?;
    stdout.flush()
}

impl BuildTask {
    /// Builds; what came of it.
    pub(super) fn run(&self, directory: &Path) -> (Outcome, Report) {
        let mut report = Report::default();
        let outcome = match self.carry_out(directory, &mut report) {
            Ok(outcome) => outcome,
            Err(Failure(reason)) => {
                // Without a log there is the reason alone.
                let _lost = say(&format!("error: {reason}"));
                report.reason = Some(reason);
                Outcome::Failed
            }
        };
        (outcome, report)
    }

    fn carry_out(&self, directory: &Path, report: &mut Report) -> Result<Outcome, Failure> {
        let begun = Instant::now();
        let phase = |report: &mut Report, name: &str| {
            let before: u64 = report.phases.iter().map(|(_, took)| took).sum();
            let now = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            report.phases.push((name.to_owned(), now.saturating_sub(before)));
        };
        let (git, place) = self.check_out(directory)?;
        report.commit = Some(place.commit.clone());
        report.message.clone_from(&place.message);
        phase(report, "checkout");
        if let Some(reason) = self.is_unchanged(&git, &place)? {
            say(&format!("==> skipped: {reason}"))?;
            report.reason = Some(reason);
            return Ok(Outcome::Skipped);
        }
        hooks::check(&place)?;
        self.log_in(&place)?;
        self.hook(&place, "post_checkout")?;
        self.hook(&place, "pre_build")?;
        self.build(&place)?;
        report.bases = bases(&place.directory.join("metadata.json"));
        self.hook(&place, "post_build")?;
        phase(report, "build");
        if self.test(&place)? {
            phase(report, "test");
        }
        self.hook(&place, "pre_push")?;
        for tag in &place.tags {
            let mut push = self.davit.command(&place.config());
            push.arg("push").arg("--").arg(self.image(tag));
            place.step(&format!("push {tag}"), &mut push)?;
            report.tags.push(tag.clone());
        }
        self.hook(&place, "post_push")?;
        phase(report, "push");
        self.forget(&place);
        Ok(Outcome::Done)
    }

    fn check_out(&self, directory: &Path) -> Result<(Git, Place), Failure> {
        say(&format!("==> checkout of {} {}", self.git.url, self.reference))?;
        let git = Git::open(&self.git, directory)?;
        let tree = directory.join("tree");
        let commit = git.check_out(&tree, &self.reference, self.commit.as_deref())?;
        let message = git.message(&tree)?;
        say(&format!("{commit} {message}"))?;
        let tags = self.plan.tags.iter().map(|tag| with_commit(tag, &commit));
        let tags: Result<Vec<_>, _> = tags.collect();
        let tags = tags.map_err(|error| Failure(error.to_string()))?;
        let tags = tags.iter().map(|tag| tag.as_str().to_owned()).collect();
        let dockerfile = self.plan.dockerfile.clone();
        let (directory, tree) = (directory.to_owned(), fs_err::canonicalize(tree)?);
        Ok((git, Place { directory, tree, dockerfile, commit, message, tags }))
    }

    /// Why there is nothing to build, where a rule looks at changes.
    fn is_unchanged(&self, git: &Git, place: &Place) -> Result<Option<String>, Failure> {
        let Some(previous) = self.plan.previous.as_ref().filter(|_| !self.plan.paths.is_empty())
        else {
            return Ok(None);
        };
        let Some(changed) = git.changed(&place.tree, previous)? else { return Ok(None) };
        if concerns(&self.plan.paths, changed.iter().map(String::as_str)) {
            return Ok(None);
        }
        let short: String = previous.chars().take(12).collect();
        Ok(Some(format!("none of {} paths that changed since {short} matters", changed.len())))
    }

    fn log_in(&self, place: &Place) -> Result<(), Failure> {
        fs_err::create_dir(place.config())?;
        let (name, token) = &self.login;
        let auth = BASE64.encode(format!("{name}:{token}"));
        let config = json!({ "auths": { &self.registry: { "auth": auth } } });
        Ok(private(&place.config().join("config.json"), config.to_string().as_bytes())?)
    }

    fn image(&self, tag: &str) -> String {
        format!("{}/{}:{tag}", self.registry, self.path)
    }

    fn build(&self, place: &Place) -> Result<(), Failure> {
        let mut command = self.davit.command(&place.config());
        // Base images are asked for each time: what the store has may be another repository's.
        command.args(["build", "--progress=plain", "--pull"]);
        command.arg("--provenance").arg(format!("mode=min,builder-id={}", self.builder));
        command.arg("--metadata-file").arg(place.directory.join("metadata.json"));
        if !self.plan.caching {
            command.arg("--no-cache");
        }
        if !self.plan.platforms.is_empty() {
            command.arg("--platform").arg(self.plan.platforms.join(","));
        }
        if let Some(target) = &self.plan.target {
            command.arg("--target").arg(target);
        }
        self.limit_steps(&mut command);
        for tag in &place.tags {
            command.arg("--tag").arg(self.image(tag));
        }
        self.give_variables(&mut command, place)?;
        let dockerfile = place.within(&place.dockerfile)?;
        command.arg("--file").arg(dockerfile);
        command.arg("--").arg(place.within(&self.plan.context)?);
        place.step("build", &mut command)
    }

    fn limit_steps(&self, command: &mut Command) {
        let Limits { memory, cpus, network } = &self.limits;
        command.args(["--cgroup-parent", CGROUP, "--network"]).arg(network);
        let quota = u64::from(*cpus) * 100_000;
        command.arg("--resource").arg(format!("memory={memory},memory-swap={memory}"));
        command.arg("--resource").arg(format!("cpu-period=100000,cpu-quota={quota}"));
    }

    /// Plain variables are build arguments; secret ones are for `RUN --mount=type=secret`, which keeps
    /// them out of the image.
    fn give_variables(&self, command: &mut Command, place: &Place) -> Result<(), Failure> {
        // Cache mounts of one repository are not another's, nor those of a stranger's pull request.
        let space = match (self.plan.is_fork, self.plan.number) {
            (true, number) => format!("{}/fork-{}", self.path, number.unwrap_or_default()),
            (false, _) => self.path.clone(),
        };
        command.arg("--build-arg").arg(format!("BUILDKIT_CACHE_MOUNT_NS={space}"));
        let secrets = place.directory.join("secrets");
        fs_err::create_dir(&secrets)?;
        for TaskVariable { name, value, is_secret } in &self.variables {
            if *is_secret {
                let file = secrets.join(name);
                private(&file, value.expose().as_bytes())?;
                command.arg("--secret").arg(format!("id={name},src={}", file.display()));
            } else if name != "BUILDKIT_CACHE_MOUNT_NS" {
                command.arg("--build-arg").arg(format!("{name}={}", value.expose()));
            }
        }
        Ok(())
    }

    /// What Docker's builds tell their hooks.
    pub(super) fn environment(&self, place: &Place) -> Vec<(&'static str, String)> {
        let tag = place.tags.first().cloned().unwrap_or_default();
        vec![
            ("SOURCE_BRANCH", self.plan.name.clone()),
            ("SOURCE_COMMIT", place.commit.clone()),
            ("COMMIT_MSG", place.message.clone()),
            ("DOCKER_REPO", format!("{}/{}", self.registry, self.path)),
            ("DOCKERFILE_PATH", place.dockerfile.clone()),
            ("DOCKER_TAG", place.tags.join(",")),
            ("IMAGE_NAME", self.image(&tag)),
        ]
    }

    /// A container of this build that is gone when it ends.
    pub(super) fn container(&self, place: &Place, name: &str) -> Command {
        let Limits { memory, cpus, network } = &self.limits;
        let mut command = self.davit.command(&place.config());
        command.args(["run", "--rm", "--init", "--name"]).arg(format!("{}-{name}", self.name));
        command.args(["--memory", memory, "--memory-swap", memory, "--network", network]);
        command.args(["--pids-limit", hooks::PROCESSES, "--cpus"]).arg(cpus.to_string());
        command
    }

    /// Tells whether anything was run for it.
    fn test(&self, place: &Place) -> Result<bool, Failure> {
        let is_prepared = self.hook(place, "pre_test")?;
        if !self.hook(place, "test")? {
            match &self.test {
                Autotest::Off => return Ok(is_prepared),
                Autotest::Compose => {
                    let file = place.dockerfile_directory()?.join(COMPOSE);
                    let found = if file.is_file() { "is there" } else { "is missing" };
                    return Err(Failure(format!(
                        "{COMPOSE} {found}, but this version cannot start its service `sut`: \
                         give the source a command by `--test COMMAND`"
                    )));
                }
                Autotest::Command(line) => {
                    let mut command = self.container(place, "sut");
                    for (name, value) in self.environment(place) {
                        command.arg("--env").arg(format!("{name}={value}"));
                    }
                    let tag = place.tags.first().cloned().unwrap_or_default();
                    command.args(["--entrypoint", "sh", "--pull=never"]).arg(self.image(&tag));
                    command.args(["-c", line]);
                    place.step("test", &mut command)?;
                }
            }
        }
        self.hook(place, "post_test")?;
        Ok(true)
    }

    /// Takes the names away, so that the store's own limits can remove what is behind them.
    fn forget(&self, place: &Place) {
        let mut command = self.davit.command(&place.config());
        command.args(["rmi", "--force"]).args(place.tags.iter().map(|tag| self.image(tag)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // What stays is replaced by the next build.
        let _kept = command.status();
    }
}

/// Images that a build began with, as its provenance tells.
fn bases(metadata: &Path) -> Vec<(String, String)> {
    let Ok(text) = fs_err::read(metadata) else { return Vec::new() };
    let Ok(Json::Object(facts)) = serde_json::from_slice(&text) else { return Vec::new() };
    let mut found = Vec::new();
    let provenances = facts.iter().filter(|(name, _)| name.starts_with("buildx.build.provenance"));
    for (_, provenance) in provenances {
        let materials = provenance
            .pointer("/buildDefinition/resolvedDependencies")
            .or_else(|| provenance.get("materials"))
            .and_then(Json::as_array);
        found.extend(materials.into_iter().flatten().filter_map(base));
    }
    found.sort();
    found.dedup();
    found
}

/// Name with tag, and digest, of a material that is an image; one without a tag never changes.
fn base(material: &Json) -> Option<(String, String)> {
    let uri = material["uri"].as_str()?.strip_prefix("pkg:docker/")?;
    let uri = uri.split('?').next().unwrap_or(uri);
    let pair = format!("x={}", uri.replace('+', "%2B").replace('&', "%26"));
    let name = url::form_urlencoded::parse(pair.as_bytes()).next()?.1.into_owned();
    let (name, tag) = name.rsplit_once('@')?;
    let digest = material.pointer("/digest/sha256")?.as_str()?;
    (!tag.contains(':')).then(|| (format!("{name}:{tag}"), format!("sha256:{digest}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_are_read_from_materials() {
        let read = |uri: &str| base(&json!({ "uri": uri, "digest": { "sha256": "ab" } }));
        let some = |name: &str| Some((name.to_owned(), "sha256:ab".to_owned()));
        let local = "pkg:docker/127.0.0.1%3A5000/alice/base@1?platform=linux%2Famd64";
        assert_eq!(read(local), some("127.0.0.1:5000/alice/base:1"));
        assert_eq!(read("pkg:docker/alpine@3.20"), some("alpine:3.20"));
        assert_eq!(read("pkg:oci/x@1"), None);
        assert_eq!(read("https://example.com/x"), None);
    }
}
