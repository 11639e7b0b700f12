//! What of earlier builds counts, and who gets the results of this one.

mod place;

use std::{str::FromStr, time::Duration};

use davit_engine::{
    CompressionScope, LayerCompression,
    build::{
        CacheExport, CacheFailure, CacheImport, CachePolicy, CacheScope, ContextModes, InlineCache,
        MountSharing, parse_duration,
    },
    image::Compression,
};

use self::place::{Keys, Place, environment_variable};
use super::{explain::Explain, output::switch};
use crate::printer;

/// Layers that are sent to a cache at a time.
const PARALLEL: usize = 3;
const MOST_PARALLEL: usize = 64;

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
    /// Which modes files of contexts have, whatever the umask was: as-is, or git's (0755 for
    /// directories and what is executable, 0644 for the rest)
    #[arg(long, value_name = "as-is|git", default_value = "as-is", hide_default_value = true)]
    pub(super) context_perms: ContextPerms,
    /// Begin with empty cache mounts
    #[arg(long)]
    pub(super) no_cache_mounts: bool,
    /// Take no result that is older, as 90m or 24h
    #[arg(long, value_name = "DURATION", value_parser = age)]
    pub(super) cache_ttl: Option<Duration>,
    /// Say why a step is not taken from the cache: in words, or as JSON on standard output
    #[arg(
        long,
        value_enum,
        value_name = "true|json|false",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub(super) explain: Explain,
    /// Take results of a cache, too: type=registry,ref=NAME, type=local,src=DIRECTORY[,tag=NAME],
    /// type=gha[,scope=NAME], type=s3,bucket=NAME,region=NAME or the name of a cache or an image at a
    /// registry; may be given several times. With mounts=true new cache mounts begin with what it has
    #[arg(long, value_name = "SPEC")]
    pub(super) cache_from: Vec<ImportSpec>,
    /// Add the results to a cache: type=registry,ref=NAME, type=local,dest=DIRECTORY[,tag=NAME],
    /// type=gha[,scope=NAME], type=s3,bucket=NAME,region=NAME, or type=inline, into the image; may be
    /// given several times
    ///
    /// Further keys: mode=min|max (those of the image, or all), ignore-error,
    /// compression=gzip|zstd|uncompressed, compression-level, force-compression (for layers, too, that the
    /// cache has in another one), upload_parallelism, mounts=true (with the cache mounts that the build
    /// used). Those of gha and s3 are BuildKit's; what they leave out the environment of GitHub Actions or AWS tells.
    #[arg(long, value_name = "SPEC")]
    pub(super) cache_to: Vec<ExportSpec>,
}

/// `--context-perms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ContextPerms {
    AsIs,
    Git,
}

/// One `--cache-from`, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ImportSpec(Place, MountSharing);

/// One `--cache-to`, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ExportSpec {
    /// Into the image itself.
    Inline,
    Cache(Box<CacheExport>),
    /// Not even tried.
    Nowhere(&'static str),
}

impl CacheArgs {
    pub(super) const fn context_modes(&self) -> ContextModes {
        match self.context_perms {
            ContextPerms::AsIs => ContextModes::AsTheyAre,
            ContextPerms::Git => ContextModes::Git,
        }
    }

    pub(super) const fn mount_policy(&self) -> CachePolicy {
        if self.no_cache_mounts { CachePolicy::Ignore } else { CachePolicy::Use }
    }

    /// The caches that results are taken from.
    pub(super) fn imports(&self) -> Vec<CacheImport> {
        let place = |spec: &ImportSpec| match &spec.0 {
            Place::There(place) => Some(CacheImport { place: (**place).clone(), mounts: spec.1 }),
            Place::Nowhere(reason) => {
                printer::note(&format!("warning: {reason}"));
                None
            }
        };
        self.cache_from.iter().filter_map(place).collect()
    }

    /// The caches that get results, and whether the image does.
    pub(super) fn exports(&self) -> (Vec<CacheExport>, InlineCache) {
        let (mut exports, mut inline) = (Vec::new(), InlineCache::Nothing);
        for spec in &self.cache_to {
            match spec {
                ExportSpec::Inline => inline = InlineCache::Records,
                ExportSpec::Cache(export) => exports.push(CacheExport::clone(export)),
                ExportSpec::Nowhere(reason) => printer::note(&format!("warning: {reason}")),
            }
        }
        (exports, inline)
    }
}

fn age(text: &str) -> Result<Duration, String> {
    let nanoseconds = parse_duration(text).and_then(|it| u64::try_from(it).ok());
    nanoseconds.map(Duration::from_nanos).ok_or_else(|| "for example 90m or 24h".to_owned())
}

impl FromStr for ImportSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut keys = Keys::parse(text)?;
        let place = place::place(&mut keys, "src", &environment_variable)?;
        let mounts = mounts(&mut keys)?;
        match keys.rest().first() {
            None => Ok(Self(place, mounts)),
            Some((key, _)) => Err(format!("`{key}` is not supported")),
        }
    }
}

impl FromStr for ExportSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut keys = Keys::parse(text)?;
        if keys.is("type", "inline") {
            return inline(&mut keys);
        }
        let place = place::place(&mut keys, "dest", &environment_variable)?;
        let parallel = match keys.take("upload_parallelism") {
            None => PARALLEL,
            Some(text) => text
                .parse()
                .ok()
                .filter(|count| (1..=MOST_PARALLEL).contains(count))
                .ok_or_else(|| format!("`{text}` is not one of 1 to {MOST_PARALLEL}"))?,
        };
        let scope = match keys.take("mode").as_deref() {
            None | Some("min") => CacheScope::Result,
            Some("max") => CacheScope::All,
            Some(other) => return Err(format!("mode `{other}` is neither min nor max")),
        };
        let failure = match keys.take_switch("ignore-error")? {
            true => CacheFailure::Told,
            false => CacheFailure::Fatal,
        };
        let compression = compression(&mut keys)?;
        let mounts = mounts(&mut keys)?;
        for (key, value) in keys.rest() {
            // davit's format is such a manifest.
            let is_so = matches!(key.as_str(), "image-manifest" | "oci-mediatypes");
            if !is_so || !switch(key, value)? {
                return Err(format!("`{key}={value}` is not supported"));
            }
        }
        Ok(match place {
            Place::There(place) => {
                let place = *place;
                let export = CacheExport { place, scope, compression, failure, parallel, mounts };
                Self::Cache(Box::new(export))
            }
            Place::Nowhere(reason) => Self::Nowhere(reason),
        })
    }
}

/// `type=inline` has no keys but one that says what it is in any case.
fn inline(keys: &mut Keys) -> Result<ExportSpec, String> {
    keys.take("type");
    if keys.is("mode", "min") {
        keys.take("mode");
    }
    match keys.rest().first() {
        None => Ok(ExportSpec::Inline),
        Some((key, value)) => Err(format!("`{key}={value}` is not supported")),
    }
}

fn mounts(keys: &mut Keys) -> Result<MountSharing, String> {
    Ok(if keys.take_switch("mounts")? { MountSharing::Go } else { MountSharing::Stay })
}

fn compression(keys: &mut Keys) -> Result<LayerCompression, String> {
    let scope = match keys.take_switch("force-compression")? {
        true => CompressionScope::All,
        false => CompressionScope::New,
    };
    let mut compression = LayerCompression { scope, ..Default::default() };
    compression.format = match keys.take("compression").as_deref() {
        None => compression.format,
        Some("gzip") => Compression::Gzip,
        Some("zstd") => Compression::Zstd,
        Some("uncompressed") => Compression::None,
        // Its table of contents would be a part of the layer.
        Some("estargz") => {
            return Err(
                "compression `estargz` is for images: the layers of a cache are those that \
                        the steps made; take gzip or zstd"
                    .to_owned(),
            );
        }
        Some(other) => {
            return Err(format!("compression `{other}` is not one of gzip, zstd and uncompressed"));
        }
    };
    if let Some(text) = keys.take("compression-level") {
        let level = text.parse().map_err(|_| format!("`{text}` is no compression level"))?;
        compression.level = Some(level);
    }
    let most = if compression.format == Compression::Zstd { 22 } else { 9 };
    match compression.level.filter(|level| *level > most) {
        Some(level) => Err(format!("compression-level `{level}` is not one of 0 to {most}")),
        None => Ok(compression),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use davit_engine::build::CachePlace;

    use super::*;

    #[test]
    fn reads_specs() {
        let registry = |name: &str| CachePlace::Registry(name.parse().unwrap());
        let from = |text: &str| {
            text.parse::<ImportSpec>().map(|spec| match spec.0 {
                Place::There(place) => *place,
                Place::Nowhere(reason) => panic!("{reason}"),
            })
        };
        assert_eq!(from("host:5000/a"), Ok(registry("host:5000/a:latest")));
        assert_eq!(from("type=registry,ref=a:1"), Ok(registry("a:1")));
        let directory = |name: &str| {
            let (path, name) = (PathBuf::from("d"), name.to_owned());
            Ok(CachePlace::Directory { path, name })
        };
        assert_eq!(from("type=local,src=d"), directory("latest"));
        assert_eq!(from("type=local,src=d,tag=x"), directory("x"));
        for bad in [
            "type=azblob",
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
        let to = |text: &str| match text.parse()? {
            ExportSpec::Cache(export) => Ok(*export),
            other => Err(format!("{other:?}")),
        };
        assert_eq!("type=inline,mode=min".parse(), Ok(ExportSpec::Inline));
        assert!("type=inline,mode=max".parse::<ExportSpec>().is_err());
        let all = to("type=registry,ref=a,mode=max,ignore-error=true,compression=zstd,\
                      compression-level=3,force-compression=true,image-manifest=true,oci-mediatypes=true")
        .unwrap();
        assert_eq!((all.scope, all.failure), (CacheScope::All, CacheFailure::Told));
        assert_eq!((all.compression.format, all.compression.level), (Compression::Zstd, Some(3)));
        assert_eq!(all.compression.scope, CompressionScope::All);
        let plain = to("type=local,dest=d").unwrap();
        assert_eq!(
            (plain.scope, plain.compression.scope),
            (CacheScope::Result, CompressionScope::New)
        );
        for bad in [
            "type=azblob",
            "type=local,dest=d,upload_parallelism=0",
            "type=local,dest=d,mode=all",
            "type=local,dest=d,image-manifest=false",
            "type=local,src=d",
            "type=local,dest=d,compression=lzma",
            "type=local,dest=d,compression=estargz",
            "type=local,dest=d,bogus=1",
            "type=local,dest=d,compression-level=99",
        ] {
            assert!(to(bad).is_err(), "{bad}");
        }
    }
}
