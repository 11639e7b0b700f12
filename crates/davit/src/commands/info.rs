//! `davit info`

use std::fmt::Write as _;

use davit_engine::SystemInfo;
use serde_json::{Value, json};

use crate::{cli::Context, error::CliError, format, printer};

// Arguments of `davit info`.
#[derive(Debug, clap::Args)]
pub(crate) struct InfoArgs {
    /// Format output using a custom template: 'json', or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Runs `davit info`.
///
/// # Errors
/// A malformed template, or a store that cannot be opened.
pub(crate) fn run(args: &InfoArgs, context: &Context) -> Result<u8, CliError> {
    let info = context.engine()?.info()?;
    match args.format.as_deref().filter(|format| !format.is_empty()) {
        Some(template) => printer::line(&format::render_fields(template, &whole(&info)?)?)?,
        None => printer::data(&text(&info))?,
    }
    if args.format.is_none() {
        info.warnings.iter().for_each(|warning| printer::note(warning));
    }
    Ok(0)
}

/// With the fields that Docker's answer always has.
fn whole(info: &SystemInfo) -> Result<Value, CliError> {
    let mut fields = json!({
        "Debug": false,
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "null"],
            "Authorization": null,
            "Log": ["json-file", "local", "none"],
        },
        "Swarm": {
            "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false,
            "Error": "", "RemoteManagers": null,
        },
        "Runtimes": {"davit": {"path": "davit"}},
        "Labels": [], "ExperimentalBuild": false, "InitBinary": "", "Isolation": "",
        "HttpProxy": "", "HttpsProxy": "", "NoProxy": "",
        "IndexServerAddress": "https://index.docker.io/v1/",
    });
    let own = serde_json::to_value(info).map_err(|error| CliError::user(error.to_string()))?;
    if let (Value::Object(fields), Value::Object(own)) = (&mut fields, own) {
        fields.extend(own);
    }
    Ok(fields)
}

fn text(info: &SystemInfo) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}: {value}");
    };
    line("Containers", &info.containers.to_string());
    line(" Running", &info.containers_running.to_string());
    line(" Paused", &info.containers_paused.to_string());
    line(" Stopped", &info.containers_stopped.to_string());
    line("Images", &info.images.to_string());
    line("Server Version", info.server_version);
    line("Storage Driver", info.driver);
    for (name, value) in &info.driver_status {
        line(&format!(" {name}"), value);
    }
    line("Logging Driver", info.logging_driver);
    line("Cgroup Driver", info.cgroup_driver);
    line("Cgroup Version", &info.cgroup_version);
    line("Default Runtime", info.default_runtime);
    line("Security Options", &info.security_options.join(" "));
    line("Kernel Version", &info.kernel_version);
    line("Operating System", &info.operating_system);
    line("OSType", info.os_type);
    line("Architecture", &info.architecture);
    line("CPUs", &info.processors.to_string());
    line("Total Memory", &memory(info.mem_total));
    line("Name", &info.name);
    line("Docker Root Dir", &info.docker_root_dir);
    line("Run Root", &info.run_root);
    text
}

/// A size in GiB with two decimals.
fn memory(bytes: u64) -> String {
    let hundredths = bytes / ((1 << 30) / 100);
    format!("{}.{:02}GiB", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_in_gibibytes() {
        assert_eq!(memory(8 << 30), "8.00GiB");
        assert_eq!(memory(3 << 29), "1.50GiB");
    }
}
