//! Repositories over ssh, from OpenSSH's own server.

use std::{
    fs,
    net::TcpListener,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use davit_test::{Outcome, need_tool};

use super::{
    bench::{Bench, list},
    git_server::GitServer,
};

/// Makes a key pair; gives the private one.
fn key(folder: &Path, name: &str) -> Option<PathBuf> {
    let path = folder.join(name);
    let mut command = Command::new(need_tool("ssh-keygen")?);
    command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path);
    assert!(command.status().unwrap().success());
    Some(path)
}

/// A server on a port of its own, one process for each connection; ends with the test.
fn serve(folder: &Path, host_key: &Path) -> Option<u16> {
    let sshd = need_tool("sshd")?;
    let config = folder.join(format!("{}.config", host_key.file_name()?.to_str()?));
    let text = format!(
        "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\n\
         PasswordAuthentication no\nPermitRootLogin prohibit-password\n",
        host_key.display(),
        folder.join("user.pub").display(),
    );
    fs::write(&config, text).unwrap();
    // What sshd separates its privileges into.
    fs::create_dir_all("/run/sshd").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut command = Command::new(&sshd);
            command.args(["-i", "-e", "-f"]).arg(&config).stderr(Stdio::null());
            let input = OwnedFd::from(stream);
            command.stdout(input.try_clone().unwrap()).stdin(input);
            let mut child = command.spawn().unwrap();
            thread::spawn(move || child.wait());
        }
    });
    Some(port)
}

#[test]
fn repositories_over_ssh_need_an_agent() {
    // Its folder of repositories is all that is needed.
    let Some(git) = GitServer::start(|_| false) else { return };
    let Some(bench) = Bench::new(&[]) else { return };
    let folder = bench.davit.dir().to_path_buf();
    let (Some(user), Some(stranger)) = (key(&folder, "user"), key(&folder, "stranger")) else {
        return;
    };
    let (Some(host), Some(other)) = (key(&folder, "host"), key(&folder, "other")) else { return };
    let Some(port) = serve(&folder, &host) else { return };
    let repository = git.repository("r.git");
    repository.commit("f", "over ssh");
    let path = git.path("r.git").display().to_string();
    let write = |port: u16| {
        let add = format!("ADD ssh://root@127.0.0.1:{port}{path}#main /r/");
        bench.write("Dockerfile", &format!("FROM scratch\n{add}\n"));
    };
    write(port);
    let without = bench.run(&[]);
    assert!(without.code == 1 && without.stderr.contains("--ssh default"), "{}", without.stderr);
    let with = |key: &Path| format!("default={}", key.display());
    let refused = bench.run(&["--ssh", &with(&stranger)]);
    assert!(refused.code == 1 && refused.stderr.contains("git says"), "{}", refused.stderr);
    let files = bench.files(&["--ssh", &with(&user)]);
    assert_eq!(list(&files), ["r/ 755", "r/f 644 over ssh"]);
    // A context needs no word for the agent of the session.
    repository.commit("Dockerfile", "FROM scratch\nCOPY f /\n");
    let context = format!("ssh://root@127.0.0.1:{port}{path}#main");
    let mut build = bench.davit.command(["build", "-q", &context]);
    let lost = Outcome::from(build.env_remove("SSH_AUTH_SOCK").output().unwrap());
    assert!(lost.code == 1 && lost.stderr.contains("--ssh default"), "{}", lost.stderr);
    let found = Outcome::from(build.env("SSH_AUTH_SOCK", &user).output().unwrap());
    assert_eq!(found.code, 0, "{}", found.stderr);
    // The host is known now; the same one with another key is another one.
    let hosts = bench.davit.root().join("cache/known_hosts");
    let known = fs::read_to_string(&hosts).unwrap();
    assert!(known.contains(&format!("[127.0.0.1]:{port} ")), "{known}");
    let impostor = serve(&folder, &other).unwrap();
    fs::write(&hosts, known.replace(&port.to_string(), &impostor.to_string())).unwrap();
    write(impostor);
    let changed = bench.run(&["--ssh", &with(&user)]);
    assert!(changed.code == 1 && changed.stderr.contains("git says"), "{}", changed.stderr);
    let offline = {
        write(port);
        bench.run(&["--offline"])
    };
    assert_eq!(offline.code, 0, "{}", offline.stderr);
}
