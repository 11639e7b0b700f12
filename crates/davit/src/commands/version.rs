//! `davit version`

use serde::Serialize;

use crate::{error::CliError, format, printer};

// Arguments of `davit version`.
#[derive(Debug, clap::Args)]
pub(crate) struct VersionArgs {
    /// Format output using a Go template, or 'json'
    #[arg(short, long)]
    format: Option<String>,
}

/// Highest version of the Docker Engine API whose meaning davit's output follows.
const API_VERSION: &str = "1.51";
const MIN_API_VERSION: &str = "1.24";

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    client: Side,
    server: Side,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Side {
    version: &'static str,
    #[serde(rename = "APIVersion")]
    api_version: &'static str,
    #[serde(rename = "ApiVersion")]
    api_version_again: &'static str,
    #[serde(rename = "MinAPIVersion")]
    min_api_version: &'static str,
    os: &'static str,
    arch: String,
    kernel_version: String,
    platform: Name,
    components: [Component; 1],
    // What davit does not have, or does not know of itself.
    git_commit: &'static str,
    go_version: &'static str,
    build_time: &'static str,
    experimental: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Name {
    name: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Component {
    name: &'static str,
    version: &'static str,
    details: std::collections::BTreeMap<&'static str, &'static str>,
}

impl Side {
    fn new() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            api_version: API_VERSION,
            api_version_again: API_VERSION,
            min_api_version: MIN_API_VERSION,
            os: "linux",
            arch: davit_engine::image::Platform::host().architecture,
            kernel_version: rustix::system::uname().release().to_string_lossy().into_owned(),
            platform: Name { name: "davit" },
            components: [Component {
                name: "davit",
                version: env!("CARGO_PKG_VERSION"),
                details: [("ApiVersion", API_VERSION), ("MinAPIVersion", MIN_API_VERSION)].into(),
            }],
            git_commit: "",
            go_version: "",
            build_time: "",
            experimental: false,
        }
    }
}

/// Runs `davit version`.
///
/// # Errors
/// A malformed template.
pub(crate) fn run(args: &VersionArgs) -> Result<u8, CliError> {
    // There is no daemon, so both sides of Docker's answer are this binary.
    let version = Version { client: Side::new(), server: Side::new() };
    match args.format.as_deref().filter(|format| !format.is_empty()) {
        Some(format) => printer::line(&format::render_fields(format, &version)?)?,
        None => printer::data(&format!(
            "davit {}\n API version: {} (minimum {})\n OS/Arch:     {}/{}\n Kernel:      {}\n",
            version.client.version,
            version.client.api_version,
            version.client.min_api_version,
            version.client.os,
            version.client.arch,
            version.client.kernel_version,
        ))?,
    }
    Ok(0)
}
