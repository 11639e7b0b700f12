//! The builder of `POST /build`: a tar and parameters in, a stream of JSON messages out.
//!
//! Docker's command line with `DOCKER_BUILDKIT=0`, its SDKs and what is made of them speak this.
//! The messages are those of the builder before BuildKit: `Step 1/3 : …`, ` ---> ID`, what
//! commands write, the id, and `Successfully built`. Instructions that gave no image of their own
//! have an id that only tells them apart.
//!
//! Format: Docker Engine API 1.24 to 1.51, `POST /build`.

mod parameters;
mod steps;
mod stream;

use std::sync::{Arc, atomic::AtomicBool};

use davit_build::{BuildErrorKind, BuildEvent, PullPolicy, TarStream, one_line};
use davit_image::Reference;

pub use self::parameters::{ClassicError, ClassicParameters};
use self::stream::Stream;
use super::{
    BuildCommand, BuildFailure, BuildOutput, BuildReport, ImageForm, ImageOutput, ImagePlace,
    InlineCache, Reach,
};
use crate::{Config, Engine, Progress};

/// Shortest form of an id that is shown, in digits.
const SHORT: usize = 12;

/// What a classic build is given.
#[expect(missing_debug_implementations, reason = "a stream has nothing to show")]
pub struct ClassicBuild {
    /// The parameters, read.
    pub parameters: ClassicParameters,
    /// The body: a tar with any of the usual compressions; empty where the parameters name a
    /// remote context.
    pub context: TarStream,
}

impl Engine {
    /// Builds an image; each message is a line of JSON with its end, in order.
    ///
    /// Blocks. `progress` is told of what is pulled. What fails once the stream has begun is its
    /// last message, so that this returns whether an image was made.
    ///
    /// # Errors
    /// [`ClassicError::Accounts`], before any message.
    pub fn build_classic(
        &self,
        build: ClassicBuild,
        messages: &(dyn Fn(&str) + Sync),
        progress: &dyn Progress,
        cancelled: &Arc<AtomicBool>,
    ) -> Result<Option<BuildReport>, ClassicError> {
        let ClassicBuild { parameters, context } = build;
        let accounts = parameters.accounts()?;
        let quiet = parameters.is_quiet();
        let stream = Stream::new(messages, &parameters);
        let (names, pull) = (parameters.names().to_vec(), parameters.pulls());
        let cache_from = parameters.cache_from();
        // What is to speed up later builds must tell them of its steps.
        let inline_cache = match cache_from.is_empty() {
            true => InlineCache::Nothing,
            false => InlineCache::Records,
        };
        if parameters.has_outputs() {
            let text = "outputs are for BuildKit: the image is kept here alone";
            stream.show(BuildEvent::Warning(text.to_owned()));
        }
        let request = parameters.request(context);
        let image = ImageOutput {
            names: names.clone(),
            form: ImageForm::default(),
            place: ImagePlace::Store,
        };
        let command = BuildCommand {
            request,
            pull: if pull { PullPolicy::Always } else { PullPolicy::Missing },
            reach: Reach::Network,
            outputs: vec![BuildOutput::Image(image)],
            cache_from,
            cache_to: Vec::new(),
            inline_cache,
            on_error: None,
            at: None,
            attestations: super::Attestations::default(),
            repository: None,
        };
        let show = |event: BuildEvent| stream.show(event);
        let built = match &accounts {
            None => self.build(command, &show, progress, cancelled),
            Some(accounts) => {
                let config = Config {
                    docker_config: None,
                    auth_files: vec![accounts.path()],
                    legacy_auth_file: None,
                    ..self.config().clone()
                };
                let engine = Self::open(config).map_err(ClassicError::Open)?;
                engine.build(command, &show, progress, cancelled)
            }
        };
        match built {
            Ok(report) => {
                finish(&stream, &report, &names, quiet);
                Ok(Some(report))
            }
            Err(error) => {
                let (code, message) = told(&error);
                stream.fail(code, &message);
                Ok(None)
            }
        }
    }
}

fn finish(stream: &Stream<'_>, report: &BuildReport, names: &[Reference], quiet: bool) {
    let Some(image) = report.images.first() else { return };
    let id = image.image.to_string();
    stream.end(&id);
    if quiet {
        stream.text(&format!("{id}\n"), stream::Loudness::Always);
        return;
    }
    let digits = id.rsplit(':').next().unwrap_or(&id);
    let short = digits.get(..SHORT).unwrap_or(digits);
    stream.text(&format!("Successfully built {short}\n"), stream::Loudness::Usual);
    for name in names {
        stream.text(&format!("Successfully tagged {}\n", name.familiar()), stream::Loudness::Usual);
    }
}

/// An error as the stream has it: the code of the command that failed, and the words.
fn told(error: &BuildFailure) -> (i32, String) {
    if let BuildFailure::Build(build) = error
        && let BuildErrorKind::Command { command, code, .. } = &build.kind
    {
        let text = format!("The command '{command}' returned a non-zero code: {code}");
        return (*code, text);
    }
    (1, one_line(error))
}
