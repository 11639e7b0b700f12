//! Debian's PostgreSQL on a unix socket, with its own data.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::{TempDir, find_tool, skip};

/// The user that owns the data where the test is root: PostgreSQL refuses to be that.
const USER: &str = "postgres";

/// A running server with an empty database; dropping it ends it and removes its data.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    server: Child,
    dir: TempDir,
}

impl Postgres {
    /// Starts a server; records a skip where it is not installed.
    ///
    /// # Panics
    /// If it does not answer within 60 seconds.
    #[must_use]
    pub fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            skip("needs PostgreSQL in /usr/lib/postgresql");
            return None;
        };
        if rustix::process::geteuid().is_root() && find_tool("runuser").is_none() {
            skip("needs the program `runuser`");
            return None;
        }
        let dir = TempDir::new();
        if rustix::process::geteuid().is_root() {
            run(Command::new("chown").arg(USER).arg(dir.path()));
        }
        let data = dir.join("data");
        let words = ["--auth=trust", "--username=davit", "--encoding=UTF8", "--no-sync", "-D"];
        run(as_user(&programs.join("initdb")).args(words).arg(&data));
        let server = serve(&programs, dir.path());
        let postgres = Self { programs, server, dir };
        postgres.wait();
        Some(postgres)
    }

    /// URL of the database.
    #[must_use]
    pub fn url(&self) -> String {
        let socket = self.dir.path().display().to_string().replace('/', "%2F");
        format!("postgres://davit@{socket}/postgres")
    }

    /// Makes another empty database; its URL.
    ///
    /// # Panics
    /// If there is one of this name.
    #[must_use]
    pub fn database(&self, name: &str) -> String {
        database_beside(&self.url(), name)
    }

    /// Ends the server at once, as a crash does, and starts it again.
    ///
    /// # Panics
    /// If it does not come back.
    pub fn restart(&mut self) {
        self.stop();
        self.server = serve(&self.programs, self.dir.path());
        self.wait();
    }

    fn wait(&self) {
        crate::until("PostgreSQL answers", || {
            let mut command = Command::new(self.programs.join("pg_isready"));
            let status = command.arg("-q").arg("-h").arg(self.dir.path()).status();
            status.expect("pg_isready starts").success()
        });
    }

    /// Immediate shutdown, by the program that knows the server's own process id.
    fn stop(&mut self) {
        let mut command = as_user(&self.programs.join("pg_ctl"));
        command.args(["stop", "-s", "-m", "immediate", "-D"]).arg(self.dir.join("data"));
        run(&mut command);
        self.server.wait().expect("the server is ours");
    }
}

/// Makes another empty database on the server that has this one, which another process may have started;
/// its URL.
///
/// # Panics
/// If there is one of this name, or the server does not answer.
#[must_use]
pub fn database_beside(url: &str, name: &str) -> String {
    let programs = programs().expect("who has a server has its programs");
    let mut command = Command::new(programs.join("createdb"));
    run(command.arg(format!("--maintenance-db={url}")).arg(name));
    let (server, _) = url.rsplit_once('/').expect("a URL has a path");
    format!("{server}/{name}")
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

fn programs() -> Option<PathBuf> {
    let versions = fs_err::read_dir("/usr/lib/postgresql").ok()?;
    let folders = versions.filter_map(Result::ok).map(|version| version.path().join("bin"));
    folders.filter(|folder| folder.join("initdb").exists()).max()
}

fn serve(programs: &Path, dir: &Path) -> Child {
    let mut command = as_user(&programs.join("postgres"));
    command.arg("-D").arg(dir.join("data")).arg("-k").arg(dir);
    // What a crash of the machine would lose is no matter here.
    for setting in ["listen_addresses=", "fsync=off", "shared_buffers=16MB", "max_connections=60"] {
        command.args(["-c", setting]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("postgres starts")
}

fn as_user(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", USER, "--"]).arg(program).current_dir("/");
    command
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {words}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_after_a_crash() {
        let Some(mut postgres) = Postgres::start() else { return };
        postgres.restart();
    }
}
