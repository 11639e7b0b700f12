//! `davit logs`

use std::io::{self, Write as _};

use davit_engine::{
    container::{LogFollow, LogLine, LogRequest, Stream},
    image::Timestamp,
};

use super::values;
use crate::{
    cli::Context,
    error::{CliError, io_error},
};

// Arguments of `davit logs`.
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// Show extra details provided to logs
    #[arg(long)]
    details: bool,
    /// Follow log output
    #[arg(short, long)]
    follow: bool,
    /// Show logs since timestamp (2013-01-02T13:23:37Z) or relative (42m for 42 minutes)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Number of lines to show from the end of the logs
    #[arg(short = 'n', long, value_name = "N", default_value = "all")]
    tail: String,
    /// Show timestamps
    #[arg(short, long)]
    timestamps: bool,
    /// Show logs before a timestamp (2013-01-02T13:23:37Z) or relative (42m for 42 minutes)
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Container
    container: String,
}

/// Runs `davit logs`.
///
/// # Errors
/// No such container, or nothing is kept.
pub(crate) fn run(args: &LogsArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    let tail = match args.tail.as_str() {
        "all" => None,
        // Docker takes what is no number for all.
        text => text.parse().ok(),
    };
    let request = LogRequest {
        tail,
        since: args.since.as_deref().map(point_in_time).transpose()?,
        // As if it were not given.
        until: args.until.as_deref().filter(|text| *text != "0").map(point_in_time).transpose()?,
        follow: if args.follow { LogFollow::Yes } else { LogFollow::No },
    };
    let mut logs = engine.logs(&args.container, request)?;
    let (mut stdout, mut stderr) = (io::stdout().lock(), io::stderr().lock());
    while let Some(line) = logs.next_line()? {
        let text = render(args, &line);
        match line.stream {
            Stream::Stdout => {
                stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(io_error)?
            }
            Stream::Stderr => stderr.write_all(text.as_bytes()).map_err(io_error)?,
        }
    }
    Ok(0)
}

fn render(args: &LogsArgs, line: &LogLine) -> String {
    let mut text = String::new();
    if args.timestamps {
        text.push_str(&fixed(line.time));
        text.push(' ');
    }
    if args.details {
        let attributes: Vec<String> =
            line.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
        text.push_str(&attributes.join(","));
        text.push(' ');
    }
    text.push_str(&line.text);
    text
}

/// Docker's timestamps have nine digits after the point, so that columns line up.
fn fixed(time: Timestamp) -> String {
    let text = time.to_string();
    let (whole, fraction) =
        text.trim_end_matches('Z').split_once('.').unwrap_or((text.trim_end_matches('Z'), ""));
    format!("{whole}.{fraction:0<9}Z")
}

/// A time as RFC 3339, a date, seconds since 1970, or a duration before now.
pub(crate) fn point_in_time(text: &str) -> Result<Timestamp, CliError> {
    let invalid = || CliError::user(format!("invalid value for \"since\" or \"until\": {text:?}"));
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    for completed in [format!("{text}Z"), format!("{text}:00Z"), format!("{text}T00:00:00Z")] {
        if let Ok(time) = completed.parse() {
            return Ok(time);
        }
    }
    if let Some((seconds, nanoseconds)) = unix_time(text) {
        return Timestamp::from_unix(seconds, nanoseconds).map_err(|_| invalid());
    }
    let ago = values::duration_nanoseconds(text).map_err(|_| invalid())?;
    let now = Timestamp::now();
    let total = i128::from(now.unix_seconds()) * 1_000_000_000 + i128::from(now.nanoseconds())
        - i128::from(ago);
    let seconds = i64::try_from(total.div_euclid(1_000_000_000)).map_err(|_| invalid())?;
    let rest = u32::try_from(total.rem_euclid(1_000_000_000)).map_err(|_| invalid())?;
    Timestamp::from_unix(seconds, rest).map_err(|_| invalid())
}

fn unix_time(text: &str) -> Option<(i64, u32)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9
        || seconds.is_empty()
        || !seconds.bytes().all(|byte| byte.is_ascii_digit())
    {
        return None;
    }
    Some((seconds.parse().ok()?, format!("{fraction:0<9}").parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_every_form() {
        let cases = [
            ("2026-11-21T15:22:00Z", 1_795_274_520),
            ("2026-11-21T15:22:00", 1_795_274_520),
            ("2026-11-21T15:22", 1_795_274_520),
            ("2026-11-21", 1_795_219_200),
            ("1795274520", 1_795_274_520),
            ("1795274520.5", 1_795_274_520),
        ];
        for (text, seconds) in cases {
            assert_eq!(point_in_time(text).unwrap().unix_seconds(), seconds, "{text}");
        }
        let ago = point_in_time("10m").unwrap();
        assert!(Timestamp::now().unix_seconds() - ago.unix_seconds() >= 600);
        for bad in ["", "yesterday", "12x"] {
            assert!(point_in_time(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn timestamps_have_nine_digits() {
        assert_eq!(
            fixed("2026-11-21T15:22:00.5Z".parse().unwrap()),
            "2026-11-21T15:22:00.500000000Z"
        );
        assert_eq!(
            fixed("2026-11-21T15:22:00Z".parse().unwrap()),
            "2026-11-21T15:22:00.000000000Z"
        );
    }
}
