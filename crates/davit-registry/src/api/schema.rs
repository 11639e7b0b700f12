//! Types of the API and their JSON schemas, written down once: a macro makes both from one text.

use std::{collections::BTreeMap, fmt, marker::PhantomData, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

/// Named schemas of the document.
pub type Schemas = BTreeMap<String, Value>;

/// What has a JSON schema (draft 2020-12, as OpenAPI 3.1 has it).
pub trait Schema {
    /// Name in the document's components, for objects.
    const NAME: &'static str = "";

    /// The schema; named parts are added to `all`.
    fn schema(all: &mut Schemas) -> Value;
}

/// Nothing: no query, no body.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

impl Schema for Nothing {
    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "object", "properties": {}, "additionalProperties": false })
    }
}

/// Refuses `null` for what may be left out.
pub(crate) fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// Declares objects of the API: fields that are always there, then those that may be absent.
macro_rules! object {
    (@ $derive:path; $(#[doc = $doc:literal])+ $name:ident {
        $($(#[doc = $field_doc:literal])+ $field:ident: $kind:ty,)*
    } $(maybe { $($(#[doc = $maybe_doc:literal])+ $maybe:ident: $maybe_kind:ty,)* })?) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, $derive)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name {
            $($(#[doc = $field_doc])+ pub(crate) $field: $kind,)*
            $($(
                $(#[doc = $maybe_doc])+
                #[serde(
                    default,
                    deserialize_with = "crate::api::schema::present",
                    skip_serializing_if = "Option::is_none"
                )]
                pub(crate) $maybe: Option<$maybe_kind>,
            )*)?
        }

        impl $crate::api::schema::Schema for $name {
            const NAME: &'static str = stringify!($name);

            fn schema(all: &mut $crate::api::schema::Schemas) -> serde_json::Value {
                $crate::api::schema::object_schema(
                    all,
                    Self::NAME,
                    concat!($($doc),+),
                    &[
                        $((
                            stringify!($field),
                            concat!($($field_doc),+),
                            <$kind as $crate::api::schema::Schema>::schema,
                            true,
                        ),)*
                        $($((
                            stringify!($maybe),
                            concat!($($maybe_doc),+),
                            <$maybe_kind as $crate::api::schema::Schema>::schema,
                            false,
                        ),)*)?
                    ],
                )
            }
        }
    };
}
pub(crate) use object;

/// An object that is sent.
macro_rules! reply {
    ($($text:tt)*) => { $crate::api::schema::object! { @ serde::Serialize; $($text)* } };
}
pub(crate) use reply;

/// An object that is received.
macro_rules! input {
    ($($text:tt)*) => { $crate::api::schema::object! { @ serde::Deserialize; $($text)* } };
}
pub(crate) use input;

/// Declares a choice of words.
macro_rules! words {
    ($(#[doc = $doc:literal])+ $name:ident {
        $($(#[doc = $word_doc:literal])+ $variant:ident = $word:literal,)*
    }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub(crate) enum $name {
            $($(#[doc = $word_doc])+ #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// The word.
            #[allow(dead_code, reason = "some words are only read")]
            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl $crate::api::schema::Schema for $name {
            fn schema(_: &mut $crate::api::schema::Schemas) -> serde_json::Value {
                serde_json::json!({ "type": "string", "enum": [$($word),*] })
            }
        }
    };
}
pub(crate) use words;

/// A field: its name, what it is, its schema, whether it is always there.
pub(crate) type Field = (&'static str, &'static str, fn(&mut Schemas) -> Value, bool);

/// Adds an object's schema; the reference to it.
pub(crate) fn object_schema(
    all: &mut Schemas,
    name: &str,
    description: &str,
    fields: &[Field],
) -> Value {
    if !all.contains_key(name) {
        // Taken before its fields, in case one of them holds such an object.
        all.insert(name.to_owned(), Value::Null);
        let mut properties = Map::new();
        for (field, description, schema, _) in fields {
            let mut schema = schema(all);
            schema["description"] = description.trim().into();
            properties.insert((*field).to_owned(), schema);
        }
        let required: Vec<&str> =
            fields.iter().filter(|field| field.3).map(|field| field.0).collect();
        let schema = json!({
            "type": "object",
            "description": description.trim(),
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        });
        all.insert(name.to_owned(), schema);
    }
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

macro_rules! plain {
    ($($kind:ty => $schema:tt;)*) => { $(
        impl Schema for $kind {
            fn schema(_: &mut Schemas) -> Value {
                json!($schema)
            }
        }
    )* };
}
plain! {
    String => { "type": "string" };
    bool => { "type": "boolean" };
    u64 => { "type": "integer", "minimum": 0, "maximum": i64::MAX };
    i64 => { "type": "integer", "minimum": i64::MIN, "maximum": i64::MAX };
    u32 => { "type": "integer", "minimum": 0, "maximum": u32::MAX };
    u16 => { "type": "integer", "minimum": 0, "maximum": u16::MAX };
    Value => {};
}

impl<T: Schema> Schema for Vec<T> {
    fn schema(all: &mut Schemas) -> Value {
        json!({ "type": "array", "items": T::schema(all) })
    }
}

impl<T: Schema> Schema for BTreeMap<String, T> {
    fn schema(all: &mut Schemas) -> Value {
        json!({ "type": "object", "additionalProperties": T::schema(all) })
    }
}

/// One page of a list.
#[derive(Clone, Debug, Serialize)]
pub struct Page<T> {
    /// Its entries.
    pub items: Vec<T>,
    /// What `after` is for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// A page of at most `most` of the entries, which are one more where there is another page.
    pub(crate) fn cut(mut items: Vec<T>, most: usize, key: impl Fn(&T) -> String) -> Self {
        let is_last = items.len() <= most;
        items.truncate(most);
        let next = if is_last { None } else { items.last().map(key) };
        Self { items, next }
    }

    /// The only page.
    pub(crate) const fn whole(items: Vec<T>) -> Self {
        Self { items, next: None }
    }
}

impl<T: Schema> Schema for Page<T> {
    fn schema(all: &mut Schemas) -> Value {
        object_schema(
            all,
            &format!("{}Page", T::NAME),
            "One page of a list.",
            &[
                ("items", "Its entries.", <Vec<T>>::schema, true),
                (
                    "next",
                    "What `after` is for the next page; absent on the last.",
                    String::schema,
                    false,
                ),
            ],
        )
    }
}

/// A time: milliseconds since 1970 here, RFC 3339 in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub i64);

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.0) * 1_000_000;
        let time = time::OffsetDateTime::from_unix_timestamp_nanos(nanos);
        let rfc3339 = &time::format_description::well_known::Rfc3339;
        let text = time.ok().and_then(|time| time.format(rfc3339).ok());
        f.write_str(text.as_deref().unwrap_or("1970-01-01T00:00:00Z"))
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Schema for davit_distribution::Secret {
    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "string" })
    }
}

impl Schema for Moment {
    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "string", "format": "date-time" })
    }
}

/// The grammar of a text that has a type.
pub trait Grammar: FromStr<Err: fmt::Display> + fmt::Display {
    /// Regular expression (ECMA 262) of the whole text; what it lets through may still be refused
    /// with 409.
    const PATTERN: &'static str;
    /// Shortest and longest, in characters.
    const LENGTH: (usize, usize);
}

/// A text that was parsed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text<T>(pub T);

impl<'de, T: Grammar> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

impl<T: Grammar> Schema for Text<T> {
    fn schema(_: &mut Schemas) -> Value {
        let (shortest, longest) = T::LENGTH;
        json!({
            "type": "string", "pattern": T::PATTERN, "minLength": shortest, "maxLength": longest,
        })
    }
}

/// A text of at most so many characters, without NUL (which PostgreSQL cannot keep).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prose<const MOST: usize>(pub String);

impl<'de, const MOST: usize> Deserialize<'de> for Prose<MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.contains('\0') || text.chars().nth(MOST).is_some() {
            let words = format!("a text of at most {MOST} characters, without NUL, is wanted");
            return Err(serde::de::Error::custom(words));
        }
        Ok(Self(text))
    }
}

impl<const MOST: usize> Schema for Prose<MOST> {
    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "string", "maxLength": MOST, "pattern": "^[^\\u0000]*$" })
    }
}

/// A whole number within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Within<const LEAST: u64, const MOST: u64>(pub u64, PhantomData<()>);

impl<const LEAST: u64, const MOST: u64> Within<LEAST, MOST> {
    /// The nearest number within the bounds.
    pub(crate) fn new(number: u64) -> Self {
        Self(number.clamp(LEAST, MOST), PhantomData)
    }
}

impl<'de, const LEAST: u64, const MOST: u64> Deserialize<'de> for Within<LEAST, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer).ok().filter(|it| (LEAST..=MOST).contains(it));
        let wanted = || format!("a whole number from {LEAST} to {MOST} is wanted");
        let number = number.ok_or_else(|| serde::de::Error::custom(wanted()))?;
        Ok(Self(number, PhantomData))
    }
}

impl<const LEAST: u64, const MOST: u64> Schema for Within<LEAST, MOST> {
    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "integer", "minimum": LEAST, "maximum": MOST })
    }
}
