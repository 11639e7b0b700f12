//! Options of Docker's build commands that ask for nothing: buildx takes them and does nothing, or
//! davit has no other way; and source policies, which davit does not evaluate.

use super::{BuildArgs, contexts, variables};
use crate::{environment, error::CliError};

/// Names the file of a source policy.
const POLICY: &str = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY";
/// Asks for the policy that buildx brings with it.
const OWN_POLICY: &str = "BUILDX_DEFAULT_POLICY";

// They are hidden: what does nothing needs no help.
#[derive(Debug, clap::Args)]
pub(super) struct Ignored {
    /// Steps leave no containers behind in any case
    #[arg(long, hide = true, overrides_with = "rm")]
    rm: bool,
    /// As --rm
    #[arg(long, hide = true, overrides_with = "force_rm")]
    force_rm: bool,
    /// Nothing is sent to a daemon
    #[arg(long, hide = true, overrides_with = "compress")]
    compress: bool,
    /// davit is the builder
    #[arg(long, hide = true)]
    builder: Vec<String>,
    #[arg(long, hide = true)]
    isolation: Vec<String>,
    #[arg(long, hide = true)]
    security_opt: Vec<String>,
    /// A build that somebody wants judged must not go on unjudged
    #[arg(long, hide = true, value_parser = no_policy)]
    policy: Vec<bool>,
    /// davit's own stands before the verb
    #[arg(long, short = 'D', hide = true, overrides_with = "debug")]
    debug: bool,
}

impl Ignored {
    /// Whether nobody said that policies are not to count.
    const fn wants_policies(&self) -> bool {
        self.policy.is_empty()
    }
}

/// Refuses a Dockerfile beside which a policy lies, as buildx looks for one, and what the one that the
/// environment names would judge.
pub(super) fn refuse_policy(args: &BuildArgs) -> Result<(), CliError> {
    let beside = contexts::dockerfile_on_disk(args).filter(|_| args.inline.is_none());
    let policy = beside.map(|path| path.with_added_extension("rego")).filter(|path| path.exists());
    let policy = policy.map(|path| path.display().to_string());
    let named = || environment::variable(POLICY).map(|_| format!("what {POLICY} names"));
    let own = variables::is_on(OWN_POLICY)?.then(|| format!("what {OWN_POLICY} asks for"));
    let policy = policy.or_else(named).or(own).filter(|_| args.ignored.wants_policies());
    let Some(policy) = policy else { return Ok(()) };
    let text = format!("source policies are not evaluated, and {policy} is one");
    Err(CliError::user(text).hint("--policy disabled=true builds without it"))
}

/// Takes `disabled=true` alone.
pub(in crate::commands) fn no_policy(value: &str) -> Result<bool, String> {
    match value {
        "disabled=true" | "disabled=1" => Ok(false),
        _ => Err("source policies are not evaluated, so that a build with one is refused; only \
                  disabled=true is supported"
            .to_owned()),
    }
}
