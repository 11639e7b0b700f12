//! `semvercmp`: a version against constraints as `>=1.2, <2 || ^3`.

use std::cmp::Ordering;

/// A version; what it leaves out is 0.
#[derive(Clone, Debug)]
struct Version {
    core: [u64; 3],
    pre: String,
    /// How many numbers are given; the rest may be anything in a constraint.
    given: usize,
}

/// Whether the version satisfies one of the constraints between `||`.
pub(super) fn satisfies(version: &str, constraint: &str) -> Result<bool, String> {
    let version = Version::parse(version, false)?;
    let mut holds = false;
    for all in constraint.split("||") {
        let all = constraints(all)?;
        let with_pre = all.iter().any(|(_, other)| !other.pre.is_empty());
        let is_meant = version.pre.is_empty() || with_pre;
        holds |= is_meant && all.iter().all(|(sign, other)| version.is(sign, other));
    }
    Ok(holds)
}

/// The constraints that hold together, in a text with commas or spaces between them.
fn constraints(text: &str) -> Result<Vec<(&'static str, Version)>, String> {
    let wrong = || format!("`{}` is no constraint", text.trim());
    let words: Vec<&str> = text.split([',', ' ', '\t']).filter(|word| !word.is_empty()).collect();
    let (mut all, mut sign) = (Vec::new(), None);
    let mut at = 0;
    while let Some(word) = words.get(at) {
        if let (None, Some(&"-"), Some(end)) = (sign, words.get(at + 1), words.get(at + 2)) {
            all.push((">=", Version::parse(word, true)?));
            all.push(("<=", Version::parse(end, true)?));
            at += 3;
            continue;
        }
        let digits = word.trim_start_matches(['<', '>', '=', '!', '~', '^']);
        let own = sign_of(&word[..word.len() - digits.len()]).ok_or_else(wrong)?;
        let joined = match (sign.take(), own) {
            (None, own) => own,
            (Some(sign), "") => sign,
            _ => return Err(wrong()),
        };
        if digits.is_empty() {
            sign = Some(joined);
        } else {
            all.push((joined, Version::parse(digits, true)?));
        }
        at += 1;
    }
    if sign.is_some() {
        return Err(wrong());
    }
    if all.is_empty() {
        all.push(("", Version { core: [0; 3], pre: String::new(), given: 0 }));
    }
    Ok(all)
}

fn sign_of(text: &str) -> Option<&'static str> {
    Some(match text {
        "" | "=" => "",
        "!=" => "!=",
        ">" => ">",
        "<" => "<",
        ">=" | "=>" => ">=",
        "<=" | "=<" => "<=",
        "~" | "~>" => "~",
        "^" => "^",
        _ => return None,
    })
}

impl Version {
    /// Reads a version; in a constraint numbers may be `x`.
    fn parse(text: &str, is_constraint: bool) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no version");
        let (rest, build) = match text.split_once('+') {
            Some((rest, build)) => (rest, Some(build)),
            None => (text, None),
        };
        let (core, pre) = match rest.split_once('-') {
            Some((core, pre)) => (core, Some(pre)),
            None => (rest, None),
        };
        let is_part = |part: &str| {
            let is_plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
            !part.is_empty() && part.chars().all(is_plain)
        };
        let extras = [pre, build].into_iter().flatten();
        if !extras.flat_map(|extra| extra.split('.')).all(is_part) {
            return Err(wrong());
        }
        let numbers: Vec<&str> = core.strip_prefix('v').unwrap_or(core).split('.').collect();
        if numbers.len() > 3 {
            return Err(wrong());
        }
        let is_any = |number: &&str| is_constraint && matches!(*number, "x" | "X" | "*");
        let given = numbers.iter().position(is_any).unwrap_or(numbers.len());
        let mut version = Self { core: [0; 3], pre: pre.unwrap_or("").to_owned(), given };
        for (at, number) in numbers[..given].iter().enumerate() {
            let is_number = !number.is_empty() && number.bytes().all(|it| it.is_ascii_digit());
            let number = is_number.then(|| number.parse().ok()).flatten();
            version.core[at] = number.ok_or_else(wrong)?;
        }
        if numbers[given..].iter().any(|number| !is_any(number) && number.parse::<u64>().is_err()) {
            return Err(wrong());
        }
        Ok(version)
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.core.cmp(&other.core).then_with(|| compare_pre(&self.pre, &other.pre))
    }

    fn is(&self, sign: &str, other: &Self) -> bool {
        let is_whole = other.given == 3;
        let order = self.compare(other);
        // As far as the other one says.
        let same = self.core[..other.given] == other.core[..other.given];
        match sign {
            "" if is_whole => order.is_eq(),
            "" | "~" => self.is_about(other),
            "!=" if is_whole => order.is_ne(),
            "!=" => other.given > 0 && (!same || self.differs_before(other)),
            ">" if is_whole => order.is_gt(),
            ">" => self.core[..other.given] > other.core[..other.given] && other.given > 0,
            "<" => order.is_lt(),
            ">=" => order.is_ge(),
            "<=" if is_whole => order.is_le(),
            "<=" => self.core[..other.given.max(1)] <= other.core[..other.given.max(1)],
            _ => self.is_compatible(other),
        }
    }

    fn differs_before(&self, other: &Self) -> bool {
        other.given == 2 && compare_pre(&self.pre, &other.pre).is_ne()
    }

    /// The last number that is given may be larger.
    fn is_about(&self, other: &Self) -> bool {
        if self.compare(other).is_lt() {
            return false;
        }
        let is_all = other.given == 0 || (other.given == 3 && other.core == [0; 3]);
        let fixed = other.given.clamp(1, 2);
        is_all || self.core[..fixed] == other.core[..fixed]
    }

    /// What follows the first number that is not 0 may be larger.
    fn is_compatible(&self, other: &Self) -> bool {
        if self.compare(other).is_lt() {
            return false;
        }
        let first = other.core.iter().position(|number| *number > 0).unwrap_or(2);
        let fixed = (first + 1).min(other.given.max(1));
        other.given == 0 || self.core[..fixed] == other.core[..fixed]
    }
}

fn compare_pre(one: &str, other: &str) -> Ordering {
    match (one.is_empty(), other.is_empty()) {
        (true, true) => return Ordering::Equal,
        (true, false) => return Ordering::Greater,
        (false, true) => return Ordering::Less,
        _ => {}
    }
    let (mut ones, mut others) = (one.split('.'), other.split('.'));
    loop {
        let order = match (ones.next(), others.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(one), Some(other)) => match (one.parse::<u64>(), other.parse::<u64>()) {
                (Ok(one), Ok(other)) => one.cmp(&other),
                (Ok(_), Err(_)) => Ordering::Less,
                (Err(_), Ok(_)) => Ordering::Greater,
                _ => one.cmp(other),
            },
        };
        if order.is_ne() {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_hold_or_not() {
        for (version, constraint, expected) in [
            ("1.2.3", ">= 1.2, < 2", true),
            ("1.2.3", ">=1.2 <1.2.3", false),
            ("v1.2.3", "1.2", true),
            ("1.2.3", "1.x", true),
            ("2.0.0", "*", true),
            ("2.0.0", "", true),
            ("1.2.3", "!=1.2.x", false),
            ("1.3.0", "!=1.2.x", true),
            ("11.1.0", ">11", false),
            ("12.0.0", ">11", true),
            ("11.9.0", "<=11", true),
            ("11.9.0", "<=11.8", false),
            ("1.2.9", "~1.2.3", true),
            ("1.3.0", "~1.2.3", false),
            ("1.9.0", "~>1", true),
            ("1.9.0", "^1.2.3", true),
            ("0.3.0", "^0.2.3", false),
            ("0.2.9", "^0.2.3", true),
            ("0.0.3", "^0.0.3", true),
            ("0.0.4", "^0.0.3", false),
            ("0.0.4", "^0.0", true),
            ("0.9.4", "^0", true),
            ("1.5.0", "1.2 - 1.6", true),
            ("1.7.0", "1.2 - 1.6", false),
            ("3.0.0", "<1 || >=3", true),
            ("1.2.3-beta.1", ">=1.2", false),
            ("1.2.3-beta.1", ">=1.2-0", true),
            ("1.2.3-beta.2", ">1.2.3-beta.1", true),
            ("1.2.3+build", "=1.2.3", true),
        ] {
            assert_eq!(satisfies(version, constraint), Ok(expected), "{version} {constraint}");
        }
        for (version, constraint) in
            [("x", "1"), ("1.2.3.4", "1"), ("1", ">"), ("1", "=!1"), ("1", "a"), ("1", "> >1")]
        {
            assert!(satisfies(version, constraint).is_err(), "{version} {constraint}");
        }
    }
}
