//! Where a cache is: what a spec says, what the environment adds.

mod s3;

use std::{path::PathBuf, time::Duration};

use davit_engine::{
    Secret,
    build::{ActionsPlace, ActionsProtocol, CachePlace, parse_duration},
};

use super::super::output::{fields, switch};
use crate::{environment, reference};

/// Name of a cache in a directory that has several.
const DEFAULT_NAME: &str = "latest";
/// As BuildKit's.
const DEFAULT_SCOPE: &str = "buildkit";
/// As BuildKit's.
const ACTIONS_TIMEOUT: Duration = Duration::from_mins(10);

/// A variable of the environment, where it is set and not empty.
pub(super) type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The keys of a spec that are not read yet.
pub(super) struct Keys {
    fields: Vec<(String, String)>,
}

/// Where a cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    There(Box<CachePlace>),
    /// Nowhere, as `type=gha` is outside of GitHub Actions: it is told and passed over, as buildx
    /// passes over it.
    Nowhere(&'static str),
}

impl Keys {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.contains('=') {
            return Ok(Self { fields: fields(text)? });
        }
        let of_registry = [("type", "registry"), ("ref", text)];
        let fields = of_registry.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        Ok(Self { fields })
    }

    /// The value of a key, the last one if it is there several times.
    pub(super) fn take(&mut self, wanted: &str) -> Option<String> {
        let found = self.fields.iter().rev().find(|(key, _)| key == wanted);
        let value = found.map(|(_, value)| value.clone());
        self.fields.retain(|(key, _)| key != wanted);
        value.filter(|value| !value.is_empty())
    }

    /// The value of a key that is true or false.
    pub(super) fn take_switch(&mut self, wanted: &str) -> Result<bool, String> {
        self.take(wanted).map_or(Ok(false), |value| switch(wanted, &value))
    }

    fn take_duration(&mut self, wanted: &str) -> Result<Option<Duration>, String> {
        let Some(text) = self.take(wanted) else { return Ok(None) };
        let nanoseconds = parse_duration(&text).and_then(|it| u64::try_from(it).ok());
        let read = nanoseconds.map(|it| Some(Duration::from_nanos(it)));
        read.ok_or_else(|| format!("`{wanted}={text}` is no duration, as 90s or 10m"))
    }

    /// Whether a key has this value.
    pub(super) fn is(&self, key: &str, value: &str) -> bool {
        self.fields.iter().any(|(name, found)| name == key && found == value)
    }

    pub(super) fn rest(&self) -> &[(String, String)] {
        &self.fields
    }
}

/// Takes the keys of a place; `directory` is that of a directory.
pub(super) fn place(
    keys: &mut Keys,
    directory: &str,
    variable: Variable<'_>,
) -> Result<Place, String> {
    Ok(Place::There(Box::new(match keys.take("type").as_deref() {
        Some("registry") => {
            let name = keys.take("ref").ok_or("type=registry needs ref=NAME")?;
            let reference = reference::new_name(&name).map_err(|error| error.to_string())?;
            CachePlace::Registry(reference)
        }
        Some("local") => {
            let path = keys.take(directory);
            let path = path.ok_or(format!("type=local needs {directory}=DIRECTORY"))?;
            let name = keys.take("tag").unwrap_or_else(|| DEFAULT_NAME.to_owned());
            CachePlace::Directory { path: PathBuf::from(path), name }
        }
        Some("s3") => CachePlace::S3(s3::place(keys, variable)?),
        Some("gha") => return actions(keys, variable),
        Some("inline") => {
            return Err("what an image carries is read as type=registry,ref=IMAGE".to_owned());
        }
        Some("azblob") => {
            return Err("caches of type `azblob` are not supported; of object stores, those that \
                        speak S3's protocol are (type=s3)"
                .to_owned());
        }
        Some(other) => {
            return Err(format!(
                "type `{other}` is not one of registry, local, inline, gha and s3"
            ));
        }
        None => return Err("the type is missing".to_owned()),
    })))
}

/// The cache of GitHub Actions, which tells its address and token by the environment.
fn actions(keys: &mut Keys, variable: Variable<'_>) -> Result<Place, String> {
    let scope = keys.take("scope").unwrap_or_else(|| DEFAULT_SCOPE.to_owned());
    let timeout = keys.take_duration("timeout")?.unwrap_or(ACTIONS_TIMEOUT);
    // BuildKit asks GitHub itself with these which entries there are; here nothing needs that.
    for unneeded in ["ghtoken", "repository"] {
        keys.take(unneeded);
    }
    let token = keys.take("token").or_else(|| variable("ACTIONS_RUNTIME_TOKEN"));
    let old = keys.take("url").or_else(|| variable("ACTIONS_CACHE_URL"));
    let new = keys.take("url_v2").or_else(|| variable("ACTIONS_RESULTS_URL"));
    let is_new = variable("ACTIONS_CACHE_SERVICE_V2").is_some_and(|it| it != "false" && it != "0");
    let (protocol, url) = match keys.take("version").as_deref() {
        Some("1") => (ActionsProtocol::V1, old),
        Some("2") => (ActionsProtocol::V2, new),
        Some(other) => return Err(format!("`version={other}` is neither 1 nor 2")),
        None if is_new || old.is_none() => (ActionsProtocol::V2, new),
        None => (ActionsProtocol::V1, old),
    };
    let (Some(token), Some(mut url)) = (token, url) else {
        return Ok(Place::Nowhere(
            "the cache of GitHub Actions is passed over: ACTIONS_RUNTIME_TOKEN and ACTIONS_CACHE_URL \
             or ACTIONS_RESULTS_URL are not set here",
        ));
    };
    if !url.starts_with("https://") && !url.starts_with("http://") {
        return Err(format!("`url={url}` is no HTTP address"));
    }
    if !url.ends_with('/') {
        url.push('/');
    }
    let token = Secret::new(token);
    let place = ActionsPlace { url, protocol, token, scope, timeout };
    Ok(Place::There(Box::new(CachePlace::Actions(place))))
}

/// The environment's variables.
pub(super) fn environment_variable(name: &str) -> Option<String> {
    environment::variable(name)?.into_string().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, variables: &[(&str, &str)]) -> Result<Place, String> {
        let mut keys = Keys::parse(text)?;
        let variable = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let place = place(&mut keys, "src", &variable)?;
        match keys.rest() {
            [] => Ok(place),
            [(key, _), ..] => Err(format!("`{key}` is left")),
        }
    }

    #[test]
    fn reads_the_cache_of_github_actions() {
        let job = [
            ("ACTIONS_RUNTIME_TOKEN", "t"),
            ("ACTIONS_CACHE_URL", "https://old"),
            ("ACTIONS_RESULTS_URL", "https://new/"),
        ];
        let actions = |text: &str, variables: &[(&str, &str)]| {
            let Ok(Place::There(place)) = read(text, variables) else { panic!("{text}") };
            let CachePlace::Actions(place) = *place else { panic!("{text}") };
            (place.url, place.protocol, place.scope)
        };
        let (v1, v2) = (ActionsProtocol::V1, ActionsProtocol::V2);
        assert_eq!(actions("type=gha", &job), ("https://old/".into(), v1, "buildkit".into()));
        let newer = [&job[..], &[("ACTIONS_CACHE_SERVICE_V2", "True")]].concat();
        assert_eq!(actions("type=gha", &newer).1, v2);
        assert_eq!(actions("type=gha,version=2,scope=a", &job).0, "https://new/");
        assert_eq!(
            actions("type=gha,version=1,url=http://x,token=y,timeout=1m", &[]).0,
            "http://x/"
        );
        assert!(matches!(read("type=gha", &job[1..]), Ok(Place::Nowhere(_))));
        for bad in ["type=gha,version=3", "type=gha,url=x", "type=gha,timeout=x", "type=gha,x=y"] {
            assert!(read(bad, &job).is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_buckets() {
        let read = |text: &str, variables: &[(&str, &str)]| {
            let Place::There(place) = read(text, variables)? else { panic!("{text}") };
            let CachePlace::S3(place) = *place else { panic!("{text}") };
            Ok::<_, String>(place)
        };
        let place = read("type=s3,bucket=b,region=eu-1", &[]).unwrap();
        assert_eq!(place.endpoint, "https://s3.eu-1.amazonaws.com");
        assert_eq!((place.path_style, place.account), (false, None));
        assert_eq!(
            (&*place.blobs, &*place.manifests, place.names),
            ("blobs/", "manifests/", vec!["buildkit".to_owned()])
        );
        let keys =
            [("AWS_ACCESS_KEY_ID", "i"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_REGION", "r")];
        let text = "type=s3,bucket=a.b,prefix=p/,name=x;y,endpoint_url=http://H:9/,blobs_prefix=q/,\
                    touch_refresh=1h,retry_max_attempts=3,retry_mode=standard";
        let place = read(text, &keys).unwrap();
        assert_eq!((place.endpoint.as_str(), place.path_style), ("http://h:9", true));
        assert_eq!((&*place.blobs, place.names), ("p/q/", vec!["x".to_owned(), "y".to_owned()]));
        assert_eq!(place.account.unwrap().id, "i");
        let given = "type=s3,bucket=b,access_key_id=a,secret_access_key=b,session_token=c";
        assert_eq!(read(given, &keys).unwrap().account.unwrap().session, Some(Secret::new("c")));
        for bad in [
            "type=s3,region=r",
            "type=s3,bucket=b",
            "type=s3,bucket=B/c,region=r",
            "type=s3,bucket=b,region=r/s",
            "type=s3,bucket=b,region=r,endpoint_url=x",
            "type=s3,bucket=b,region=r,endpoint_url=http://h/path",
            "type=s3,bucket=b,region=r,name=../x",
            "type=s3,bucket=b,region=r,access_key_id=a",
            "type=s3,bucket=b,region=r,retry_mode=x",
            "type=s3,bucket=b,region=r,x=y",
        ] {
            assert!(read(bad, &[]).is_err(), "{bad}");
        }
    }
}
