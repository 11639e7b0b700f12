//! Programs of a repository that run around its build, each in a container.
//!
//! Docker's names (`hooks/pre_build` and so on, beside the Dockerfile) and variables are kept. A hook sees the checkout at
//! `/src` and may change it; it has no access to the host, to the registry's token or to images. That is
//! why `hooks/build` and `hooks/push`, which call `docker`, are refused.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use super::{
    build::{BuildTask, Failure, Place},
    files::{private, quoted},
};

/// Where the checkout is in a hook's container.
const SOURCE: &str = "/src";
/// Where the variables are in it.
const VARIABLES: &str = "/run/build-variables";
/// Runs a hook as Docker does, by bash, where the image has that.
const START: &str = ". /run/build-variables; if command -v bash >/dev/null; then exec bash \"$0\"; fi; exec sh \"$0\"";
/// Processes of one container.
pub(super) const PROCESSES: &str = "4096";

/// Hooks that take the place of what only the worker can do.
const REFUSED: [&str; 2] = ["build", "push"];

/// The hook of this name, if the repository has it.
///
/// # Errors
/// It leads out of the checkout.
pub(super) fn find(place: &Place, name: &str) -> Result<Option<PathBuf>, Failure> {
    let hook = place.dockerfile_directory()?.join("hooks").join(name);
    let Ok(hook) = fs_err::canonicalize(hook) else { return Ok(None) };
    if !hook.starts_with(&place.tree) || !hook.is_file() {
        return Err(Failure(format!("hooks/{name} is no file of the repository")));
    }
    Ok(Some(hook))
}

/// Refuses hooks that cannot do what they are for.
pub(super) fn check(place: &Place) -> Result<(), Failure> {
    for name in REFUSED {
        if find(place, name)?.is_some() {
            let instead =
                if name == "build" { "pre_build and post_build" } else { "pre_push and post_push" };
            return Err(Failure(format!(
                "hooks/{name} would take the place of the worker's own {name}, and hooks have no access to \
                 images: use hooks/{instead}, and build arguments of the source"
            )));
        }
    }
    Ok(())
}

impl BuildTask {
    /// Runs a hook, if there is one; tells whether there was.
    pub(super) fn hook(&self, place: &Place, name: &str) -> Result<bool, Failure> {
        let Some(hook) = find(place, name)? else { return Ok(false) };
        let variables = place.directory.join("variables");
        private(&variables, self.exports(place).as_bytes())?;
        let within = |path: &Path| {
            let below = path.strip_prefix(&place.tree).unwrap_or(Path::new(""));
            Path::new(SOURCE).join(below)
        };
        let mut command = self.container(place, name);
        command.arg("--volume").arg(format!("{}:{SOURCE}", place.tree.display()));
        command.arg("--volume").arg(format!("{}:{VARIABLES}:ro", variables.display()));
        command.arg("--workdir").arg(within(&place.dockerfile_directory()?));
        command.args(["--entrypoint", "sh", "--security-opt", "no-new-privileges"]);
        command.args([&*self.hook_image, "-c", START]).arg(within(&hook));
        place.step(&format!("hooks/{name}"), &mut command)?;
        Ok(true)
    }

    /// Variables as a shell reads them.
    fn exports(&self, place: &Place) -> String {
        let mut text = String::new();
        let own = self.variables.iter().map(|it| (it.name.as_str(), it.value.expose()));
        let given = self.environment(place);
        // What is known of the build is not the owner's to change.
        for (name, value) in own.chain(given.iter().map(|(name, value)| (*name, value.as_str()))) {
            let _infallible = writeln!(text, "export {name}={}", quoted(value));
        }
        text
    }
}
