//! Login, logout, helpers, search.

use std::{
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
};

use davit_engine::image::Platform;
use davit_test::{Access, Content, Davit, HttpServer, Outcome, Registry, Reply, need_tool};

use super::{davit, layer};
use crate::terminal::Terminal;

fn with_stdin(mut command: Command, text: &str) -> Outcome {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    Outcome::from(child.wait_with_output().unwrap())
}

fn login(davit: &Davit, host: &str, password: &str) -> Outcome {
    with_stdin(davit.command(["login", "-u", "alice", "--password-stdin", host]), password)
}

/// Lets a davit trust the registry's authority.
fn trust(davit: &Davit, registry: &Registry) {
    let folder = davit.dir().join(".docker/certs.d").join(registry.host());
    fs_err::create_dir_all(&folder).unwrap();
    fs_err::copy(registry.ca_file(), folder.join("ca.crt")).unwrap();
}

/// A registry behind Basic that holds `x:1`.
fn guarded() -> HttpServer {
    let mut content = Content::default();
    content.add_image("1", &Platform::host(), &[layer("a")]);
    HttpServer::start(move |request| {
        // alice:wonderland
        if request.header("authorization") == Some("Basic YWxpY2U6d29uZGVybGFuZA==") {
            return content.serve(request);
        }
        Reply::status(401).header("WWW-Authenticate", "Basic realm=\"x\"")
    })
}

#[test]
fn an_account_is_kept_until_logout() {
    let Some(registry) = Registry::start(Access::PasswordAndTls) else { return };
    let (davit, host) = (davit(), registry.host());
    trust(&davit, &registry);
    let [stranger, _] = registry.client_files();
    let authority = davit.dir().join(".docker/certs.d").join(&host).join("ca.crt");
    fs_err::copy(stranger, authority).unwrap();
    let untrusted = login(&davit, &host, "wonderland\n");
    assert_eq!(untrusted.code, 1);
    assert!(untrusted.stderr.contains(&format!("certs.d/{host}/ca.crt")), "{}", untrusted.stderr);

    trust(&davit, &registry);
    let wrong = login(&davit, &host, "x\n");
    assert_eq!(wrong.code, 1, "{}", wrong.stderr);
    let file = davit.dir().join(".docker/config.json");
    assert!(!file.exists(), "nothing is kept of a wrong password");

    let right = login(&davit, &host, "wonderland\n");
    assert_eq!((right.code, right.stdout.as_str()), (0, "Login Succeeded\n"), "{}", right.stderr);
    assert!(right.stderr.contains("kept readable"), "{}", right.stderr);
    assert_eq!(fs_err::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let denied = davit.run(["pull", &format!("{host}/x:1")]);
    assert!(denied.stderr.contains("does not exist"), "{}", denied.stderr);

    // Docker's CLI 28 says the same whether there is something to remove or not.
    for (server, shown) in [
        (&*host, &*host),
        (&host, &host),
        (&format!("https://{host}/v2/"), &host),
        ("", "https://index.docker.io/v1/"),
        ("docker.io", "docker.io"),
    ] {
        let told = davit.ok(["logout", server].into_iter().filter(|word| !word.is_empty()));
        assert_eq!(told, format!("Removing login credentials for {shown}"));
    }
    let denied = davit.run(["pull", &format!("{host}/x:1")]);
    assert!(denied.stderr.contains("refused access without login"), "{}", denied.stderr);
    assert!(denied.stderr.contains(&format!("davit login {host}")), "{}", denied.stderr);
}

#[test]
fn a_helper_keeps_what_the_file_does_not() {
    let server = guarded();
    let davit = davit();
    let bin = davit.dir().join("bin");
    fs_err::create_dir_all(&bin).unwrap();
    let helper = bin.join("docker-credential-davittest");
    let script = format!(
        "#!/bin/sh\ncd {}\ncase $1 in\nstore) cat > secret ;;\nget) test -f secret && cat secret || {{ echo 'credentials not found in native keychain'; exit 1; }} ;;\nerase) rm -f secret ;;\nesac\n",
        davit.dir().display()
    );
    fs_err::write(&helper, script).unwrap();
    fs_err::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    fs_err::create_dir_all(davit.dir().join(".docker")).unwrap();
    let file = davit.dir().join(".docker/config.json");
    fs_err::write(&file, r#"{"credsStore":"davittest"}"#).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let command = |args: &[&str]| {
        let mut command = davit.command(args);
        command.env("PATH", &path);
        command
    };
    let host = server.host();
    let image = format!("{host}/x:1");
    let before = Outcome::from(command(&["pull", &image]).output().unwrap());
    assert_eq!(before.code, 1, "{}", before.stderr);
    let outcome =
        with_stdin(command(&["login", "-u", "alice", "--password-stdin", &host]), "wonderland");
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
    assert!(!fs_err::read_to_string(&file).unwrap().contains("d29uZGVybGFuZA"));
    let after = Outcome::from(command(&["pull", &image]).output().unwrap());
    assert_eq!(after.code, 0, "{}", after.stderr);
    let logout = Outcome::from(command(&["logout", &host]).output().unwrap());
    assert_eq!(logout.stdout, format!("Removing login credentials for {host}\n"));
    assert!(!davit.dir().join("secret").exists());
    // Without the helper's program, the error names it.
    let absent = davit.run(["pull", &image]);
    assert!(
        absent.stderr.contains("docker-credential-davittest cannot be executed"),
        "{}",
        absent.stderr
    );
}

#[test]
fn a_known_account_is_asked_for_again_only_if_it_is_refused() {
    if need_tool("setsid").is_none() {
        return;
    }
    let (server, davit) = (guarded(), davit());
    let host = server.host();
    let terminal = || Terminal::of(&davit.command(["login", &host]));

    let mut stopped = terminal();
    stopped.expect("Username: ");
    stopped.keys("alice\r");
    stopped.expect("Password: ");
    assert!(!stopped.has_echo());
    stopped.keys("\x03");
    assert_eq!(stopped.end(), 130);

    assert_eq!(login(&davit, &host, "wonderland").code, 0);
    let known = davit.run(["login", &host]);
    assert_eq!((known.code, known.stdout.as_str()), (0, "Login Succeeded\n"), "{}", known.stderr);
    let told = "Authenticating with existing credentials... [Username: alice]\n";
    assert!(known.stderr.starts_with(told), "{}", known.stderr);

    let file = davit.dir().join(".docker/config.json");
    let text = fs_err::read_to_string(&file).unwrap();
    let changed = text.replace("YWxpY2U6d29uZGVybGFuZA==", "YWxpY2U6eA==");
    assert_ne!(text, changed);
    fs_err::write(&file, changed).unwrap();
    let mut again = terminal();
    again.expect("Username (alice): ");
    again.keys("\r");
    again.expect("Password: ");
    again.keys("wonderland\r");
    again.expect("Login Succeeded");
    assert_eq!(again.end(), 0);
    assert_eq!(fs_err::read_to_string(&file).unwrap(), text);
}

#[test]
fn podmans_file_and_dockers_first_one_are_read() {
    let server = guarded();
    let davit = davit();
    let host = server.host();
    let name = format!("{host}/x:1");
    let legacy = davit.dir().join(".dockercfg");
    let text = format!(r#"{{"https://{host}/v1/":{{"auth":"YWxpY2U6d29uZGVybGFuZA=="}}}}"#);
    fs_err::write(&legacy, text).unwrap();
    davit.ok(["pull", "-q", &name]);
    fs_err::remove_file(legacy).unwrap();
    let file = davit.dir().join("auth.json");
    let text = format!(r#"{{"auths":{{"{host}/x":{{"auth":"YWxpY2U6d29uZGVybGFuZA=="}}}}}}"#);
    fs_err::write(&file, text).unwrap();
    let mut command = davit.command(["pull", "-q", &name]);
    let outcome = Outcome::from(command.env("REGISTRY_AUTH_FILE", &file).output().unwrap());
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
}

#[test]
fn search_lists_what_a_registry_has() {
    let server = HttpServer::start(|_| Reply::ok(r#"{"repositories":["base/alpine","app"]}"#));
    let (davit, host) = (davit(), server.host());
    let table = davit.ok(["search", &format!("{host}/alp")]);
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].starts_with("NAME"), "{table}");
    assert!(lines[1].starts_with(&format!("{host}/base/alpine")), "{table}");
    assert_eq!(lines.len(), 2);
    let names = davit.ok(["search", "--format", "{{.Name}}", &format!("{host}/")]);
    assert_eq!(names, format!("{host}/base/alpine\n{host}/app"));
    let flags = ["search", "--format", "{{.Name}}:{{.IsOfficial}}:{{.IsAutomated}}"];
    let flags = davit.ok([&flags[..], &[&format!("{host}/app")]].concat());
    assert_eq!(flags, format!("{host}/app::"));
    let json = davit.ok(["search", "--format", "json", &format!("{host}/app")]);
    assert!(json.contains(r#""IsAutomated":"false","IsOfficial":"false""#), "{json}");
    assert_eq!(davit.run(["search", "--filter", "x", "y"]).code, 125);
}

#[test]
fn login_needs_a_name_and_no_store() {
    let davit = davit();
    for (arguments, words) in [
        (&["--password-stdin"][..], "--password-stdin needs --username"),
        (&["-p", "x", "--password-stdin"], "cannot be used together"),
        (&["-u", "alice", "-p", "x", "--password-stdin"], "cannot be used together"),
        (&["-u", "alice", "--password-stdin"], "Password Required"),
        (&["-u", "", "--password-stdin"], "Username Required"),
    ] {
        let outcome = davit.run([&["login", "localhost:1"], arguments].concat());
        assert_eq!(outcome.code, 1, "{}", outcome.stderr);
        assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
    }
    let outcome = davit.run(["login", "localhost:1"]);
    assert!(outcome.stderr.contains("standard input is no terminal"), "{}", outcome.stderr);
    assert!(!davit.root().exists());
}
