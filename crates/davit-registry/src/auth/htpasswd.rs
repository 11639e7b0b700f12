//! Apache's password files: lines of `NAME:HASH` (`htpasswd -B`).

use super::{
    PasswordHash,
    accounts::{AddAccount, Kind},
    audit::Actor,
};

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub struct PasswordFile {
    /// Users whose hashes can be taken.
    pub entries: Vec<PasswordLine>,
    /// Numbers of the other lines, from 1, and why they cannot.
    pub refused: Vec<(usize, &'static str)>,
}

/// One user of a file.
#[derive(Clone, Debug)]
pub struct PasswordLine {
    /// Number of the line, from 1.
    pub line: usize,
    /// Name of the user.
    pub name: String,
    /// Its hash.
    pub password: PasswordHash,
}

impl PasswordLine {
    /// The account that it becomes; its hash is renewed at the first login.
    #[must_use]
    pub fn account(self, by: Actor) -> AddAccount {
        let (name, password) = (self.name, Some(self.password));
        AddAccount { by, name, kind: Kind::User, password, is_admin: false }
    }
}

/// Reads a file; empty lines and comments are passed over.
#[must_use]
pub fn parse(text: &str) -> PasswordFile {
    let mut file = PasswordFile::default();
    for (at, line) in text.lines().enumerate() {
        let (number, line) = (at + 1, line.trim());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, hash)) = line.split_once(':') else {
            file.refused.push((number, "is not of the form NAME:HASH"));
            continue;
        };
        // Its other kinds of hash are too weak to be kept, and a text in clear is none.
        match PasswordHash::parse(hash) {
            Ok(password) => {
                file.entries.push(PasswordLine { line: number, name: name.to_owned(), password });
            }
            Err(_) => file.refused.push((number, "has no bcrypt hash (htpasswd -B makes one)")),
        }
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_bcrypt_and_tells_what_it_cannot() {
        let hash =
            bcrypt::hash("wonderland", 4).expect("the cost is allowed").replace("$2b$", "$2y$");
        let text = format!(
            "# comment\n\nalice:{hash}\r\nbob:$apr1$a$b\ncarol:{{SHA}}abc=\ndave\neve:clear\n"
        );
        let file = parse(&text);
        assert_eq!(file.entries.len(), 1);
        assert_eq!((file.entries[0].line, file.entries[0].name.as_str()), (3, "alice"));
        assert_eq!(file.entries[0].password.as_str(), hash);
        let lines: Vec<usize> = file.refused.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [4, 5, 6, 7]);
    }
}
