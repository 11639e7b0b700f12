//! What errors tell beyond their text.

/// Advice to the user, kept apart from the error's own words.
pub trait Hint: std::error::Error {
    /// Lines of advice, each a sentence or a command to type.
    fn hints(&self) -> Vec<String> {
        Vec::new()
    }
}

impl Hint for davit_store::StoreError {
    fn hints(&self) -> Vec<String> {
        let hint = match self {
            error if error.is_no_space() => "davit system prune",
            error if error.is_damage() => "davit system check --repair",
            _ => return Vec::new(),
        };
        vec![hint.to_owned()]
    }
}

/// Tells whether a full disk or quota is at the bottom of an error.
pub(crate) fn is_no_space(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && matches!(
                io.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
            )
        {
            return true;
        }
        cause = error.source();
    }
    false
}
