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
