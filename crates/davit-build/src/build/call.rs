//! What is asked about a Dockerfile instead of building it.

use std::sync::atomic::AtomicBool;

use davit_dockerfile::{Dockerfile, Stage, outline::Outline};
use davit_store::{Lease, Store};

use super::{
    context::{main_ignore, read_tar_context},
    parse_failed,
    remote::read_remote,
};
use crate::{
    BaseImages, BuildRequest, Checks, Entitlement, Sources,
    error::{BuildError, BuildErrorKind},
    frontend,
    plan::{
        planner::Planner,
        platforms::{self, Asked},
    },
    step::store_failed,
};

/// What a question works with.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "callbacks have nothing to show")]
pub struct CallEnvironment<'b, 's> {
    /// The store, where a context that is a tar is read.
    pub store: &'s Store,
    /// Keeps what is read.
    pub lease: &'s Lease<'s>,
    /// Base images; their layers need not be here.
    pub images: &'b dyn BaseImages,
    /// Fetches a Dockerfile or a context that lies elsewhere.
    pub sources: &'b dyn Sources,
    /// Set by another thread to cancel.
    pub cancelled: &'b AtomicBool,
}

/// What checking found.
#[derive(Debug)]
pub struct Checked {
    /// The warnings, perhaps none.
    pub checks: Checks,
    /// Why the file cannot be built at all; what stands behind that place was not looked at.
    pub error: Option<BuildError>,
}

impl Checked {
    /// Whether all of the file was looked at, be it that warnings are errors.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let kind = self.error.as_ref().map(|error| &error.kind);
        matches!(kind, None | Some(BuildErrorKind::Checks(_)))
    }
}

/// Checks a Dockerfile without building it: the target and what it needs, all stages if there is no
/// target.
///
/// Blocks until done.
///
/// # Errors
/// If the file or the ignore file cannot be read, or the options of the checks are wrong.
pub fn check(
    request: &mut BuildRequest,
    environment: &CallEnvironment<'_, '_>,
) -> Result<Checked, BuildError> {
    let mut warnings = Vec::new();
    let error = match read(request, environment)? {
        Err(error) => Some(error),
        Ok(dockerfile) => {
            let ignore = main_ignore(request)?;
            let asked = Asked { images: environment.images, ignore: ignore.as_ref() };
            platforms::check(request, &dockerfile, &asked, &mut warnings).err()
        }
    };
    warnings.sort();
    warnings.dedup();
    let (file, text) = (request.dockerfile.name.clone(), request.dockerfile.bytes.clone());
    Ok(Checked { checks: Checks { file, text, warnings }, error })
}

/// Finds what a target takes: arguments, secrets, SSH agents.
///
/// Blocks until done.
///
/// # Errors
/// Whatever a build would fail with before it runs anything.
pub fn outline(
    request: &mut BuildRequest,
    environment: &CallEnvironment<'_, '_>,
) -> Result<Outline, BuildError> {
    let dockerfile = read(request, environment)??;
    let ignore = main_ignore(request)?;
    Planner::new(request, &dockerfile)?.outline_target(environment.images, ignore.as_ref())
}

/// Reads the stages of a Dockerfile, which are its targets; needs no image.
///
/// # Errors
/// If the file cannot be read.
pub fn targets(
    request: &mut BuildRequest,
    environment: &CallEnvironment<'_, '_>,
) -> Result<Vec<Stage>, BuildError> {
    Ok(read(request, environment)??.stages)
}

/// The Dockerfile, wherever it is; the inner error says why it is none.
fn read(
    request: &mut BuildRequest,
    environment: &CallEnvironment<'_, '_>,
) -> Result<Result<Dockerfile, BuildError>, BuildError> {
    let scratch = environment.store.begin_layer(environment.lease).map_err(store_failed)?;
    if read_remote(request, environment, scratch.dir())?.archive.is_none() {
        read_tar_context(request, &scratch, environment.cancelled)?;
    }
    frontend::check(request)?;
    // Nothing runs: what a build must be allowed to do is no matter here.
    let all = [Entitlement::NetworkHost, Entitlement::SecurityInsecure];
    request.sandbox.entitlements.extend(all);
    let parsed = Dockerfile::parse(&request.dockerfile.bytes);
    Ok(parsed.map_err(|error| parse_failed(request, error)))
}
