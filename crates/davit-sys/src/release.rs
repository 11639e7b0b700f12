//! Which kernel runs.

/// The first two numbers of the running kernel's release (uname(2)); `None` where it has none.
#[must_use]
pub fn running() -> Option<(u32, u32)> {
    parse(&rustix::system::uname().release().to_string_lossy())
}

/// The first two numbers of a release like `6.12.48+deb13-amd64`.
#[must_use]
pub fn parse(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.splitn(3, '.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?;
    let digits = minor.find(|byte: char| !byte.is_ascii_digit()).unwrap_or(minor.len());
    Some((major, minor.get(..digits)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn releases() {
        let cases = [
            ("6.12.48+deb13-amd64", Some((6, 12))),
            ("6.18.44-x", Some((6, 18))),
            ("5.10-rc1", Some((5, 10))),
            ("4.8", Some((4, 8))),
            ("6", None),
            ("6.x", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(super::parse(text), expected, "{text}");
        }
        assert!(super::running().is_some());
    }
}
