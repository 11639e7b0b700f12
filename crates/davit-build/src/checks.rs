//! What the build checks found, with the file that it speaks of.

use davit_dockerfile::{
    Dockerfile,
    lint::{Mended, Warning, mend},
};

use crate::BuildRequest;

/// Warnings about one Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Name of the file, as the user gave it.
    pub file: String,
    /// Its bytes, which the warnings point into.
    pub text: Vec<u8>,
    /// The warnings, in the file's order.
    pub warnings: Vec<Warning>,
}

impl Checks {
    /// The warnings about a request's Dockerfile; `None` if there are none.
    pub(crate) fn of(request: &BuildRequest, mut warnings: Vec<Warning>) -> Option<Self> {
        // Several platforms find the same.
        warnings.sort();
        warnings.dedup();
        let text = &request.dockerfile;
        let (file, text) = (text.name.clone(), &text.bytes);
        (!warnings.is_empty()).then(|| Self { file, text: text.clone(), warnings })
    }

    /// Mends the file where no decision is needed; `None` if it is no Dockerfile.
    #[must_use]
    pub fn mend(&self) -> Option<Mended> {
        let file = Dockerfile::parse(&self.text).ok()?;
        Some(mend(&self.text, &file, &self.warnings))
    }
}
