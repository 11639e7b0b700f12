//! Accounts in addresses of web servers: git asks for them when it needs one.
//!
//! In an address every user of the machine would read them in the arguments of git, and git would
//! write them down: those of submodules are derived from the address of their parent.

/// Variables of git's environment that hold the account.
const NAME: &str = "DAVIT_GIT_NAME";
const PASSWORD: &str = "DAVIT_GIT_PASSWORD";
/// Answers git, which quotes nothing of the variables.
const HELPER: &str = "!f() { printf 'username=%s\\n' \"$DAVIT_GIT_NAME\"; \
                      test -z \"${DAVIT_GIT_PASSWORD+x}\" || \
                      printf 'password=%s\\n' \"$DAVIT_GIT_PASSWORD\"; }; f";

/// Names and values.
type Pairs = Vec<(String, String)>;

/// The address that git is given.
pub(super) fn without_account(remote: &str) -> String {
    // `git://` knows no accounts: git takes one for a part of the host's name.
    let shows = is_http(remote) || remote.starts_with("git://");
    if shows { davit_build::public_address(remote) } else { remote.to_owned() }
}

/// Settings and variables by which git finds the account of an address, for its own host alone.
pub(super) fn settings(remote: &str) -> (Pairs, Pairs) {
    let account = Some(remote).filter(|it| is_http(it)).and_then(davit_build::account);
    let Some((server, name, password)) = account else { return (Vec::new(), Vec::new()) };
    let mut variables = vec![(NAME.to_owned(), name)];
    variables.extend(password.map(|password| (PASSWORD.to_owned(), password)));
    (vec![(format!("credential.{server}.helper"), HELPER.to_owned())], variables)
}

fn is_http(remote: &str) -> bool {
    remote.starts_with("http://") || remote.starts_with("https://")
}
