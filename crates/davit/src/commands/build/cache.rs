//! What of earlier builds counts.

use std::time::Duration;

use davit_engine::build::parse_duration;

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
}

fn age(text: &str) -> Result<Duration, String> {
    let nanoseconds = parse_duration(text).and_then(|it| u64::try_from(it).ok());
    nanoseconds.map(Duration::from_nanos).ok_or_else(|| "for example 90m or 24h".to_owned())
}
