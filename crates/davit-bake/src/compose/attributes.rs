//! Attributes that Compose writes in a form of its own: limits, hosts, and the key `x-bake`.

use std::collections::{BTreeMap, HashSet};

use davit_composefile::{ComposeError, Node, Shape};
use davit_dockerfile::parse_size;
use serde_json::{Map, Value};

use super::{named_context, parsed, set_list};
use crate::{target::Target, words::Entry};

pub(super) fn add_limits<'n>(
    get: &dyn Fn(&str) -> Option<&'n Node>,
    target: &mut Target,
) -> Result<(), ComposeError> {
    if let Some(size) = get("shm_size") {
        let text = size.scalar("shm_size")?.unwrap_or_default();
        let bytes =
            parse_size(text.trim()).ok_or_else(|| size.wrong("shm_size", "a size as 64m"))?;
        if bytes > 0 {
            target.set("shm-size", shown_size(bytes).into());
        }
    }
    let Some(ulimits) = get("ulimits") else { return Ok(()) };
    let mut words = Vec::new();
    for (name, limit) in ulimits.map("ulimits")? {
        let number = |node: &Node| {
            let text = node.scalar(name)?.unwrap_or_default();
            text.parse::<i64>().map_err(|_| node.wrong(name, "a whole number"))
        };
        let (soft, hard) = match &limit.shape {
            Shape::Map(_) => {
                let of = |key: &str| limit.get(key).map_or(Ok(0), number);
                (of("soft")?, of("hard")?)
            }
            _ => (number(limit)?, number(limit)?),
        };
        words.push(Value::String(format!("{name}={soft}:{hard}")));
    }
    set_list(target, "ulimits", words);
    Ok(())
}

/// As `128MiB`, with four digits.
fn shown_size(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "four digits are shown")]
    let mut size = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].iter();
    let mut unit = units.next().copied().unwrap_or_default();
    while size >= 1024.0
        && let Some(larger) = units.next()
    {
        (size, unit) = (size / 1024.0, larger);
    }
    let whole = format!("{size:.0}").len();
    let text = format!("{size:.*}", 4_usize.saturating_sub(whole));
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    };
    format!("{text}{unit}")
}

/// Hosts with their addresses, of which one host may have several.
pub(super) fn hosts(node: &Node) -> Result<Map<String, Value>, ComposeError> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    match &node.shape {
        Shape::List(items) => {
            for item in items {
                let text = item.string("extra_hosts")?;
                let pair = text.split_once('=').or_else(|| text.split_once(':'));
                let (name, address) =
                    pair.ok_or_else(|| item.wrong("extra_hosts", "a host as NAME=ADDRESS"))?;
                all.entry(name.to_owned()).or_default().push(address.to_owned());
            }
        }
        _ => {
            for (name, addresses) in node.map("extra_hosts")? {
                all.insert(name.to_owned(), addresses.strings("extra_hosts")?);
            }
        }
    }
    let plain = |address: String| {
        let inner = address.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        inner.map_or_else(|| address.clone(), str::to_owned)
    };
    let joined = all.into_iter().map(|(name, addresses)| {
        let addresses: Vec<String> = addresses.into_iter().map(plain).collect();
        (name, addresses.join(",").into())
    });
    Ok(joined.collect())
}

/// Adds what the key `x-bake` of a build says.
pub(super) fn extend(target: &mut Target, bake: &Node) -> Result<(), ComposeError> {
    let words = |key: &str| -> Result<Vec<String>, ComposeError> {
        let Some(value) = bake.get(key).filter(|value| !value.is_null()) else {
            return Ok(Vec::new());
        };
        match &value.shape {
            Shape::List(_) => value.strings(key),
            _ => Ok(value.string(key)?.split_whitespace().map(str::to_owned).collect()),
        }
    };
    for key in ["tags", "platforms", "no-cache-filter"] {
        let (mut all, mut seen) = (target.words(key), HashSet::new());
        all.extend(words(key)?);
        all.retain(|word| seen.insert(word.clone()));
        set_list(target, key, all.into_iter().map(Value::String).collect());
    }
    for (key, entry) in [
        ("cache-from", Entry::Cache),
        ("cache-to", Entry::Cache),
        ("secret", Entry::Secret),
        ("ssh", Entry::Ssh),
        ("output", Entry::Output),
    ] {
        let more = parsed(entry, &words(key)?);
        if !more.is_empty() {
            target.append(key, more);
        }
    }
    for key in ["pull", "no-cache"] {
        if let Some(value) = bake.get(key).filter(|value| !value.is_null()) {
            target.set(key, value.bool(key)?.into());
        }
    }
    let contexts = bake.get("contexts").map(|it| it.pairs("contexts")).transpose()?;
    let known: Vec<String> = target.pairs("contexts").into_iter().map(|(name, _)| name).collect();
    for (name, value) in contexts.unwrap_or_default() {
        if !known.contains(&name) {
            target.entry("contexts", &name, &named_context(&value.unwrap_or_default()));
        }
    }
    Ok(())
}
