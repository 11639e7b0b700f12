//! What stands behind a `$`: names, and operators between braces.

use super::{DEPTH_LIMIT, ExpandErrorKind, Run, SIZE_LIMIT, Unset, pattern};

impl Run<'_> {
    fn look_up(&mut self, name: &str) -> Option<String> {
        let value = self.variables.value(name).map(str::to_owned);
        let names = if value.is_some() { &mut self.matched } else { &mut self.unmatched };
        if !names.contains(name) {
            names.insert(name.to_owned());
        }
        value
    }

    pub(super) fn dollar(&mut self) -> Result<String, ExpandErrorKind> {
        self.chars.next();
        if self.chars.peek() == Some(&'{') {
            self.chars.next();
            if self.depth >= DEPTH_LIMIT {
                return Err(ExpandErrorKind::Depth);
            }
            self.depth += 1;
            let value = self.braces();
            self.depth -= 1;
            return value;
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        Ok(match self.look_up(&name) {
            Some(value) => value,
            None if self.lexer.unset == Unset::Keep => format!("${name}"),
            None => String::new(),
        })
    }

    /// A name: one special parameter, a run of digits, or letters, digits and `_`.
    fn name(&mut self) -> String {
        let mut name = String::new();
        let Some(&first) = self.chars.peek() else { return name };
        if is_digit(first) {
            while let Some(c) = self.chars.next_if(|&c| is_digit(c)) {
                name.push(c);
            }
        } else if matches!(first, '@' | '*' | '#' | '?' | '-' | '$' | '!') {
            self.chars.next();
            name.push(first);
        } else {
            let part = |c: &char| c.is_alphabetic() || is_digit(*c) || *c == '_';
            while let Some(c) = self.chars.next_if(part) {
                name.push(c);
            }
        }
        name
    }

    fn braces(&mut self) -> Result<String, ExpandErrorKind> {
        match self.chars.peek() {
            None => return Err(ExpandErrorKind::Missing('}')),
            Some('{' | '}' | ':') => return Err(ExpandErrorKind::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        match self.chars.next() {
            Some('}') => Ok(match self.look_up(&name) {
                Some(value) => value,
                None if self.lexer.unset == Unset::Keep => format!("${{{name}}}"),
                None => String::new(),
            }),
            Some(':') => match self.chars.next() {
                Some(operator @ ('-' | '+' | '?')) => self.conditional(&name, operator, ":"),
                other => Err(ExpandErrorKind::Operator(
                    other.map_or_else(|| ":".to_owned(), |other| format!(":{other}")),
                )),
            },
            Some(operator @ ('-' | '+' | '?')) => self.conditional(&name, operator, ""),
            Some(operator @ ('#' | '%')) => self.trim(&name, operator),
            Some('/') => self.replace(&name),
            Some(other) => Err(ExpandErrorKind::Operator(other.to_string())),
            None => Err(ExpandErrorKind::Missing('}')),
        }
    }

    /// The text up to the closing brace. Any error is one of a missing brace if the text ends.
    fn operand(&mut self, stop: char, raw_escapes: bool) -> Result<String, ExpandErrorKind> {
        match self.until(Some(stop), raw_escapes) {
            Ok(output) => Ok(output.text),
            Err(error @ (ExpandErrorKind::Depth | ExpandErrorKind::Size)) => Err(error),
            Err(_) if self.chars.peek().is_none() => Err(ExpandErrorKind::Missing(stop)),
            Err(error) => Err(error),
        }
    }

    fn conditional(
        &mut self,
        name: &str,
        operator: char,
        colon: &str,
    ) -> Result<String, ExpandErrorKind> {
        let word = self.operand('}', false)?;
        let value = self.look_up(name);
        if value.is_none() && self.lexer.unset == Unset::Keep {
            return Ok(format!("${{{name}{colon}{operator}{word}}}"));
        }
        let missing = if value.is_none() { "is not set" } else { "is empty" };
        let value = value.filter(|value| colon.is_empty() || !value.is_empty());
        match (operator, value) {
            ('-', None) | ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value),
            (_, None) => Err(ExpandErrorKind::Required {
                name: name.to_owned(),
                message: if word.is_empty() { missing.to_owned() } else { word },
            }),
        }
    }

    fn trim(&mut self, name: &str, operator: char) -> Result<String, ExpandErrorKind> {
        let word = self.operand('}', true)?;
        let Some(value) = self.look_up(name) else {
            return Ok(match self.lexer.unset {
                Unset::Keep => format!("${{{name}{operator}{word}}}"),
                Unset::Empty => pattern::trim(&word, operator, "")?,
            });
        };
        pattern::trim(&word, operator, &value)
    }

    fn replace(&mut self, name: &str) -> Result<String, ExpandErrorKind> {
        let all = self.chars.next_if_eq(&'/').is_some();
        let pattern = self.operand('/', true)?;
        let replacement = self.operand('}', true)?;
        let value = match self.look_up(name) {
            Some(value) => value,
            None if self.lexer.unset == Unset::Keep => {
                return Ok(format!("${{{name}/{pattern}/{replacement}}}"));
            }
            None => String::new(),
        };
        if all {
            pattern::replace_all(&pattern, &value, &replacement, SIZE_LIMIT)
        } else {
            pattern::replace_first(&pattern, &value, &replacement)
        }
    }
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || (!c.is_ascii() && pattern::is_decimal(c))
}
