//! Options of Docker's build commands that ask for nothing: buildx takes them and does nothing, or
//! davit has no other way.

// They are hidden: what does nothing needs no help.
#[derive(Debug, clap::Args)]
pub(super) struct Ignored {
    /// Steps leave no containers behind in any case
    #[arg(long, hide = true, overrides_with = "rm")]
    rm: bool,
    /// As --rm
    #[arg(long, hide = true, overrides_with = "force_rm")]
    force_rm: bool,
    /// Nothing is sent to a daemon
    #[arg(long, hide = true, overrides_with = "compress")]
    compress: bool,
    /// davit is the builder
    #[arg(long, hide = true)]
    builder: Vec<String>,
    /// Limits of the builder before BuildKit, which BuildKit ignores
    #[arg(long, short, hide = true)]
    memory: Vec<String>,
    #[arg(long, hide = true)]
    memory_swap: Vec<String>,
    #[arg(long, short, hide = true)]
    cpu_shares: Vec<String>,
    #[arg(long, hide = true)]
    cpu_period: Vec<String>,
    #[arg(long, hide = true)]
    cpu_quota: Vec<String>,
    #[arg(long, hide = true)]
    cpuset_cpus: Vec<String>,
    #[arg(long, hide = true)]
    cpuset_mems: Vec<String>,
    #[arg(long, hide = true)]
    isolation: Vec<String>,
    #[arg(long, hide = true)]
    security_opt: Vec<String>,
    /// davit's own stands before the verb
    #[arg(long, short = 'D', hide = true, overrides_with = "debug")]
    debug: bool,
    /// Attestations: davit makes none
    #[arg(long, hide = true, value_parser = disabled)]
    attest: Vec<bool>,
    #[arg(long, hide = true, value_parser = no_attestation)]
    sbom: Vec<bool>,
    #[arg(long, hide = true, value_parser = no_attestation)]
    provenance: Vec<bool>,
}

/// Reads `type=KIND,disabled=true`.
fn disabled(value: &str) -> Result<bool, String> {
    let value = value.split(',').find_map(|field| field.strip_prefix("disabled="));
    match value {
        Some("true" | "1") => Ok(false),
        _ => Err("attestations are not supported, only disabled=true is".to_owned()),
    }
}

pub(in crate::commands) fn no_attestation(value: &str) -> Result<bool, String> {
    match value {
        "false" | "0" => Ok(false),
        _ => Err("attestations are not supported, only `false` is".to_owned()),
    }
}
