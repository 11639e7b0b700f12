//! Who asks, and whether they may: before anything else happens.

use davit_distribution::wire::{ErrorCode, Scope};
use http::{Method, StatusCode, header, request::Parts};

use super::{Oci, Operation, Reply, Route};
use crate::{
    auth::{Action, Auth, Caller, Decision, Need, Refusal, Told, peer},
    fault::Fault,
    mirror::Place,
    name::RepositoryName,
};

impl Operation {
    /// What the gate asks for before the operation runs. Tags are looked at again where they move: by
    /// their effect, in the transaction.
    #[must_use]
    pub fn need<'r>(self, name: &'r RepositoryName, last: &str) -> Need<'r> {
        let action = match self {
            Self::Ping => return Need::Credential,
            Self::Catalog => return Need::Catalog,
            Self::Tags | Self::Referrers | Self::GetManifest | Self::GetBlob => Action::Pull,
            Self::PutManifest
            | Self::BeginUpload
            | Self::UploadStatus
            | Self::AppendUpload
            | Self::FinishUpload
            | Self::CancelUpload => Action::Push,
            Self::DeleteManifest if last.contains(':') => Action::DeleteManifest,
            Self::DeleteManifest => Action::DeleteTag,
            Self::DeleteBlob => Action::DeleteBlob,
        };
        Need::Repository(action, name.as_str())
    }
}

impl Oci {
    /// Lets a request through, or says what to answer instead.
    pub(super) async fn admit(
        &self,
        route: &Route,
        parts: &Parts,
    ) -> Result<Result<Caller, Reply>, Fault> {
        let peer = peer(&parts.extensions);
        let need = match route {
            Route::Server(Operation::Catalog) => Need::Catalog,
            Route::Server(_) => Need::Credential,
            Route::Repository(operation, name, last) => operation.need(name, last),
        };
        let wanted = match route {
            // Whoever asks whether a blob is there is about to push it, and some clients (ORAS' SDK)
            // never come back for a token that allows more than their first request needed.
            Route::Repository(Operation::GetBlob, name, _) if parts.method == Method::HEAD => {
                Need::Repository(Action::Push, name.as_str())
            }
            _ => need,
        };
        let header = parts.headers.get(header::AUTHORIZATION);
        let caller = match self.auth.authenticate(header, peer).await {
            Ok(caller) => caller,
            Err(refusal) => return Ok(Err(self.refused(&refusal, wanted, parts))),
        };
        let decision = self.auth.gate(&caller, need).await?;
        Ok(match decision {
            Decision::Allow => Ok(caller),
            Decision::Challenge => {
                Err(self.challenge(&Auth::scope_of(wanted), parts, caller.has_credential))
            }
            Decision::Denied => {
                let words = "the account may not do this";
                Err(Reply::error(StatusCode::FORBIDDEN, ErrorCode::Denied, words))
            }
            Decision::Absent => Err(Reply::from(absent(route))),
        })
    }

    /// As [`Self::admit`], for a repository that a mirror keeps: it may be open to more callers.
    pub(super) async fn admit_to(
        &self,
        place: &Place,
        route: &Route,
        parts: &Parts,
    ) -> Result<Result<Caller, Reply>, Fault> {
        let peer = peer(&parts.extensions);
        let header = parts.headers.get(header::AUTHORIZATION);
        if route.operation().reads()
            && let Ok(caller) = self.auth.authenticate(header, peer).await
            && place.is_open_to(&caller)
        {
            return Ok(Ok(caller));
        }
        self.admit(route, parts).await
    }

    /// Tells whether the caller may pull from a repository that the path does not name.
    pub(super) async fn may_pull(
        &self,
        caller: &Caller,
        name: &RepositoryName,
    ) -> Result<bool, Fault> {
        let need = Need::Repository(Action::Pull, name.as_str());
        Ok(self.auth.gate(caller, need).await? == Decision::Allow)
    }

    /// Asks for a token that also names the source of a mount, where the credential behind the token in
    /// hand may pull it; `None` where no token of it would. Goes by rights, not by what is there.
    pub(super) async fn ask_for_source(
        &self,
        caller: &Caller,
        (name, from): (&RepositoryName, &RepositoryName),
        parts: &Parts,
    ) -> Result<Option<Reply>, Fault> {
        if !self.auth.may_ask_for(caller, Action::Pull, from.as_str()).await? {
            return Ok(None);
        }
        let need = |action, name: &RepositoryName| -> Vec<Scope> {
            Auth::scope_of(Need::Repository(action, name.as_str()))
        };
        let scopes = [need(Action::Push, name), need(Action::Pull, from)].concat();
        Ok(Some(self.challenge(&scopes, parts, true)))
    }

    fn challenge(&self, scopes: &[Scope], parts: &Parts, has_credential: bool) -> Reply {
        let error = has_credential.then_some("insufficient_scope");
        let challenge = self.auth.challenge(&parts.headers, scopes, error);
        let words = "authentication is needed";
        let mut reply = Reply::error(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, words);
        reply.head.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        reply
    }

    fn refused(&self, refusal: &Refusal, need: Need<'_>, parts: &Parts) -> Reply {
        let Told { status, code, message, wait_seconds } = refusal.told();
        let mut reply = Reply::error(status, code, message);
        if let Refusal::Wrong = refusal {
            let (scopes, error) = (Auth::scope_of(need), Some("invalid_token"));
            let challenge = self.auth.challenge(&parts.headers, &scopes, error);
            reply.head.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        match wait_seconds {
            Some(seconds) => reply.with(header::RETRY_AFTER, &seconds.to_string()),
            None => reply,
        }
    }
}

/// What a repository that does not exist answers to the same request.
fn absent(route: &Route) -> Fault {
    match route {
        Route::Repository(Operation::GetManifest, ..) => Fault::MANIFEST_UNKNOWN,
        Route::Repository(Operation::GetBlob, ..) => Fault::BLOB_UNKNOWN,
        _ => Fault::NAME_UNKNOWN,
    }
}
