//! `davit registry serve`

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use davit_engine::process::Interrupts;
use davit_registry::{
    config::{Limits, Places, SHORTEST_LEASE},
    ratelimit::{PullLimit, PullLimitError, PullLimits},
    server::{
        self, AcmeName, AcmeSettings, ExternalAccount, ExternalKeyError, ForwardedHeader,
        LETS_ENCRYPT, Network, ServeError, ServeSettings, Tls, TlsFiles, TrustedProxies,
    },
};

use tracing::Level;

use super::worker::{BuildOptions, Workers};
use crate::{
    error::{CliError, io_error},
    printer,
};

// Arguments of `davit registry serve`.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// Address and port to listen on
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:5000")]
    listen: SocketAddr,
    /// Certificate chain in PEM; read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Get a certificate for this name or address by ACME, which agrees to the authority's terms; again for more
    #[arg(long, value_name = "NAME", conflicts_with = "tls_cert")]
    acme_domain: Vec<AcmeName>,
    /// The authority's directory
    #[arg(long, value_name = "URL", default_value = LETS_ENCRYPT, requires = "acme_domain")]
    acme_directory: String,
    /// Certificates by which the authority is known, in PEM, instead of the machine's
    #[arg(long, value_name = "FILE", requires = "acme_domain")]
    acme_ca: Option<PathBuf>,
    /// Mail address that the authority may write to
    #[arg(long, value_name = "ADDRESS", requires = "acme_domain")]
    acme_contact: Option<String>,
    /// Name of the key that binds the authority's account to one that you have there
    #[arg(long, value_name = "ID", requires_all = ["acme_domain", "acme_account_key"])]
    acme_account_id: Option<String>,
    /// File with that key, in base64url, as the authority gave it
    #[arg(long, value_name = "FILE", requires = "acme_account_id")]
    acme_account_key: Option<PathBuf>,
    /// Take plain HTTP from other machines, behind a proxy that speaks TLS
    #[arg(long, conflicts_with_all = ["tls_cert", "acme_domain"])]
    plain_http: bool,
    /// Proxies that are believed for whom they ask: an address or ADDRESS/BITS; again for more
    #[arg(long, value_name = "NETWORK")]
    trusted_proxy: Vec<Network>,
    /// The header in which they say it
    #[arg(
        long,
        value_enum,
        value_name = "NAME",
        default_value = "x-forwarded-for",
        requires = "trusted_proxy"
    )]
    proxy_header: ProxyHeader,
    /// Whether callers are asked who they are; off only on loopback
    #[arg(long, value_enum, default_value = "on")]
    auth: Switch,
    /// URL by which clients reach the server, where they use another name
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// Write a line about each request, and what else the server does
    #[arg(long, value_enum, value_name = "FORMAT")]
    log: Option<LogFormat>,
    /// Collector of OpenTelemetry traces, by OTLP over HTTP: http://HOST:4318
    #[arg(long, value_name = "URL")]
    otlp: Option<String>,
    /// Hours for which a pushed blob waits for its manifest, from 1
    #[arg(long, value_name = "HOURS", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=8760))]
    lease_hours: u32,
    /// Pulls of each account: a number and a time in s, m or h, or off
    #[arg(long, value_name = "N/TIME")]
    pull_limit: Option<Limited>,
    /// Pulls of each address that shows no account, likewise
    #[arg(long, value_name = "N/TIME")]
    anonymous_pull_limit: Option<Limited>,
    /// Take manifests that name blobs which the repository lacks
    #[arg(long)]
    sparse: bool,
    /// Build images from git repositories, so many at a time
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    workers: u32,
    #[command(flatten)]
    builds: BuildOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum ProxyHeader {
    XForwardedFor,
    Forwarded,
}

/// A limit, or `off`.
#[derive(Clone, Copy, Debug)]
struct Limited(Option<PullLimit>);

impl FromStr for Limited {
    type Err = PullLimitError;

    fn from_str(text: &str) -> Result<Self, PullLimitError> {
        if text == "off" { Ok(Self(None)) } else { text.parse().map(|limit| Self(Some(limit))) }
    }
}

/// The limits that were given, and the usual ones for the rest.
fn pull_limits(args: &ServeArgs) -> PullLimits {
    let usual = PullLimits::usual(args.listen.ip().is_loopback());
    let given = |given: Option<Limited>, usual| given.map_or(usual, |Limited(limit)| limit);
    PullLimits {
        account: given(args.pull_limit, usual.account),
        address: given(args.anonymous_pull_limit, usual.address),
    }
}

/// Where the certificate comes from, if there is to be one.
fn tls(args: &ServeArgs) -> Result<Option<Tls>, CliError> {
    if !args.acme_domain.is_empty() {
        return Ok(Some(Tls::Acme(AcmeSettings {
            directory: args.acme_directory.clone(),
            contact: args.acme_contact.clone(),
            ca: args.acme_ca.clone(),
            external: external_account(args)?,
            ..AcmeSettings::new(args.acme_domain.clone())
        })));
    }
    let files = args.tls_cert.clone().zip(args.tls_key.clone());
    Ok(files.map(|(certificate, key)| Tls::Files(TlsFiles { certificate, key })))
}

/// The operator's account at the authority, if one was named.
fn external_account(args: &ServeArgs) -> Result<Option<ExternalAccount>, CliError> {
    let Some((id, file)) = args.acme_account_id.clone().zip(args.acme_account_key.as_ref()) else {
        return Ok(None);
    };
    let text = fs_err::read_to_string(file).map_err(io_error)?;
    let key = text.parse().map_err(|error: ExternalKeyError| CliError::of(error))?;
    Ok(Some(ExternalAccount { key_id: id, key }))
}

/// How lines of the log are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl ServeArgs {
    /// Starts to write the log to standard error: warnings, and with `--log` all that operators want.
    pub(crate) fn start_log(&self, is_debugging: bool) {
        let level = match self.log {
            _ if is_debugging => Level::DEBUG,
            Some(_) => Level::INFO,
            None => Level::WARN,
        };
        let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(level);
        // Somebody who listens already hears it all.
        let _heard = match self.log {
            Some(LogFormat::Json) => {
                log.json().flatten_event(true).with_span_list(false).try_init()
            }
            _ => log.with_ansi(false).try_init(),
        };
    }
}

/// Runs `davit registry serve`: until a signal asks it to stop.
///
/// # Errors
/// See [`ServeError`].
pub(crate) fn run(args: ServeArgs, places: Places) -> Result<u8, CliError> {
    let interrupts = Interrupts::block().map_err(io_error)?;
    let pulls = pull_limits(&args);
    let tls = tls(&args)?;
    let proxies = TrustedProxies {
        networks: args.trusted_proxy.into(),
        header: match args.proxy_header {
            ProxyHeader::XForwardedFor => ForwardedHeader::XForwardedFor,
            ProxyHeader::Forwarded => ForwardedHeader::Forwarded,
        },
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let limits = Limits {
        lease: SHORTEST_LEASE * args.lease_hours,
        sparse: args.sparse,
        pulls,
        ..Limits::default()
    };
    let workers = Workers { jobs: args.workers, options: args.builds, places: places.clone() };
    let known_as = args.public_url.clone();
    let settings = ServeSettings {
        places,
        listen: args.listen,
        tls,
        plain_http: args.plain_http,
        auth: args.auth == Switch::On,
        proxies,
        public_url: args.public_url,
        otlp: args.otlp,
        limits,
    };
    let ready = |address: SocketAddr| {
        printer::note(&format!("serving on {scheme}://{address}"));
        if let Err(error) = davit_engine::process::forget_at_rest() {
            tracing::debug!(%error, "what nothing needs stays in memory");
        }
        if workers.jobs > 0 {
            workers.keep(known_as.unwrap_or_else(|| own_url(scheme, address)));
        }
    };
    let wait = move || {
        while let Err(error) = interrupts.wait() {
            tracing::debug!(%error, "the wait for a signal was disturbed");
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    server::serve(settings, ready, wait).map_err(explain)?;
    Ok(0)
}

/// How this machine reaches the server.
fn own_url(scheme: &str, mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    format!("{scheme}://{address}")
}

fn explain(error: ServeError) -> CliError {
    let hint = match &error {
        ServeError::PlainHttp(_) => Some(
            "--tls-cert FILE --tls-key FILE, --acme-domain NAME, or --plain-http behind a proxy that speaks TLS",
        ),
        ServeError::NoAuth(_) => Some("--listen 127.0.0.1:5000, or --auth on"),
        _ => None,
    };
    let error = CliError::of(error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}
