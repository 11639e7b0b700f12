//! Warnings for the user: `Warning: 299 - "TEXT"` (distribution-spec § Warnings, RFC 7234 § 5.5).

use super::challenge::Input;

/// Texts of one header, which may hold several warnings; other codes and agents are for machines,
/// and what is malformed ends the list.
#[must_use]
pub fn warnings(header: &str) -> Vec<String> {
    let mut texts = Vec::new();
    let mut input = Input::new(header);
    while let Some((is_told, text)) = warning(&mut input) {
        if is_told {
            texts.push(text);
        }
    }
    texts
}

/// The next warning, and whether it is one for the user.
fn warning(input: &mut Input<'_>) -> Option<(bool, String)> {
    input.skip(",");
    let code = input.token()?;
    input.skip("");
    let agent = input.token()?;
    input.skip("");
    let text = input.quoted()?;
    input.skip("");
    // A date may follow.
    let _date = input.quoted();
    Some(((code, agent) == ("299", "-") && !text.trim().is_empty(), text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_is_for_the_user() {
        let cases: [(&str, &[&str]); 7] = [
            (r#"299 - "old""#, &["old"]),
            (
                r#"299 - "a, \"b\"" , 299 - "c" "Sat, 25 Aug 2012 23:34:45 GMT",299 - "d""#,
                &["a, \"b\"", "c", "d"],
            ),
            (r#"110 - "stale", 299 proxy "x", 299 - "told""#, &["told"]),
            (r#"299 - "", 299 - " ""#, &[]),
            (r#"299 - "told", 299 - "open"#, &["told"]),
            ("299 - text", &[]),
            ("", &[]),
        ];
        for (header, expected) in cases {
            assert_eq!(warnings(header), expected, "{header}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(header: String) {
            let _texts = warnings(&header);
        }
    }
}
