//! Owners by name: `user[:group]`, looked up in the image's own files.

use super::Owner;

/// `/etc/passwd` and `/etc/group` of the state that is copied to; `None` where there is none.
pub(crate) trait PasswdFiles {
    /// Content of a file of the state.
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, std::io::Error>;
}

/// Why a name is no owner.
#[derive(Debug)]
pub(crate) enum OwnerError {
    /// The state's files have no such name.
    Unknown { what: &'static str, name: String, file: &'static str, known: Vec<String> },
    /// A file cannot be read.
    Io(std::io::Error),
}

/// Turns `user[:group]` into numbers. A number without group stands for both, a user by name
/// brings the group that `/etc/passwd` gives; root needs no file.
pub(crate) fn resolve_owner(text: &str, files: &dyn PasswdFiles) -> Result<Owner, OwnerError> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let mut owner = match (user, user.parse::<u32>()) {
        ("", _) => Owner::default(),
        (_, Ok(number)) => Owner { uid: number, gid: number },
        (name, Err(_)) => {
            let line = look_up(files, "user", name, "etc/passwd")?;
            Owner { uid: line.0, gid: line.1 }
        }
    };
    if let Some(group) = group.filter(|group| !group.is_empty()) {
        owner.gid = match group.parse() {
            Ok(number) => number,
            Err(_) => look_up(files, "group", group, "etc/group")?.0,
        };
    }
    Ok(owner)
}

/// The third and fourth field of the line that begins with `name`.
fn look_up(
    files: &dyn PasswdFiles,
    what: &'static str,
    name: &str,
    file: &'static str,
) -> Result<(u32, u32), OwnerError> {
    let bytes = files.read(file).map_err(OwnerError::Io)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let lines: Vec<Vec<String>> = text.lines().map(fields).collect();
    let number = |line: &[String], at: usize| line.get(at).and_then(|it| it.trim().parse().ok());
    lines
        .iter()
        .filter(|line| line[0] == name)
        .find_map(|line| Some((number(line, 2)?, number(line, 3).unwrap_or(0))))
        .or_else(|| (name == "root").then_some((0, 0)))
        .ok_or_else(|| OwnerError::Unknown {
            what,
            name: name.to_owned(),
            file,
            known: lines.into_iter().filter_map(|mut line| line.drain(..).next()).collect(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files;

    impl PasswdFiles for Files {
        fn read(&self, path: &str) -> Result<Option<Vec<u8>>, std::io::Error> {
            Ok(match path {
                "etc/passwd" => Some(
                    b"root:x:0:0:root:/root:/bin/sh\n#c\nbad\nweb:x:33:34::/srv:/bin/false\n"
                        .to_vec(),
                ),
                "etc/group" => Some(b"root:x:0:\nwww:x:35:web\n".to_vec()),
                _ => None,
            })
        }
    }

    #[test]
    fn finds_names_and_numbers() {
        let cases = [
            ("5", (5, 5)),
            ("5:6", (5, 6)),
            ("web", (33, 34)),
            ("web:www", (33, 35)),
            ("web:7", (33, 7)),
            (":www", (0, 35)),
            ("4:", (4, 4)),
            ("root:www", (0, 35)),
        ];
        for (text, (uid, gid)) in cases {
            let owner = resolve_owner(text, &Files).unwrap();
            assert_eq!((owner.uid, owner.gid), (uid, gid), "{text}");
        }
        struct Nothing;
        impl PasswdFiles for Nothing {
            fn read(&self, _: &str) -> Result<Option<Vec<u8>>, std::io::Error> {
                Ok(None)
            }
        }
        assert_eq!(resolve_owner("root:root", &Nothing).unwrap(), Owner::default());
        for (text, missing) in [("nobody", "nobody"), ("web:nogroup", "nogroup"), ("bad", "bad")] {
            let error = resolve_owner(text, &Files).unwrap_err();
            assert!(matches!(error, OwnerError::Unknown { name, .. } if name == missing), "{text}");
        }
    }
}
