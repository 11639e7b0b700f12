//! What of earlier builds counts, and who gets the results of this one.

use std::{path::PathBuf, str::FromStr, time::Duration};

use davit_engine::{
    CompressionScope, LayerCompression,
    build::{CacheExport, CacheFailure, CachePlace, CacheScope, parse_duration},
    image::Compression,
};

use super::output::{fields, switch};
use crate::reference;

/// Name of a cache in a directory that has several.
const DEFAULT_NAME: &str = "latest";

// Options of a build's cache.
#[derive(Debug, clap::Args)]
pub(super) struct CacheArgs {
    /// Run the steps of these stages again
    #[arg(long, value_name = "STAGE,...", value_delimiter = ',')]
    pub(super) no_cache_filter: Vec<String>,
    /// Run a step again, with all that follow in its stage and all that read these: from the first
    /// of a stage on, or from a line of the Dockerfile
    #[arg(long, value_name = "STAGE|LINE,...", value_delimiter = ',')]
    pub(super) no_cache_from: Vec<String>,
    /// Take no result that is older, as 90m or 24h
    #[arg(long, value_name = "DURATION", value_parser = age)]
    pub(super) cache_ttl: Option<Duration>,
    /// Take results of a cache, too: type=registry,ref=NAME, type=local,src=DIRECTORY[,tag=NAME] or a
    /// name at a registry; may be given several times
    #[arg(long, value_name = "SPEC")]
    pub(super) cache_from: Vec<ImportSpec>,
    /// Add the results to a cache: type=registry,ref=NAME or type=local,dest=DIRECTORY[,tag=NAME]; may
    /// be given several times
    ///
    /// Further keys: mode=min|max (those of the image, or all), ignore-error,
    /// compression=gzip|zstd|uncompressed, compression-level.
    #[arg(long, value_name = "SPEC")]
    pub(super) cache_to: Vec<ExportSpec>,
}

/// One `--cache-from`, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ImportSpec(pub(super) CachePlace);

/// One `--cache-to`, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExportSpec(pub(super) CacheExport);

fn age(text: &str) -> Result<Duration, String> {
    let nanoseconds = parse_duration(text).and_then(|it| u64::try_from(it).ok());
    nanoseconds.map(Duration::from_nanos).ok_or_else(|| "for example 90m or 24h".to_owned())
}

/// Keys and their values.
type Fields = Vec<(String, String)>;

/// The fields of a cache with those of its place taken out; `directory` is the key of that.
fn place(text: &str, directory: &str) -> Result<(CachePlace, Fields), String> {
    let mut fields = if text.contains('=') {
        fields(text)?
    } else {
        vec![("type".to_owned(), "registry".to_owned()), ("ref".to_owned(), text.to_owned())]
    };
    let mut take = |wanted: &str| {
        let at = fields.iter().position(|(key, _)| key == wanted)?;
        Some(fields.remove(at).1).filter(|value| !value.is_empty())
    };
    let place = match take("type").as_deref() {
        Some("registry") => {
            let name = take("ref").ok_or("type=registry needs ref=NAME")?;
            let reference = reference::new_name(&name).map_err(|error| error.to_string())?;
            CachePlace::Registry(reference)
        }
        Some("local") => {
            let path = take(directory).ok_or(format!("type=local needs {directory}=DIRECTORY"))?;
            let name = take("tag").unwrap_or_else(|| DEFAULT_NAME.to_owned());
            CachePlace::Directory { path: PathBuf::from(path), name }
        }
        Some(other @ ("inline" | "gha" | "s3" | "azblob")) => {
            return Err(format!(
                "caches of type `{other}` are not supported: registry and local are"
            ));
        }
        Some(other) => return Err(format!("type `{other}` is neither registry nor local")),
        None => return Err("the type is missing".to_owned()),
    };
    Ok((place, fields))
}

impl FromStr for ImportSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (place, rest) = place(text, "src")?;
        match rest.first() {
            None => Ok(Self(place)),
            Some((key, _)) => Err(format!("`{key}` is not supported")),
        }
    }
}

impl FromStr for ExportSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (place, rest) = place(text, "dest")?;
        let mut export = CacheExport {
            place,
            scope: CacheScope::Result,
            compression: LayerCompression { scope: CompressionScope::New, ..Default::default() },
            failure: CacheFailure::Fatal,
        };
        for (key, value) in &rest {
            match (key.as_str(), value.as_str()) {
                ("mode", "min") => export.scope = CacheScope::Result,
                ("mode", "max") => export.scope = CacheScope::All,
                ("mode", _) => return Err(format!("mode `{value}` is neither min nor max")),
                ("ignore-error", _) => {
                    export.failure = match switch(key, value)? {
                        true => CacheFailure::Told,
                        false => CacheFailure::Fatal,
                    };
                }
                ("compression", _) => {
                    export.compression.format = match value.as_str() {
                        "gzip" => Compression::Gzip,
                        "zstd" => Compression::Zstd,
                        "uncompressed" => Compression::None,
                        _ => return Err(format!("compression `{value}` is not supported")),
                    };
                }
                ("compression-level", _) => {
                    let wrong = || format!("`{value}` is no compression level");
                    export.compression.level = Some(value.parse().map_err(|_| wrong())?);
                }
                // davit's format is such a manifest.
                ("image-manifest" | "oci-mediatypes", _) if switch(key, value)? => {}
                _ => return Err(format!("`{key}={value}` is not supported")),
            }
        }
        let most = if export.compression.format == Compression::Zstd { 22 } else { 9 };
        if let Some(level) = export.compression.level.filter(|level| *level > most) {
            return Err(format!("compression-level `{level}` is not one of 0 to {most}"));
        }
        Ok(Self(export))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_specs() {
        let registry = |name: &str| CachePlace::Registry(name.parse().unwrap());
        let from = |text: &str| text.parse::<ImportSpec>().map(|spec| spec.0);
        assert_eq!(from("host:5000/a"), Ok(registry("host:5000/a:latest")));
        assert_eq!(from("type=registry,ref=a:1"), Ok(registry("a:1")));
        let directory = |name: &str| {
            let (path, name) = (PathBuf::from("d"), name.to_owned());
            Ok(CachePlace::Directory { path, name })
        };
        assert_eq!(from("type=local,src=d"), directory("latest"));
        assert_eq!(from("type=local,src=d,tag=x"), directory("x"));
        for bad in [
            "type=gha",
            "type=inline",
            "type=x",
            "src=d",
            "type=local",
            "type=local,dest=d",
            "type=registry",
            "type=registry,ref=A",
            "type=local,src=d,mode=max",
            "A",
        ] {
            assert!(from(bad).is_err(), "{bad}");
        }
        let to = |text: &str| text.parse::<ExportSpec>().map(|spec| spec.0);
        let all = to("type=registry,ref=a,mode=max,ignore-error=true,compression=zstd,\
                      compression-level=3,image-manifest=true,oci-mediatypes=true")
        .unwrap();
        assert_eq!((all.scope, all.failure), (CacheScope::All, CacheFailure::Told));
        assert_eq!((all.compression.format, all.compression.level), (Compression::Zstd, Some(3)));
        assert_eq!(to("type=local,dest=d").unwrap().scope, CacheScope::Result);
        for bad in [
            "type=inline",
            "type=s3,bucket=b",
            "type=local,dest=d,mode=all",
            "type=local,dest=d,image-manifest=false",
            "type=local,src=d",
            "type=local,dest=d,compression=lzma",
            "type=local,dest=d,bogus=1",
            "type=local,dest=d,compression-level=99",
        ] {
            assert!(to(bad).is_err(), "{bad}");
        }
    }
}
