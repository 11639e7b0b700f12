//! Manifests of an upstream: here, still the same, or fetched.

use std::sync::Arc;

use davit_distribution::{Error, Fetched, Target as Remote};

use super::{Mirrors, Place, failed, rows::MakeRepository, upstream::Answer};
use crate::{
    auth::Rights,
    fault::Fault,
    manifests::{self, Condition, Content, Put, Stored, Target},
    registry::find_repo,
};

impl Mirrors {
    /// Finds a manifest: what is here as long as it is believed, or what the upstream has. `may_fill`
    /// says whether the upstream is asked at all.
    ///
    /// # Errors
    /// [`Fault::MANIFEST_UNKNOWN`], or [`Fault::Upstream`] and [`Fault::Busy`] where nothing is here.
    pub async fn manifest(
        &self,
        place: &Place,
        target: &Target,
        may_fill: bool,
    ) -> Result<Arc<Stored>, Fault> {
        if let Some(found) = self.believed(place, target, may_fill).await? {
            return Ok(found);
        }
        if !may_fill {
            return Err(Fault::MANIFEST_UNKNOWN);
        }
        let turn = place.upstream.turn(&place.local, target);
        let _mine = turn.lock().await;
        // Somebody may have asked while this one waited.
        match self.believed(place, target, may_fill).await? {
            Some(found) => Ok(found),
            None => self.ask(place, target).await,
        }
    }

    async fn here(&self, place: &Place, target: &Target) -> Result<Option<Arc<Stored>>, Fault> {
        match manifests::find(&self.registry, &place.local, target).await {
            Ok(found) => Ok(Some(found)),
            Err(Fault::Unknown(_)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// What is served without a question to the upstream.
    async fn believed(
        &self,
        place: &Place,
        target: &Target,
        may_fill: bool,
    ) -> Result<Option<Arc<Stored>>, Fault> {
        let here = self.here(place, target).await?;
        let answer = place.upstream.answer(&place.local, target);
        match (target, here, answer) {
            (Target::Digest(_), Some(here), _) => Ok(Some(here)),
            (Target::Tag(_), Some(here), Some(Answer::Same | Answer::Failed)) => Ok(Some(here)),
            (Target::Tag(_), Some(here), _) if !may_fill => Ok(Some(here)),
            (_, None, Some(Answer::Absent)) => Err(Fault::MANIFEST_UNKNOWN),
            (_, None, Some(Answer::Failed)) => Err(Fault::Upstream),
            _ => Ok(None),
        }
    }

    async fn ask(&self, place: &Place, target: &Target) -> Result<Arc<Stored>, Fault> {
        let here = self.here(place, target).await?;
        if place.upstream.is_blocked() {
            return here.ok_or(Fault::Busy);
        }
        let (session, remote) = (place.session(), remote(target));
        if let Some(here) = &here {
            match session.resolve(&remote).await {
                Ok(now) if now.digest == here.digest => {
                    place.upstream.note(&place.local, target, Answer::Same);
                    return Ok(Arc::clone(here));
                }
                Ok(_) => {}
                Err(error) => return self.without(place, target, &error, Some(here)).await,
            }
        }
        match session.manifest(&remote).await {
            Ok(fetched) => {
                let kept = self.keep(place, target, fetched).await?;
                place.upstream.note(&place.local, target, Answer::Same);
                Ok(kept)
            }
            Err(error) => self.without(place, target, &error, here.as_ref()).await,
        }
    }

    /// What is served when the upstream gave nothing: what is here, unless it said that there is none.
    async fn without(
        &self,
        place: &Place,
        target: &Target,
        error: &Error,
        here: Option<&Arc<Stored>>,
    ) -> Result<Arc<Stored>, Fault> {
        place.upstream.heed(error);
        if error.is_not_found() {
            place.upstream.note(&place.local, target, Answer::Absent);
            if let (Target::Tag(tag), Some(_)) = (target, here) {
                // Else it would come back with the next failure.
                let gone =
                    manifests::delete_tag(&self.registry, &place.local, tag, (None, None)).await;
                if let Err(fault) = gone {
                    tracing::warn!(error = &fault as &dyn std::error::Error, "a tag stays");
                }
            }
            return Err(Fault::MANIFEST_UNKNOWN);
        }
        place.upstream.note(&place.local, target, Answer::Failed);
        let fault = failed(error);
        match here {
            Some(here) => Ok(Arc::clone(here)),
            // Docker Hub refuses what does not exist.
            None if error.is_denied() => Err(Fault::MANIFEST_UNKNOWN),
            None => Err(fault),
        }
    }

    /// Keeps what was fetched; the client has compared it with its digest.
    async fn keep(
        &self,
        place: &Place,
        target: &Target,
        fetched: Fetched,
    ) -> Result<Arc<Stored>, Fault> {
        self.make_repository(place).await?;
        let Fetched { document, descriptor } = fetched;
        let body = document.bytes().to_vec().into();
        let content = Content::parse(body, Some(&descriptor.media_type))?;
        let stored = Arc::new(Stored {
            digest: descriptor.digest,
            media_type: content.media_type.as_str().to_owned(),
            body: content.body.clone(),
        });
        let tags = match target {
            Target::Tag(tag) => vec![tag.clone()],
            Target::Digest(_) => Vec::new(),
        };
        let put = Put {
            name: place.local.clone(),
            content,
            digest: Some(descriptor.digest),
            tags,
            condition: Condition::None,
            rights: Rights::ALL,
            by: None,
        };
        manifests::put(&self.registry, put).await?;
        Ok(stored)
    }

    /// Makes the place's repository here, unless it is there.
    pub(super) async fn make_repository(&self, place: &Place) -> Result<(), Fault> {
        let database = &self.registry.database;
        let found = find_repo(&mut database.lookup().await?, &place.local).await?;
        if found.is_none() {
            let (path, keep_days) = (place.local.to_string(), place.settings().keep_days);
            database.write(MakeRepository { path, keep_days }).await?;
        }
        Ok(())
    }
}

fn remote(target: &Target) -> Remote {
    match target {
        Target::Tag(tag) => Remote::Tag(tag.clone()),
        Target::Digest(digest) => Remote::Digest(*digest),
    }
}
