//! Functions that every definition can call.

mod data;
mod digests;
mod formats;
mod lists;
mod networks;
mod numbers;
mod patterns;
mod sets;
mod texts;
mod times;
mod versions;

use std::cell::Cell;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

pub(crate) use self::texts::cleaned;
use crate::{
    error::ValueError,
    eval::Spent,
    value::{float, integer, list, text},
};

/// All functions, with how many arguments they take at least and at most.
const FUNCTIONS: &[(&str, usize, usize)] = &[
    ("absolute", 1, 1),
    ("add", 2, 2),
    ("and", 2, 2),
    ("base64decode", 1, 1),
    ("base64encode", 1, 1),
    ("basename", 1, 1),
    ("bcrypt", 1, 2),
    ("byteslen", 1, 1),
    ("bytesslice", 3, 3),
    ("ceil", 1, 1),
    ("chomp", 1, 1),
    ("chunklist", 2, 2),
    ("cidrhost", 2, 2),
    ("cidrnetmask", 1, 1),
    ("cidrsubnet", 3, 3),
    ("cidrsubnets", 1, usize::MAX),
    ("coalesce", 1, usize::MAX),
    ("coalescelist", 1, usize::MAX),
    ("compact", 1, 1),
    ("concat", 1, usize::MAX),
    ("contains", 2, 2),
    ("csvdecode", 1, 1),
    ("dirname", 1, 1),
    ("distinct", 1, 1),
    ("divide", 2, 2),
    ("element", 2, 2),
    ("equal", 2, 2),
    ("flatten", 1, 1),
    ("floor", 1, 1),
    ("format", 1, usize::MAX),
    ("formatdate", 2, 2),
    ("formatlist", 1, usize::MAX),
    ("formattimestamp", 2, 2),
    ("greaterthan", 2, 2),
    ("greaterthanorequalto", 2, 2),
    ("hasindex", 2, 2),
    ("homedir", 0, 0),
    ("indent", 2, 2),
    ("index", 2, 2),
    ("indexof", 2, 2),
    ("int", 1, 1),
    ("join", 1, usize::MAX),
    ("jsondecode", 1, 1),
    ("jsonencode", 1, 1),
    ("keys", 1, 1),
    ("length", 1, 1),
    ("lessthan", 2, 2),
    ("lessthanorequalto", 2, 2),
    ("log", 2, 2),
    ("lookup", 3, 3),
    ("lower", 1, 1),
    ("max", 1, usize::MAX),
    ("md5", 1, 1),
    ("merge", 0, usize::MAX),
    ("min", 1, usize::MAX),
    ("modulo", 2, 2),
    ("multiply", 2, 2),
    ("negate", 1, 1),
    ("not", 1, 1),
    ("notequal", 2, 2),
    ("or", 2, 2),
    ("parseint", 2, 2),
    ("pow", 2, 2),
    ("range", 1, 3),
    ("regex", 2, 2),
    ("regex_replace", 3, 3),
    ("regexall", 2, 2),
    ("replace", 3, 3),
    ("reverse", 1, 1),
    ("reverselist", 1, 1),
    ("rsadecrypt", 2, 2),
    ("sanitize", 1, 1),
    ("semvercmp", 2, 2),
    ("sethaselement", 2, 2),
    ("setintersection", 1, usize::MAX),
    ("setproduct", 2, usize::MAX),
    ("setsubtract", 2, 2),
    ("setsymmetricdifference", 1, usize::MAX),
    ("setunion", 1, usize::MAX),
    ("sha1", 1, 1),
    ("sha256", 1, 1),
    ("sha512", 1, 1),
    ("signum", 1, 1),
    ("slice", 3, 3),
    ("sort", 1, 1),
    ("split", 2, 2),
    ("strlen", 1, 1),
    ("substr", 3, 3),
    ("subtract", 2, 2),
    ("timeadd", 2, 2),
    ("timestamp", 0, 0),
    ("title", 1, 1),
    ("trim", 2, 2),
    ("trimprefix", 2, 2),
    ("trimspace", 1, 1),
    ("trimsuffix", 2, 2),
    ("unixtimestampparse", 1, 1),
    ("upper", 1, 1),
    ("urlencode", 1, 1),
    ("uuidv4", 0, 0),
    ("uuidv5", 2, 2),
    ("values", 1, 1),
    ("zipmap", 2, 2),
];
/// Longest text that a replacement makes.
const LONGEST: usize = 16 << 20;

/// What functions may know of the world.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) home: String,
    pub(crate) now_seconds: i64,
    pub(crate) seed: [u8; 32],
    /// How often something random was drawn.
    pub(crate) drawn: Cell<u64>,
}

impl World {
    fn now(&self) -> Result<OffsetDateTime, ValueError> {
        OffsetDateTime::from_unix_timestamp(self.now_seconds).map_err(|_| ValueError::Number)
    }

    fn random(&self) -> [u8; 16] {
        let drawn = self.drawn.get();
        self.drawn.set(drawn + 1);
        let digest = Sha256::new().chain_update(self.seed).chain_update(drawn.to_le_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.finalize()[..16]);
        bytes
    }
}

/// A function with what it is called with.
pub(crate) struct Call<'a> {
    pub(crate) name: &'a str,
    pub(crate) arguments: &'a [Value],
    pub(crate) world: &'a World,
    pub(crate) spent: &'a Spent,
}

type Found = Result<Option<Value>, ValueError>;

/// Calls a function; `None` if there is none of this name.
pub(crate) fn call(call: &Call<'_>) -> Found {
    let Some((_, least, most)) = FUNCTIONS.iter().find(|(name, ..)| *name == call.name) else {
        return Ok(None);
    };
    if !(*least..=*most).contains(&call.arguments.len()) {
        return Err(
            call.wrong(format!("{} arguments are too many or too few", call.arguments.len()))
        );
    }
    let groups = [
        patterns::patterns,
        texts::texts,
        numbers::numbers,
        lists::lists,
        lists::objects,
        sets::sets,
        formats::formats,
        data::data,
        digests::digests,
        networks::networks,
        times::times,
    ];
    for group in groups {
        if let Some(value) = group(call)? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

fn bounded(call: &Call<'_>, count: usize, old: usize, new: usize) -> Result<(), ValueError> {
    if count.saturating_mul(new).saturating_add(old) > LONGEST {
        return Err(call.wrong("the result is too long"));
    }
    Ok(())
}

impl Call<'_> {
    fn wrong(&self, problem: impl Into<String>) -> ValueError {
        ValueError::Call { function: self.name.to_owned(), problem: problem.into() }
    }

    fn get(&self, at: usize) -> Result<&Value, ValueError> {
        self.arguments.get(at).ok_or_else(|| self.wrong(format!("argument {} is missing", at + 1)))
    }

    fn text(&self, at: usize) -> Result<String, ValueError> {
        text(self.get(at)?)
    }

    fn float(&self, at: usize) -> Result<f64, ValueError> {
        float(self.get(at)?)
    }

    fn whole(&self, at: usize) -> Result<i64, ValueError> {
        integer(self.get(at)?)
    }

    fn list(&self, at: usize) -> Result<&[Value], ValueError> {
        list(self.get(at)?)
    }
}
