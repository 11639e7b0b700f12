//! What errors tell beyond their text.

/// Advice to the user, kept apart from the error's own words.
pub trait Hint: std::error::Error {
    /// Lines of advice, each a sentence or a command to type.
    fn hints(&self) -> Vec<String> {
        Vec::new()
    }
}
