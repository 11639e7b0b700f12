//! What a build fetches from elsewhere: files of web servers and git repositories.
//!
//! Each becomes a layer; a build record leads from what was asked for to the layer that it gave,
//! so that the next build asks only whether that is still so.

mod ceiling;
mod git;
mod http;
mod layer;

use std::{
    collections::BTreeMap,
    error::Error,
    io,
    sync::{Arc, OnceLock, atomic::AtomicBool},
    time::Instant,
};

use davit_build::{Agent, FetchedSource, RemoteSource, Sources};
use davit_image::{DiffId, Digest};
use davit_store::{Lease, NewBuildRecord, StoreError};
use serde::{Serialize, de::DeserializeOwned};

pub(crate) use self::git::{GIT_CHECKOUT, guard_helper, remote_of};
use self::{ceiling::CeilingReason, git::GitError};
use super::Reach;
use crate::{Engine, Hint, Progress, RegistryError, origin::Stop, registry::Registries};

/// Why a source cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    /// The network side cannot be set up.
    #[error(transparent)]
    Network(#[from] RegistryError),
    /// The web server does not give it.
    #[error(transparent)]
    Http(#[from] davit_distribution::Error),
    /// git does not give it.
    #[error(transparent)]
    Git(#[from] GitError),
    /// It is another file than the one that is wanted.
    #[error("its digest is {found}, not {wanted}")]
    Checksum {
        /// What it has to be.
        wanted: Digest,
        /// What it is.
        found: Digest,
    },
    /// It is larger than what there is room for.
    #[error("it has more than {bytes} bytes, the most that a source may have here")]
    TooLarge {
        /// The limit.
        bytes: u64,
        /// What sets it.
        reason: CeilingReason,
    },
    /// It cannot be kept.
    #[error("cannot keep it")]
    Keep(#[source] io::Error),
    /// It makes no layer.
    #[error("it makes no layer")]
    Layer(#[from] davit_layer::WriteError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is not here, and nobody is to be asked.
    #[error("it is not in the store")]
    Offline,
    /// Nobody wants it any more.
    #[error("it was stopped")]
    Stopped,
}

impl Hint for SourceError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Git(error) => error.hints(),
            Self::Store(error) => error.hints(),
            Self::Http(davit_distribution::Error::Denied { .. }) => {
                vec!["`--secret id=HTTP_AUTH_TOKEN_HOST,env=TOKEN` is sent to HOST".to_owned()]
            }
            Self::Checksum { found, .. } => {
                vec![format!("if this is the file that you want: `--checksum={found}`")]
            }
            Self::TooLarge { reason, .. } => vec![reason.hint().to_owned()],
            Self::Offline => vec!["build once without --offline".to_owned()],
            _ => Vec::new(),
        }
    }
}

/// The hints of an error of [`Fetcher`].
pub(super) fn hints(error: &(dyn Error + Send + Sync + 'static)) -> Vec<String> {
    error.downcast_ref::<SourceError>().map(Hint::hints).unwrap_or_default()
}

/// Fetches the sources of one build.
pub(super) struct Fetcher<'e> {
    pub(super) engine: &'e Engine,
    pub(super) lease: &'e Lease<'e>,
    pub(super) progress: &'e dyn Progress,
    pub(super) cancelled: &'e Arc<AtomicBool>,
    pub(super) reach: Reach,
    /// What the caller gave, by id.
    pub(super) secrets: BTreeMap<String, davit_build::Secret>,
    pub(super) agents: BTreeMap<String, Agent>,
    pub(super) registries: OnceLock<Registries>,
}

impl Sources for Fetcher<'_> {
    fn fetch(&self, source: &RemoteSource) -> Result<FetchedSource, Box<dyn Error + Send + Sync>> {
        let item = source.to_string();
        Ok(match source {
            RemoteSource::Http(source) => self.file(source, &item)?,
            RemoteSource::Git(source) => self.checkout(source, &item)?,
        })
    }
}

impl Fetcher<'_> {
    fn stop(&self) -> Stop {
        Stop::with(Some(self.cancelled))
    }

    /// A secret that is one line of text.
    fn secret(&self, id: &str) -> Option<String> {
        let text = std::str::from_utf8(self.secrets.get(id)?.expose()).ok()?;
        let line = text.trim_end_matches(['\r', '\n']);
        // A second line would be a second header.
        (!line.contains(|it: char| it.is_control())).then(|| line.to_owned())
    }

    fn registries(&self) -> Result<&Registries, SourceError> {
        if let Some(registries) = self.registries.get() {
            return Ok(registries);
        }
        let registries = self.engine.registries()?;
        Ok(self.registries.get_or_init(|| registries))
    }

    /// What is known of a key, its layer kept by the lease.
    fn known<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, SourceError> {
        let record = self.engine.store().use_build_record(self.lease, key)?;
        // A record of another version of davit is as good as none.
        Ok(record.and_then(|record| serde_json::from_value(record.spec).ok()))
    }

    fn remember<T: Serialize>(
        &self,
        (key, kind): (String, &str),
        record: &T,
        layer: Option<DiffId>,
        begun: Instant,
    ) -> Result<(), SourceError> {
        let spec = serde_json::to_value(record).expect("records hold nothing that JSON cannot");
        let cost_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let items = layer.iter().map(|layer| layer.digest()).collect();
        let record = NewBuildRecord { key, kind: kind.to_owned(), spec, items, cost_us };
        Ok(self.engine.store().put_build_records(&[record])?)
    }
}

/// Digest of words, so that no two lists of them are written alike.
fn digest_of(words: &[&str]) -> Digest {
    let text = serde_json::to_vec(words).expect("strings are JSON");
    Digest::of(&text)
}
