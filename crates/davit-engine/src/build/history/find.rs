//! Which build is meant: by its id, as buildx writes it, or counted back from the newest.

use super::PastBuild;

/// The builder and the node of each build's full name, as buildx has them.
const PLACE: &str = "default/default";
/// Fewest characters of an id that stand for all of it.
const SHORTEST: usize = 4;

/// Why no build is meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// There is none at all.
    #[error("no build is recorded")]
    None,
    /// What follows `^` is no number.
    #[error("`{0}` does not say how many builds back")]
    Offset(String),
    /// There are not so many.
    #[error("no build is recorded that is {offset} before the newest; there are {builds}")]
    Beyond {
        /// What was asked for.
        offset: usize,
        /// How many there are.
        builds: usize,
    },
    /// None has this id.
    #[error("no record of a build `{0}`")]
    Unknown(String),
    /// Several begin like this.
    #[error("several builds begin with `{0}`")]
    Ambiguous(String),
}

impl PastBuild {
    /// Its name in full: `BUILDER/NODE/ID`.
    #[must_use]
    pub fn reference(&self) -> String {
        full_reference(&self.id)
    }
}

/// The name of a build in full.
pub(in crate::build) fn full_reference(id: &str) -> String {
    format!("{PLACE}/{id}")
}

/// Finds a build, the newest first among `builds`: an id, the beginning of one or a full name, `^N`
/// for the one that is N before the newest; nothing for the newest.
///
/// # Errors
/// [`HistoryError`]
pub fn find_build<'b>(
    builds: &'b [PastBuild],
    reference: Option<&str>,
) -> Result<&'b PastBuild, HistoryError> {
    let text = reference.filter(|text| !text.is_empty()).unwrap_or("^0");
    if let Some(offset) = text.strip_prefix('^') {
        let offset: usize = offset.parse().map_err(|_| HistoryError::Offset(text.to_owned()))?;
        let beyond = HistoryError::Beyond { offset, builds: builds.len() };
        let error = if builds.is_empty() { HistoryError::None } else { beyond };
        return builds.get(offset).ok_or(error);
    }
    let unknown = || HistoryError::Unknown(text.to_owned());
    let id = text.rsplit('/').next().filter(|id| !id.is_empty()).ok_or_else(unknown)?;
    if let Some(build) = builds.iter().find(|build| build.id == id) {
        return Ok(build);
    }
    let mut found = builds.iter().filter(|it| id.len() >= SHORTEST && it.id.starts_with(id));
    match (found.next(), found.next()) {
        (Some(build), None) => Ok(build),
        (Some(_), Some(_)) => Err(HistoryError::Ambiguous(text.to_owned())),
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use davit_image::Timestamp;

    use super::*;
    use crate::build::{BuildSpec, BuildStatus};

    #[test]
    fn finds_what_is_meant() {
        let build = |id: &str| PastBuild {
            id: id.to_owned(),
            status: BuildStatus::Completed,
            started: Timestamp::EPOCH,
            finished: None,
            spec: BuildSpec::default(),
        };
        let builds = [build("aaaa1111"), build("aaaa2222"), build("bbbb3333")];
        let found = |text| find_build(&builds, text).map(|build| build.id.as_str());
        for (text, id) in [
            (None, "aaaa1111"),
            (Some(""), "aaaa1111"),
            (Some("^0"), "aaaa1111"),
            (Some("^2"), "bbbb3333"),
            (Some("bbbb"), "bbbb3333"),
            (Some("default/default/aaaa2222"), "aaaa2222"),
        ] {
            assert_eq!(found(text), Ok(id), "{text:?}");
        }
        assert_eq!(found(Some("^x")), Err(HistoryError::Offset("^x".to_owned())));
        assert_eq!(found(Some("^3")), Err(HistoryError::Beyond { offset: 3, builds: 3 }));
        assert_eq!(found(Some("aaaa")), Err(HistoryError::Ambiguous("aaaa".to_owned())));
        for text in ["bbb", "cccc", "a/", "/"] {
            assert_eq!(found(Some(text)), Err(HistoryError::Unknown(text.to_owned())));
        }
        assert_eq!(find_build(&[], None), Err(HistoryError::None));
        assert_eq!(builds[0].reference(), "default/default/aaaa1111");
    }
}
