//! `davit login` and `davit logout`

use std::{
    io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _},
    sync::Arc,
};

use davit_engine::{Account, Accounts, DEFAULT_REGISTRY, Saved, Secret, process::Interrupts};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::{cli::Context, error::CliError, error::io_error, printer};

/// What `docker logout` calls Docker Hub where no server is given.
const HUB_KEY: &str = "https://index.docker.io/v1/";
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
    #[arg(short, long)]
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
    let config = context.config()?;
    let accounts = Accounts::new(&config);
    let is_given = args.username.is_some() || args.password_stdin;
    let known = if is_given { None } else { accounts.stored(&registry)? };
    if let Some(known) = known.as_ref().filter(|_| args.password.is_none())
        && is_still_good(&accounts, &registry, known)?
    {
        printer::line("Login Succeeded")?;
        return Ok(0);
    }
    let account = account(args, known.as_ref())?;
    let saved = accounts.login(&registry, &account)?;
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

/// Tries the account that is kept already; false if the registry does not take it any more.
fn is_still_good(
    accounts: &Accounts<'_>,
    registry: &str,
    known: &Account,
) -> Result<bool, CliError> {
    printer::note(&format!(
        "Authenticating with existing credentials... [Username: {}]",
        known.username
    ));
    match accounts.check(registry, known) {
        Ok(_) => {
            printer::note(&format!("hint: davit logout {registry}, to use another account"));
            Ok(true)
        }
        Err(error) if error.is_denied() => {
            printer::note("Stored credentials invalid or expired");
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Runs `davit logout`.
///
/// # Errors
/// The credential cannot be removed.
pub(crate) fn logout(args: &LogoutArgs, context: &Context) -> Result<u8, CliError> {
    let registry = registry(args.server.as_deref());
    let config = context.config()?;
    let shown = args.server.as_deref().map(host).filter(|host| !host.is_empty());
    printer::line(&format!("Removing login credentials for {}", shown.unwrap_or(HUB_KEY)))?;
    Accounts::new(&config).logout(&registry)?;
    Ok(0)
}

/// The registry's host: without the scheme and path that people copy along.
fn registry(server: Option<&str>) -> String {
    match server.map(host).unwrap_or_default() {
        "" | "index.docker.io" | "registry-1.docker.io" | "docker.io" => {
            DEFAULT_REGISTRY.to_owned()
        }
        host => host.to_owned(),
    }
}

fn host(server: &str) -> &str {
    let server = server.split_once("://").map_or(server, |(_, rest)| rest);
    server.split('/').next().unwrap_or(server)
}

/// The account to log in with: given, or asked for.
fn account(args: LoginArgs, known: Option<&Account>) -> Result<Account, CliError> {
    if args.password_stdin && args.password.is_some() {
        return Err(CliError::user("--password and --password-stdin cannot be used together"));
    }
    if args.password_stdin && args.username.is_none() {
        return Err(CliError::user("--password-stdin needs --username as well"));
    }
    if args.password.is_some() {
        printer::note("warning: others can see a password on the command line");
        printer::note("hint: davit login --password-stdin");
    }
    let username = match args.username {
        Some(username) => username,
        None => ask_username(known)?,
    };
    if username.is_empty() {
        return Err(CliError::user("Non-null Username Required"));
    }
    let password = match args.password {
        Some(password) => password,
        None if args.password_stdin => read_password()?,
        None => ask_secretly("Password: ")?,
    };
    if password.is_empty() {
        return Err(CliError::user("Password Required"));
    }
    Ok(Account { username, password: Secret::new(password) })
}

/// Reads standard input to its end.
pub(super) fn read_password() -> Result<String, CliError> {
    let mut password = String::new();
    io::stdin().take(PASSWORD_BYTES).read_to_string(&mut password).map_err(io_error)?;
    Ok(password.trim_end_matches(['\r', '\n']).to_owned())
}

/// Asks for the name; nothing means the one that is known.
fn ask_username(known: Option<&Account>) -> Result<String, CliError> {
    let Some(known) = known else { return ask("Username: ") };
    let answer = ask(&format!("Username ({}): ", known.username))?;
    Ok(if answer.is_empty() { known.username.clone() } else { answer })
}

fn ask(prompt: &str) -> Result<String, CliError> {
    if !io::stdin().is_terminal() {
        return Err(CliError::user("cannot ask for the account: standard input is no terminal")
            .hint("davit login --username NAME --password-stdin < FILE"));
    }
    let mut stderr = io::stderr();
    stderr.write_all(prompt.as_bytes()).and_then(|()| stderr.flush()).map_err(io_error)?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(io_error)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Asks without showing what is typed; whoever interrupts that gets the terminal back as it was.
fn ask_secretly(prompt: &str) -> Result<String, CliError> {
    let Ok(shown) = tcgetattr(io::stdin()) else { return ask(prompt) };
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    let interrupts = Arc::new(Interrupts::block().map_err(io_error)?);
    let (waiting, before) = (Arc::clone(&interrupts), shown.clone());
    std::thread::spawn(move || {
        let Ok(signal) = waiting.wait() else { return };
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
        printer::note("");
        #[allow(clippy::exit, reason = "the other thread waits for a line that will not come")]
        std::process::exit(128 + signal);
    });
    let set = |modes| {
        tcsetattr(io::stdin(), OptionalActions::Flush, modes)
            .map_err(|error| io_error(error.into()))
    };
    set(&hidden)?;
    let answer = ask(prompt);
    set(&shown)?;
    printer::note("");
    // Helpers that are executed from here on can be interrupted as ever.
    interrupts.unblock().map_err(io_error)?;
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
