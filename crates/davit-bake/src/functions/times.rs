//! Functions on times.

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

use super::{Call, Found};
use crate::error::ValueError;

pub(super) fn times(call: &Call<'_>) -> Found {
    let value: Value = match call.name {
        "timestamp" => rfc3339(call, call.world.now()?)?.into(),
        "timeadd" => {
            let (at, more) = (moment(call, &call.text(0)?)?, call.text(1)?);
            let more = duration(&more).ok_or_else(|| call.wrong(format!("`{more}` is no time")))?;
            let sum = at.checked_add(more).ok_or_else(|| call.wrong("the time is too far"))?;
            rfc3339(call, sum)?.into()
        }
        "formatdate" => formatted(call, &call.text(0)?, moment(call, &call.text(1)?)?)?.into(),
        "formattimestamp" => {
            let format = call.text(0)?;
            let at = match call.get(1)? {
                Value::String(text) => moment(call, text)?,
                Value::Number(_) => unix(call, call.whole(1)?)?,
                other => return Err(crate::value::wrong("a time", other)),
            };
            if format == "X" {
                at.unix_timestamp().to_string().into()
            } else {
                formatted(call, &format, at)?.into()
            }
        }
        "unixtimestampparse" => parts(call, unix(call, call.whole(0)?)?)?,
        _ => return Ok(None),
    };
    Ok(Some(value))
}

fn unix(call: &Call<'_>, seconds: i64) -> Result<OffsetDateTime, ValueError> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| call.wrong("the time is too far"))
}

fn moment(call: &Call<'_>, text: &str) -> Result<OffsetDateTime, ValueError> {
    let parsed = OffsetDateTime::parse(text, &Rfc3339);
    parsed.map_err(|_| call.wrong(format!("`{text}` is no time as 2006-01-02T15:04:05Z")))
}

fn rfc3339(call: &Call<'_>, at: OffsetDateTime) -> Result<String, ValueError> {
    let whole = at.replace_nanosecond(0).unwrap_or(at);
    whole.format(&Rfc3339).map_err(|_| call.wrong("the time cannot be written"))
}

/// Parts of a time in UTC.
fn parts(call: &Call<'_>, at: OffsetDateTime) -> Result<Value, ValueError> {
    let (iso_year, iso_week, _) = at.to_iso_week_date();
    Ok(json!({
        "year": at.year(),
        "year_day": at.ordinal(),
        "day": at.day(),
        "month": u8::from(at.month()),
        "month_name": at.month().to_string(),
        "weekday": at.weekday().number_days_from_sunday(),
        "weekday_name": at.weekday().to_string(),
        "hour": at.hour(),
        "minute": at.minute(),
        "second": at.second(),
        "rfc3339": rfc3339(call, at)?,
        "iso_year": iso_year,
        "iso_week": iso_week,
    }))
}

/// Reads a duration as `-1h30m`, `1.5s` or `0`.
fn duration(text: &str) -> Option<Duration> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|it: char| !it.is_ascii_digit() && it != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let units = [
            ("ns", 1e-9),
            ("us", 1e-6),
            ("µs", 1e-6),
            ("μs", 1e-6),
            ("ms", 1e-3),
            ("s", 1.0),
            ("m", 60.0),
            ("h", 3600.0),
        ];
        let (unit, factor) = units.iter().find(|(unit, _)| rest.starts_with(unit))?;
        seconds += number * factor;
        rest = &rest[unit.len()..];
    }
    let is_near = seconds < 9e9;
    is_near.then(|| Duration::checked_seconds_f64(sign * seconds)).flatten()
}

/// Letters that stand for a part of the time, as often as their form wants it.
fn formatted(call: &Call<'_>, format: &str, at: OffsetDateTime) -> Result<String, ValueError> {
    let mut out = String::new();
    let mut rest = format;
    while let Some(letter) = rest.chars().next() {
        if letter == '\'' {
            let (text, after) = quoted(rest).ok_or_else(|| call.wrong("a ' is not closed"))?;
            out.push_str(&text);
            rest = after;
            continue;
        }
        let after = rest.trim_start_matches(letter);
        let (token, length) = (&rest[..rest.len() - after.len()], rest.len() - after.len());
        if letter.is_ascii_alphabetic() {
            let part = part(letter, length, at);
            out.push_str(&part.ok_or_else(|| call.wrong(format!("`{token}` is no part")))?);
        } else {
            out.push_str(token);
        }
        rest = after;
    }
    Ok(out)
}

/// The text between quotes, in which two are one, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    if let Some(rest) = text.strip_prefix("''") {
        return Some(("'".to_owned(), rest));
    }
    let mut out = String::new();
    let mut letters = text.char_indices().skip(1).peekable();
    while let Some((at, letter)) = letters.next() {
        if letter != '\'' {
            out.push(letter);
        } else if letters.next_if(|(_, next)| *next == '\'').is_some() {
            out.push('\'');
        } else {
            return Some((out, &text[at + 1..]));
        }
    }
    None
}

fn part(letter: char, length: usize, at: OffsetDateTime) -> Option<String> {
    let number = |value: u8| match length {
        1 => Some(value.to_string()),
        2 => Some(format!("{value:02}")),
        _ => None,
    };
    let name = |name: String| match length {
        3 => Some(name.chars().take(3).collect()),
        4 => Some(name),
        _ => None,
    };
    let noon = |am: &str, pm: &str| {
        (length == 2).then(|| if at.hour() < 12 { am.to_owned() } else { pm.to_owned() })
    };
    match letter {
        'Y' if length == 2 => Some(format!("{:02}", at.year() % 100)),
        'Y' if length == 4 => Some(format!("{:04}", at.year())),
        'M' if length <= 2 => number(at.month().into()),
        'M' => name(at.month().to_string()),
        'D' => number(at.day()),
        'E' => name(at.weekday().to_string()),
        'h' => number(at.hour()),
        'H' => number(match at.hour() % 12 {
            0 => 12,
            hour => hour,
        }),
        'A' => noon("AM", "PM"),
        'a' => noon("am", "pm"),
        'm' => number(at.minute()),
        's' => number(at.second()),
        'Z' => zone(length, at.offset()),
        _ => None,
    }
}

fn zone(length: usize, offset: UtcOffset) -> Option<String> {
    let sign = if offset.is_negative() { '-' } else { '+' };
    let (hours, minutes, _) = offset.as_hms();
    let (hours, minutes) = (hours.unsigned_abs(), minutes.unsigned_abs());
    match length {
        1 if offset.is_utc() => Some("Z".to_owned()),
        3 if offset.is_utc() => Some("UTC".to_owned()),
        1 | 5 => Some(format!("{sign}{hours:02}:{minutes:02}")),
        3 | 4 => Some(format!("{sign}{hours:02}{minutes:02}")),
        _ => None,
    }
}
