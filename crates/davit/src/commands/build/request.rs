//! What is to be built, as the arguments say it.

use std::collections::BTreeMap;

use davit_engine::{
    build::{BuildRequest, CachePolicy, Network, Repeat},
    image::{Platform, Reference},
};

use super::{BuildArgs, contexts, explain::Explain, outputs::Outputs};
use crate::{error::CliError, reference};

/// The argument, and the variable, that bounds the times of a result.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// What is to be built or asked about, where it goes, and its names.
pub(super) fn request(
    args: &BuildArgs,
) -> Result<(BuildRequest, Outputs, Vec<Reference>), CliError> {
    let place = contexts::Place::of(args)?;
    let named_contexts = args.build_contexts.iter().map(|text| contexts::named(text));
    let named_contexts = named_contexts.collect::<Result<_, _>>()?;
    let mut build_args = pairs(&args.build_args, crate::environment::variable_text)?;
    let epoch = match build_args.get(EPOCH).filter(|value| !value.is_empty()) {
        Some(value) => Some(value.clone()),
        None => crate::environment::variable_text(EPOCH).filter(|value| !value.is_empty()),
    };
    let source_date_epoch = epoch.as_ref().and_then(|value| value.parse().ok());
    if let (None, Some(name)) = (source_date_epoch, epoch) {
        // What is no number may name what has a time.
        build_args.insert(EPOCH.to_owned(), name);
    }
    let labels = pairs(&args.labels, |_| Some(String::new()))?;
    let tags: Vec<Reference> =
        args.tags.iter().map(|name| parse_tag(name)).collect::<Result<_, _>>()?;
    let add_hosts = args.add_hosts.iter().map(|host| parse_host(host));
    let add_hosts = add_hosts.collect::<Result<_, _>>()?;
    let (sandbox, network) = (args.sandbox.read(place.is_over_ssh())?, network(&args.network)?);
    let result = args.outputs.plan(&tags, args.sandbox.allowed())?;
    // What is typed is right; from here on it is a build, which may fail.
    args.outputs.remove_stale()?;
    let (dockerfile, context) = contexts::sources(args, place)?;
    let host = Platform::host();
    let mut platforms = args.outputs.platforms().into_iter();
    let request = BuildRequest {
        dockerfile,
        context,
        named_contexts,
        target: args.target.clone().filter(|target| !target.is_empty()),
        build_args,
        labels,
        platform: platforms.next().unwrap_or_else(|| host.clone()),
        more_platforms: platforms.collect(),
        build_platform: host,
        network,
        cache: if args.no_cache { CachePolicy::Ignore } else { CachePolicy::Use },
        no_cache_stages: args.caches.no_cache_filter.clone(),
        no_cache_from: args.caches.no_cache_from.clone(),
        cache_mounts: args.caches.mount_policy(),
        context_modes: args.caches.context_modes(),
        cache_ttl: args.caches.cache_ttl,
        source_date_epoch: result.epoch.or(source_date_epoch),
        rewrite_timestamp: result.rewrite_timestamp,
        squash: result.squash,
        repeat: if args.repro { Repeat::Compared } else { Repeat::Never },
        add_hosts,
        sandbox,
        // By what is attested.
        attest: davit_engine::build::Attest::default(),
        explain: args.caches.explain != Explain::Never,
        jobs: args.jobs,
    };
    Ok((request, result, tags))
}

/// What a build's commands can be in.
const NETWORKS: &str = "--network takes default, none, host, and container:NAME for the network of a \
                        running container, and networks of `davit network ls`";

/// Reads the network of `RUN` steps.
fn network(text: &str) -> Result<Network, CliError> {
    Ok(match text {
        "" | "default" | "bridge" => Network::Default,
        "none" => Network::None,
        "host" => Network::Host,
        other => match other.strip_prefix("container:") {
            Some("") => {
                let message = format!("network {other} not found");
                return Err(CliError::usage(message).hint(NETWORKS));
            }
            Some(name) => Network::Container(name.to_owned()),
            None => Network::Named(other.to_owned()),
        },
    })
}

/// `NAME=VALUE` pairs; a name alone has the value that `missing` gives, or is left out.
fn pairs(
    words: &[String],
    missing: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>, CliError> {
    let mut pairs = BTreeMap::new();
    for word in words {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word.as_str(), missing(word)),
        };
        if name.is_empty() {
            let message = format!("invalid key-value pair {word:?}: empty key");
            return Err(CliError::user(message));
        }
        pairs.extend(value.map(|value| (name.to_owned(), value)));
    }
    Ok(pairs)
}

fn parse_tag(name: &str) -> Result<Reference, CliError> {
    if let Err(error) = name.parse::<Reference>() {
        let flag = format!("invalid argument {name:?} for \"-t, --tag\" flag");
        return Err(CliError::user(format!("{flag}: {error}")));
    }
    reference::new_name(name)
}

fn parse_host(text: &str) -> Result<(String, String), CliError> {
    let split = text.split_once('=').or_else(|| text.split_once(':'));
    let parsed = split.and_then(|(name, address)| {
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let address = match address {
            "host-gateway" => address.to_owned(),
            _ => address.parse::<std::net::IpAddr>().ok()?.to_string(),
        };
        (!name.is_empty()).then(|| (name.to_owned(), address))
    });
    parsed.ok_or_else(|| CliError::usage(format!("`{text}` is not of the form HOST:IP")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_pairs_and_hosts() {
        let words = ["A=1=2".to_owned(), "HOME_".to_owned(), "GONE".to_owned()];
        let found = pairs(&words, |name| (name == "HOME_").then(|| "x".to_owned()));
        assert_eq!(
            found.unwrap().into_iter().collect::<Vec<_>>(),
            [("A".to_owned(), "1=2".to_owned()), ("HOME_".to_owned(), "x".to_owned()),]
        );
        let host = |text: &str| parse_host(text).ok();
        assert_eq!(host("a:1.2.3.4"), Some(("a".to_owned(), "1.2.3.4".to_owned())));
        assert_eq!(host("a:[::1]"), Some(("a".to_owned(), "::1".to_owned())));
        assert_eq!(host("a=::1"), Some(("a".to_owned(), "::1".to_owned())));
        assert_eq!(host("a:host-gateway"), Some(("a".to_owned(), "host-gateway".to_owned())));
        assert_eq!(host("a"), None);
        assert_eq!(host(":1.2.3.4"), None);
    }
}
