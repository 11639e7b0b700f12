//! What goes into a statement and comes out of it, for both databases.

use davit_image::Digest;
use rusqlite::{
    ToSql,
    types::{ToSqlOutput, Value as Cell, ValueRef},
};
use sqlx::{Row as _, postgres::PgRow};

use super::DbError;

/// A parameter; the kind is kept for NULL, since PostgreSQL wants to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `BIGINT`.
    Int(Option<i64>),
    /// `TEXT`.
    Text(Option<String>),
    /// `BYTEA` or `BLOB`.
    Bytes(Option<Vec<u8>>),
}

/// A list of parameters: `values![repo_id, name, &digest]`.
#[macro_export]
macro_rules! db_values {
    ($($value:expr),* $(,)?) => { vec![$($crate::db::Value::from($value)),*] };
}
pub use crate::db_values as values;

macro_rules! from {
    ($($variant:ident($kind:ty): $($other:ty => $convert:expr),*;)*) => { $(
        impl From<$kind> for Value {
            fn from(value: $kind) -> Self {
                Self::$variant(Some(value))
            }
        }
        impl From<Option<$kind>> for Value {
            fn from(value: Option<$kind>) -> Self {
                Self::$variant(value)
            }
        }
        $(
            impl From<$other> for Value {
                fn from(value: $other) -> Self {
                    let convert: fn($other) -> $kind = $convert;
                    Self::$variant(Some(convert(value)))
                }
            }
            impl From<Option<$other>> for Value {
                fn from(value: Option<$other>) -> Self {
                    let convert: fn($other) -> $kind = $convert;
                    Self::$variant(value.map(convert))
                }
            }
        )*
    )* };
}

from! {
    Int(i64): bool => i64::from, u32 => i64::from,
        u64 => |value| i64::try_from(value).unwrap_or(i64::MAX);
    Text(String): &str => |text| text.to_owned(), &String => Clone::clone,
        Digest => |digest| digest.to_string(), &Digest => ToString::to_string,
        uuid::Uuid => |id| id.to_string();
    Bytes(Vec<u8>): &[u8] => |bytes| bytes.to_vec();
}

/// One row of a result.
#[derive(Debug)]
pub struct Row(pub(super) Rows);

#[derive(Debug)]
pub(super) enum Rows {
    Sqlite(Vec<Cell>),
    Postgres(PgRow),
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let value = match self {
            Self::Int(Some(value)) => ValueRef::Integer(*value),
            Self::Text(Some(value)) => ValueRef::Text(value.as_bytes()),
            Self::Bytes(Some(value)) => ValueRef::Blob(value),
            Self::Int(None) | Self::Text(None) | Self::Bytes(None) => ValueRef::Null,
        };
        Ok(ToSqlOutput::Borrowed(value))
    }
}

impl Row {
    /// Reads a column by its place from 0.
    ///
    /// # Errors
    /// The column is absent, NULL without `Option`, or of another type.
    pub fn get<T: Column>(&self, place: usize) -> Result<T, DbError> {
        T::read(self, place).map_err(DbError::Statement)
    }
}

/// What a column may be read as.
pub trait Column: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// The column is absent, NULL without `Option`, or of another type.
    fn read(row: &Row, place: usize) -> Result<Self, sqlx::Error>;
}

/// Columns of one of the three kinds that SQLite has, and the same or NULL.
macro_rules! plain {
    ($($kind:ty: $cell:ident;)*) => { $(
        impl Column for $kind {
            fn read(row: &Row, place: usize) -> Result<Self, sqlx::Error> {
                <Option<Self>>::read(row, place)?
                    .ok_or_else(|| column_fault(place, "the column is NULL".into()))
            }
        }
        impl Column for Option<$kind> {
            fn read(row: &Row, place: usize) -> Result<Self, sqlx::Error> {
                match &row.0 {
                    Rows::Sqlite(cells) => match cells.get(place) {
                        Some(Cell::$cell(value)) => Ok(Some(value.clone())),
                        Some(Cell::Null) => Ok(None),
                        _ => Err(column_fault(place, "the column is absent or of another type".into())),
                    },
                    Rows::Postgres(row) => row.try_get(place),
                }
            }
        }
    )* };
}
plain! {
    i64: Integer;
    String: Text;
    Vec<u8>: Blob;
}

/// Columns that are read from another kind.
macro_rules! derived {
    ($($kind:ty: $from:ty => $convert:expr;)*) => { $(
        impl Column for $kind {
            fn read(row: &Row, place: usize) -> Result<Self, sqlx::Error> {
                let convert: fn($from) -> Result<$kind, sqlx::error::BoxDynError> = $convert;
                convert(<$from>::read(row, place)?).map_err(|source| column_fault(place, source))
            }
        }
        impl Column for Option<$kind> {
            fn read(row: &Row, place: usize) -> Result<Self, sqlx::Error> {
                let convert: fn($from) -> Result<$kind, sqlx::error::BoxDynError> = $convert;
                let value = <Option<$from>>::read(row, place)?;
                value.map(convert).transpose().map_err(|source| column_fault(place, source))
            }
        }
    )* };
}
derived! {
    bool: i64 => |value| Ok(value != 0);
    u64: i64 => |value| Ok(u64::try_from(value)?);
    Digest: String => |text| Ok(text.parse()?);
}

fn column_fault(place: usize, source: sqlx::error::BoxDynError) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: place.to_string(), source }
}
