//! Buckets, and who may use them.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use davit_engine::{
    Secret,
    build::{S3Account, S3Place},
};

use super::{Keys, Variable};

/// As BuildKit's.
const DEFAULT_NAME: &str = "buildkit";
const TOUCH_REFRESH: Duration = Duration::from_hours(24);
const DEFAULT_PROFILE: &str = "default";

pub(super) fn place(keys: &mut Keys, variable: Variable<'_>) -> Result<S3Place, String> {
    let bucket = keys.take("bucket").or_else(|| variable("AWS_BUCKET"));
    let bucket = bucket.ok_or("type=s3 needs bucket=NAME")?;
    let is_plain = |text: &str, more: &str| {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || more.contains(c);
        !text.is_empty() && text.chars().all(fits)
    };
    if !is_plain(&bucket, "-._") {
        return Err(format!("`{bucket}` is no name of a bucket"));
    }
    let profile = Profile::read(variable);
    let region = keys.take("region").or_else(|| variable("AWS_REGION"));
    let region = region.or_else(|| variable("AWS_DEFAULT_REGION"));
    let region = region.or_else(|| profile.value("region"));
    let region = region.ok_or("type=s3 needs region=NAME")?;
    if !is_plain(&region, "-") {
        return Err(format!("`{region}` is no region"));
    }
    let endpoint = keys.take("endpoint_url").or_else(|| variable("AWS_ENDPOINT_URL_S3"));
    let endpoint = match endpoint.or_else(|| variable("AWS_ENDPOINT_URL")) {
        Some(url) => endpoint_of(&url)?,
        None => format!("https://s3.{region}.amazonaws.com"),
    };
    // A name with dots has no certificate as part of a host, and an address no hosts within it.
    let path_style =
        keys.take_switch("use_path_style")? || bucket.contains('.') || is_address(&endpoint);
    let prefix = keys.take("prefix").unwrap_or_default();
    let folder = |key: Option<String>, usual: &str| {
        format!("{prefix}{}", key.unwrap_or_else(|| usual.to_owned()))
    };
    let blobs = folder(keys.take("blobs_prefix"), "blobs/");
    let manifests = folder(keys.take("manifests_prefix"), "manifests/");
    let names = keys.take("name").unwrap_or_else(|| DEFAULT_NAME.to_owned());
    let names: Vec<String> =
        names.split(';').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let keyed = names.iter().map(|name| format!("{manifests}{name}")).chain([blobs.clone()]);
    for key in keyed {
        if key.split('/').any(|part| part == "." || part == "..") || key.len() > 900 {
            return Err(format!("`{key}` cannot be a key"));
        }
    }
    if names.is_empty() {
        return Err("`name` is empty".to_owned());
    }
    match keys.take("retry_mode").as_deref() {
        None | Some("standard" | "adaptive") => {}
        Some(mode) => return Err(format!("`retry_mode={mode}` is neither standard nor adaptive")),
    }
    let attempts = keys.take("retry_max_attempts").map(|text| text.parse());
    let attempts = attempts.transpose().map_err(|_| "`retry_max_attempts` is no number")?;
    let touch_refresh = keys.take_duration("touch_refresh")?.unwrap_or(TOUCH_REFRESH);
    let account = account(keys, variable, &profile)?;
    Ok(S3Place {
        endpoint,
        path_style,
        bucket,
        region,
        blobs,
        manifests,
        names,
        account,
        touch_refresh,
        attempts,
    })
}

/// The address of a server as its requests name it.
fn endpoint_of(url: &str) -> Result<String, String> {
    let wrong = || format!("`endpoint_url={url}` is not like https://host:port");
    let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
    let usual = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => return Err(wrong()),
    };
    let host = rest.strip_suffix('/').unwrap_or(rest).to_ascii_lowercase();
    let host = host.strip_suffix(usual).unwrap_or(&host);
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    if host.is_empty() || !host.chars().all(fits) {
        return Err(wrong());
    }
    Ok(format!("{scheme}://{host}"))
}

/// Whether a server is named by its address.
fn is_address(endpoint: &str) -> bool {
    let host = endpoint.split("://").nth(1).unwrap_or_default();
    let is_v4 = host.split(':').next().is_some_and(|it| it.parse::<Ipv4Addr>().is_ok());
    is_v4 || host.starts_with('[')
}

/// The keys of the spec, else those of the environment, else those of the profile.
fn account(
    keys: &mut Keys,
    variable: Variable<'_>,
    profile: &Profile,
) -> Result<Option<S3Account>, String> {
    let given = ["access_key_id", "secret_access_key", "session_token"].map(|key| keys.take(key));
    let set = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"].map(variable);
    let kept = ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"];
    for found in [given, set, kept.map(|key| profile.value(key))] {
        match found {
            [None, None, _] => {}
            [Some(id), Some(secret), session] => {
                let (secret, session) = (Secret::new(secret), session.map(Secret::new));
                return Ok(Some(S3Account { id, secret, session }));
            }
            _ => return Err("the access key's id and the key itself go together".to_owned()),
        }
    }
    Ok(None)
}

/// One profile of the files that all programs for the service share.
struct Profile {
    values: Vec<(String, String)>,
}

impl Profile {
    fn read(variable: Variable<'_>) -> Self {
        let name = variable("AWS_PROFILE").unwrap_or_else(|| DEFAULT_PROFILE.to_owned());
        let home = variable("HOME").map(|home| PathBuf::from(home).join(".aws"));
        let file = |key: &str, usual: &str| {
            let path = variable(key).map(PathBuf::from);
            let path = path.or_else(|| Some(home.as_ref()?.join(usual)))?;
            fs_err::read_to_string(path).ok()
        };
        let mut values = Vec::new();
        if let Some(text) = file("AWS_SHARED_CREDENTIALS_FILE", "credentials") {
            values.extend(section(&text, &name));
        }
        if let Some(text) = file("AWS_CONFIG_FILE", "config") {
            values.extend(section(&text, &format!("profile {name}")));
            if name == DEFAULT_PROFILE {
                values.extend(section(&text, &name));
            }
        }
        Self { values }
    }

    fn value(&self, key: &str) -> Option<String> {
        self.values.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    }
}

/// The keys of one section.
fn section(text: &str, wanted: &str) -> Vec<(String, String)> {
    let (mut values, mut inside) = (Vec::new(), false);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            inside = name.trim() == wanted;
        } else if let Some((key, value)) = line.split_once('=').filter(|_| inside)
            && !line.starts_with(['#', ';'])
        {
            values.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_profile() {
        let text = "[default]\na = 1\n# b = 2\n\n[other]\nA=x=y\n[default]\nc=3\n";
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(section(text, "default"), [pair("a", "1"), pair("c", "3")]);
        assert_eq!(section(text, "other"), [pair("a", "x=y")]);
    }
}
