//! Values of `--mount` and `--device`: comma-separated `key=value` fields with CSV quotes.

use crate::{
    Device, ExpandError, Mount, MountKind, ParseError, ParseErrorKind, Sharing, Word,
    error::nearest, size::parse_size,
};

const KINDS: [(&str, MountKind); 5] = [
    ("bind", MountKind::Bind),
    ("cache", MountKind::Cache),
    ("tmpfs", MountKind::Tmpfs),
    ("secret", MountKind::Secret),
    ("ssh", MountKind::Ssh),
];
const SHARINGS: [(&str, Sharing); 3] =
    [("shared", Sharing::Shared), ("private", Sharing::Private), ("locked", Sharing::Locked)];
const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
];

/// Why the value of `--mount` is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// The quotes are wrong, or there is nothing.
    #[error("mount `{0}` is no list of comma-separated fields")]
    Fields(String),
    /// A field has no value.
    #[error("mount field `{0}` needs a value")]
    NoValue(String),
    /// A key is unknown.
    #[error("mount key `{key}` is unknown")]
    Key {
        /// The key.
        key: String,
        /// The nearest one that is known.
        suggestion: Option<&'static str>,
    },
    /// A value is wrong.
    #[error("value `{value}` of mount key `{key}` is wrong")]
    Value {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// The nearest right one.
        suggestion: Option<&'static str>,
        /// The right ones, where there are few.
        known: Vec<&'static str>,
    },
    /// A key does not go with the mount's type.
    #[error("key `{key}` does not go with {kind} mounts")]
    Conflict {
        /// The key.
        key: &'static str,
        /// The mount's type.
        kind: &'static str,
    },
    /// A secret has neither id, source nor target.
    #[error("a secret mount needs an id, a source or a target")]
    NoSecret,
    /// A secret has a source and an id.
    #[error("a secret mount takes `id` or `source`, not both")]
    TwoSecrets,
    /// A value cannot be expanded.
    #[error("a value cannot be expanded")]
    Expand(#[source] ExpandError),
}

/// What can be known of a mount before its variables are: its form.
pub(super) fn check(word: &Word) -> Result<(), ParseError> {
    match fields(&word.text) {
        Some(_) => Ok(()),
        None => Err(refused(word, "mount", &MountError::Fields(word.text.clone()))),
    }
}

fn refused(word: &Word, flag: &str, error: &MountError) -> ParseError {
    let kind = ParseErrorKind::Flag {
        instruction: "RUN",
        flag: flag.to_owned(),
        problem: format!("is wrong: {error}"),
    };
    let mut refused = ParseError::new(kind, word.span);
    if let MountError::Key { suggestion, .. } | MountError::Value { suggestion, .. } = error {
        refused.suggestion = suggestion.map(str::to_owned);
    }
    refused
}

/// Splits at commas; a field in quotes may hold commas and doubled quotes.
fn fields(line: &str) -> Option<Vec<String>> {
    let line = line.strip_suffix('\n').map_or(line, |line| line.strip_suffix('\r').unwrap_or(line));
    if line.is_empty() {
        return None;
    }
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (field, behind) = quoted_field(quoted)?;
            fields.push(field);
            match behind.strip_prefix(',') {
                Some(behind) => rest = behind,
                None if behind.is_empty() => return Some(fields),
                None => return None,
            }
            continue;
        }
        let (field, behind) = match rest.split_once(',') {
            Some((field, behind)) => (field, Some(behind)),
            None => (rest, None),
        };
        if field.contains('"') {
            return None;
        }
        fields.push(field.to_owned());
        match behind {
            Some(behind) => rest = behind,
            None => return Some(fields),
        }
    }
}

/// A field up to its closing quote, and what follows that.
fn quoted_field(text: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let (before, behind) = rest.split_once('"')?;
        field.push_str(before);
        match behind.strip_prefix('"') {
            Some(behind) => {
                field.push('"');
                rest = behind;
            }
            None => return Some((field, behind)),
        }
    }
}

/// Reads a value of `--device`.
pub(super) fn device(word: &Word) -> Result<Device, ParseError> {
    let wrong = |error: &MountError| refused(word, "device", error);
    let fields = fields(&word.text).ok_or_else(|| wrong(&MountError::Fields(word.text.clone())))?;
    let mut device = Device { name: String::new(), required: false, span: word.span };
    for field in fields {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        match (key.as_str(), value) {
            ("required", None) => device.required = true,
            ("required", Some(value)) => {
                device.required =
                    boolean(&key, value).map_err(|error| refused(word, "device", &error))?;
            }
            ("name", Some(value)) if device.name.is_empty() => value.clone_into(&mut device.name),
            ("name", Some(value)) => {
                return Err(wrong(&wrong_value(&key, value)));
            }
            _ if device.name.is_empty() => device.name = field,
            (_, None) => return Err(wrong(&MountError::NoValue(field))),
            (_, Some(_)) => {
                let suggestion = nearest(&key, ["name", "required"]);
                return Err(wrong(&MountError::Key { key, suggestion }));
            }
        }
    }
    Ok(device)
}

fn boolean(key: &str, value: &str) -> Result<bool, MountError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(wrong_value(key, value)),
    }
}

fn wrong_value(key: &str, value: &str) -> MountError {
    let (key, value) = (key.to_owned(), value.to_owned());
    MountError::Value { key, value, suggestion: None, known: Vec::new() }
}

impl MountKind {
    /// The kind as a Dockerfile writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("bind", |(name, _)| name)
    }
}

impl Mount {
    /// Reads the value of a `--mount`; `expand` resolves the variables of each value.
    ///
    /// A relative target and missing ids are left as they are: what they mean depends on the stage.
    ///
    /// # Errors
    /// For everything that the frontend refuses, fields in order.
    pub fn parse(
        text: &str,
        expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>,
    ) -> Result<Self, MountError> {
        let fields = fields(text).ok_or_else(|| MountError::Fields(text.to_owned()))?;
        let mut draft = Draft::default();
        for field in &fields {
            match field.split_once('=') {
                Some((key, value)) => {
                    let value = expand(value).map_err(MountError::Expand)?;
                    draft.set(&key.to_ascii_lowercase(), value)?;
                }
                None => draft.switch(field)?,
            }
        }
        draft.finish()
    }

    /// What a value names in `from`, variables as written; `None` where it is of no use.
    #[must_use]
    pub fn origin(text: &str) -> Option<String> {
        let fields = fields(text)?;
        let mut pairs = fields.iter().filter_map(|field| field.split_once('='));
        let from = pairs.rfind(|(key, _)| key.eq_ignore_ascii_case("from"));
        from.map(|(_, value)| value.to_owned()).filter(|value| !value.is_empty())
    }

    fn empty() -> Self {
        Self {
            kind: MountKind::Bind,
            from: None,
            source: None,
            target: None,
            read_only: false,
            size_bytes: None,
            id: None,
            sharing: None,
            required: false,
            environment: None,
            mode: None,
            uid: None,
            gid: None,
        }
    }
}

/// A mount in the making.
struct Draft {
    mount: Mount,
    read_only: Option<bool>,
}

impl Default for Draft {
    fn default() -> Self {
        Self { mount: Mount::empty(), read_only: None }
    }
}

impl Draft {
    /// A key without a value.
    fn switch(&mut self, field: &str) -> Result<(), MountError> {
        match field.to_ascii_lowercase().as_str() {
            "readonly" | "ro" => self.read_only = Some(true),
            "readwrite" | "rw" => self.read_only = Some(false),
            "required" => self.require(true)?,
            _ => return Err(MountError::NoValue(field.to_owned())),
        }
        Ok(())
    }

    fn require(&mut self, required: bool) -> Result<(), MountError> {
        let kind = self.mount.kind;
        if !matches!(kind, MountKind::Secret | MountKind::Ssh) {
            return Err(MountError::Conflict { key: "required", kind: kind.as_str() });
        }
        self.mount.required = required;
        Ok(())
    }

    fn set(&mut self, key: &str, value: String) -> Result<(), MountError> {
        let mount = &mut self.mount;
        match key {
            "type" => mount.kind = choose(key, &value, &KINDS)?,
            "from" => mount.from = Some(value),
            "source" | "src" => mount.source = Some(value),
            "target" | "dst" | "destination" => mount.target = Some(value),
            "readonly" | "ro" => self.read_only = Some(boolean(key, &value)?),
            "readwrite" | "rw" => self.read_only = Some(!boolean(key, &value)?),
            "required" => self.require(boolean(key, &value)?)?,
            "size" if mount.kind == MountKind::Tmpfs => {
                mount.size_bytes =
                    Some(parse_size(&value).ok_or_else(|| wrong_value(key, &value))?);
            }
            "size" => {
                return Err(MountError::Conflict { key: "size", kind: mount.kind.as_str() });
            }
            "id" => mount.id = Some(value),
            "sharing" => mount.sharing = Some(choose(key, &value, &SHARINGS)?),
            "mode" => mount.mode = Some(number(key, &value, 8)?),
            "uid" => mount.uid = Some(number(key, &value, 10)?),
            "gid" => mount.gid = Some(number(key, &value, 10)?),
            "env" => mount.environment = Some(value),
            _ => {
                let suggestion = nearest(key, KEYS);
                return Err(MountError::Key { key: key.to_owned(), suggestion });
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Mount, MountError> {
        let Self { mut mount, read_only } = self;
        let kind = mount.kind;
        let conflict = |key| Err(MountError::Conflict { key, kind: kind.as_str() });
        if matches!(kind, MountKind::Bind | MountKind::Tmpfs) {
            let owned = [("mode", mount.mode), ("uid", mount.uid), ("gid", mount.gid)];
            if let Some((key, _)) = owned.into_iter().find(|(_, value)| value.is_some()) {
                return conflict(key);
            }
        }
        mount.read_only = read_only.unwrap_or(!matches!(kind, MountKind::Cache | MountKind::Tmpfs));
        for text in [&mut mount.from, &mut mount.source, &mut mount.target, &mut mount.id] {
            text.take_if(|text| text.is_empty());
        }
        if kind == MountKind::Secret {
            if mount.from.is_some() {
                return conflict("from");
            }
            if mount.source.is_none() && mount.target.is_none() && mount.id.is_none() {
                return Err(MountError::NoSecret);
            }
            if mount.source.is_some() && mount.id.is_some() {
                return Err(MountError::TwoSecrets);
            }
        }
        if mount.sharing.is_some() && kind != MountKind::Cache {
            return conflict("sharing");
        }
        Ok(mount)
    }
}

fn choose<T: Clone>(
    key: &str,
    value: &str,
    known: &'static [(&'static str, T)],
) -> Result<T, MountError> {
    let lower = value.to_ascii_lowercase();
    let found = known.iter().find(|(name, _)| *name == lower);
    found.map(|(_, choice)| choice.clone()).ok_or_else(|| MountError::Value {
        key: key.to_owned(),
        value: value.to_owned(),
        suggestion: nearest(&lower, known.iter().map(|(name, _)| *name)),
        known: known.iter().map(|(name, _)| *name).collect(),
    })
}

fn number(key: &str, value: &str, base: u32) -> Result<u32, MountError> {
    let plain = value.chars().all(|c| c.is_digit(base));
    u32::from_str_radix(value, base).ok().filter(|_| plain).ok_or_else(|| wrong_value(key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Mount, MountError> {
        Mount::parse(text, &mut |value| Ok(value.to_owned()))
    }

    #[test]
    fn reads_mounts() {
        let mount = read("type=cache,target=/c,id=x,sharing=LOCKED,mode=0700,uid=1,gid=2").unwrap();
        assert_eq!(mount.kind, MountKind::Cache);
        assert_eq!(mount.target.as_deref(), Some("/c"));
        assert_eq!(mount.sharing, Some(Sharing::Locked));
        assert_eq!((mount.mode, mount.uid, mount.gid), (Some(0o700), Some(1), Some(2)));
        assert!(!mount.read_only);
        let mount = read("dst=/x,\"src=a,b\"\"c\"").unwrap();
        assert_eq!(mount.source.as_deref(), Some("a,b\"c"));
        assert!(mount.read_only);
        assert!(!read("target=/x,rw").unwrap().read_only);
        assert!(!read("target=/x,readwrite=true").unwrap().read_only);
        assert!(read("type=cache,target=/x,ro").unwrap().read_only);
        assert_eq!(read("type=tmpfs,size=1.5m,target=/x").unwrap().size_bytes, Some(1_572_864));
        assert!(read("type=secret,id=a,required").unwrap().required);
        assert_eq!(read("type=secret,id=a,env=A").unwrap().environment.as_deref(), Some("A"));
        assert_eq!(read("type=bind,from=,target=/x").unwrap().from, None);
        for (text, origin) in [
            ("type=$t,From=base,target=/x", Some("base")),
            ("from=a,from=b", Some("b")),
            ("from=a,from=", None),
            ("source=from,target=/x", None),
            ("\"", None),
        ] {
            assert_eq!(Mount::origin(text).as_deref(), origin, "{text}");
        }
    }

    #[test]
    fn refuses_mounts() {
        for text in [
            "",
            "a",
            "type=blind",
            "typ=bind",
            "required",
            "type=bind,required=true",
            "size=1m",
            "type=tmpfs,size=x",
            "type=tmpfs,size=1x",
            "type=tmpfs,uid=1",
            "mode=0644",
            "type=secret",
            "type=secret,from=a,id=b",
            "type=secret,id=a,source=b",
            "type=secret,id=a,sharing=shared",
            "type=cache,sharing=all",
            "type=cache,mode=9",
            "type=cache,uid=-1",
            "type=cache,uid=+1",
            "ro=maybe",
            "\"a",
            "a\"b",
            "\"a\"b",
            "sharing=shared",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        let error = read("tpye=bind").unwrap_err();
        assert_eq!(error, MountError::Key { key: "tpye".into(), suggestion: Some("type") });
    }

    #[test]
    fn reads_devices() {
        let word = |text: &str| Word { text: text.to_owned(), ..Word::default() };
        let cases = [
            ("vendor.com/class=a", Some(("vendor.com/class=a", false))),
            ("vendor.com/class=a,required", Some(("vendor.com/class=a", true))),
            ("name=x,required=false", Some(("x", false))),
            ("x,y", None),
            ("x,name=y", None),
            ("x,required=z", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let read = device(&word(text)).ok();
            let read = read.as_ref().map(|device| (device.name.as_str(), device.required));
            assert_eq!(read, expected, "{text}");
        }
    }
}
