//! `davit login` and `davit logout`

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use davit_engine::{Accounts, DEFAULT_REGISTRY, Saved, Secret};

use crate::{cli::Context, error::CliError, error::io_error, printer};

/// Longest password that is read.
const PASSWORD_BYTES: u64 = 64 << 10;

// Arguments of `davit login`.
#[derive(Debug, clap::Args)]
pub(crate) struct LoginArgs {
    /// Registry to log in to [default: Docker Hub]
    server: Option<String>,
    /// Name of the account
    #[arg(short, long)]
    username: Option<String>,
    /// Password or access token; others may see it, --password-stdin is safer
    #[arg(short, long, conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
}

// Arguments of `davit logout`.
#[derive(Debug, clap::Args)]
pub(crate) struct LogoutArgs {
    /// Registry to log out of [default: Docker Hub]
    server: Option<String>,
}

/// Runs `davit login`.
///
/// # Errors
/// The registry refuses the account, or the credential cannot be kept.
pub(crate) fn run(args: LoginArgs, context: &Context) -> Result<u8, CliError> {
    let registry = registry(args.server.as_deref());
    let (username, password) = account(args)?;
    let config = context.config()?;
    let saved = Accounts::new(&config).login(&registry, &username, Secret::new(password))?;
    if let Saved::File(path) = saved {
        printer::note(&format!(
            "warning: the password is kept readable (though not for others) in {}",
            path.display()
        ));
        printer::note("hint: set `credsStore` there to keep it in a credential helper");
    }
    printer::line("Login Succeeded")?;
    Ok(0)
}

/// Runs `davit logout`.
///
/// # Errors
/// The credential cannot be removed.
pub(crate) fn logout(args: &LogoutArgs, context: &Context) -> Result<u8, CliError> {
    let registry = registry(args.server.as_deref());
    let config = context.config()?;
    let text = if Accounts::new(&config).logout(&registry)? {
        format!("Removing login credentials for {registry}")
    } else {
        format!("Not logged in to {registry}")
    };
    printer::line(&text)?;
    Ok(0)
}

/// The registry's host: without the scheme and path that people copy along.
fn registry(server: Option<&str>) -> String {
    let Some(server) = server.filter(|server| !server.is_empty()) else {
        return DEFAULT_REGISTRY.to_owned();
    };
    let server = server.split_once("://").map_or(server, |(_, rest)| rest);
    match server.split('/').next().unwrap_or(server) {
        "index.docker.io" | "registry-1.docker.io" | "docker.io" => DEFAULT_REGISTRY.to_owned(),
        host => host.to_owned(),
    }
}

fn account(args: LoginArgs) -> Result<(String, String), CliError> {
    if args.password_stdin {
        let username = args
            .username
            .ok_or_else(|| CliError::usage("--password-stdin needs --username as well"))?;
        let mut password = String::new();
        io::stdin().take(PASSWORD_BYTES).read_to_string(&mut password).map_err(io_error)?;
        return Ok((username, password.trim_end_matches(['\r', '\n']).to_owned()));
    }
    if args.password.is_some() {
        printer::note("warning: others can see a password on the command line");
        printer::note("hint: davit login --password-stdin");
    }
    let username = match args.username {
        Some(username) => username,
        None => ask("Username: ")?,
    };
    let password = match args.password {
        Some(password) => password,
        None => ask_secretly("Password: ")?,
    };
    if username.is_empty() || password.is_empty() {
        return Err(CliError::user("username and password must not be empty"));
    }
    Ok((username, password))
}

fn ask(prompt: &str) -> Result<String, CliError> {
    if !io::stdin().is_terminal() {
        return Err(CliError::user("cannot ask for the account: standard input is no terminal")
            .hint("davit login --username NAME --password-stdin < FILE"));
    }
    let mut stderr = io::stderr().lock();
    stderr.write_all(prompt.as_bytes()).and_then(|()| stderr.flush()).map_err(io_error)?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(io_error)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Asks without showing what is typed.
fn ask_secretly(prompt: &str) -> Result<String, CliError> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = io::stdin();
    let Ok(shown) = tcgetattr(&stdin) else { return ask(prompt) };
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    let set = |modes| {
        tcsetattr(&stdin, OptionalActions::Flush, modes).map_err(|error| io_error(error.into()))
    };
    set(&hidden)?;
    let answer = ask(prompt);
    set(&shown)?;
    printer::note("");
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_hosts() {
        for (server, expected) in [
            (None, "docker.io"),
            (Some(""), "docker.io"),
            (Some("https://index.docker.io/v1/"), "docker.io"),
            (Some("registry-1.docker.io"), "docker.io"),
            (Some("localhost:5000"), "localhost:5000"),
            (Some("https://ghcr.io/user/x"), "ghcr.io"),
        ] {
            assert_eq!(registry(server), expected, "{server:?}");
        }
    }
}
