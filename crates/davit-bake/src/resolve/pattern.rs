//! Patterns of names, as `app-*`.

/// Whether a name is what a pattern with `*`, `?`, `[a-z]` and `\\` means.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut from, mut star, mut resume) = (0, 0, None, 0);
    while from < name.len() {
        if pattern.get(at) == Some(&'*') {
            star = Some(at);
            resume = from;
            at += 1;
            continue;
        }
        if let Some(length) = one(&pattern[at..], name[from]) {
            at += length;
            from += 1;
            continue;
        }
        let Some(star) = star else { return false };
        at = star + 1;
        resume += 1;
        from = resume;
    }
    pattern[at..].iter().all(|letter| *letter == '*')
}

/// How much of the pattern means this letter, if its start does.
fn one(pattern: &[char], letter: char) -> Option<usize> {
    match pattern {
        ['?', ..] => Some(1),
        ['\\', escaped, ..] => (*escaped == letter).then_some(2),
        ['[', rest @ ..] => {
            let (is_not, rest, skipped) = match rest {
                ['^', rest @ ..] => (true, rest, 2),
                rest => (false, rest, 1),
            };
            let end = rest.iter().skip(1).position(|it| *it == ']')? + 1;
            (is_in(&rest[..end], letter) != is_not).then_some(skipped + end + 1)
        }
        [same, ..] => (*same == letter).then_some(1),
        [] => None,
    }
}

fn is_in(class: &[char], letter: char) -> bool {
    match class {
        [from, '-', to, rest @ ..] => (*from..=*to).contains(&letter) || is_in(rest, letter),
        [one, rest @ ..] => *one == letter || is_in(rest, letter),
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_mean_names() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("[ab]?", "bx", true),
            ("[^ab]", "a", false),
            ("[a-c]x", "bx", true),
            ("[a", "a", false),
            ("[]", "]", false),
            ("\\*", "*", true),
            ("\\", "a", false),
            ("?", "é", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
