//! The command line itself: help, errors, exit codes, completions and manual pages.

use std::process::Stdio;

use davit_test::{Outcome, need_tool};

use crate::davit;

#[test]
fn a_bad_flag_exits_as_dockers_does() {
    let davit = davit();
    let cases: [(&[&str], i32); 13] = [
        (&["version", "--no-such-flag"], 125),
        (&["completion", "--no-such-flag"], 125),
        (&["copy", "--no-such-flag"], 125),
        (&["run", "--memory"], 125),
        (&["ps", "--last", "x"], 125),
        (&["ps", "--no-trunc=maybe"], 125),
        (&["ps", "word"], 1),
        (&["run"], 1),
        (&["copy", "a"], 1),
        (&["tag", "a"], 1),
        (&["tag", "a", "b", "c"], 1),
        (&["nosuch"], 1),
        (&["image", "nosuch"], 1),
    ];
    for (line, code) in cases {
        let outcome = davit.run(line);
        assert_eq!(outcome.code, code, "{line:?}: {}", outcome.stderr);
        assert!(outcome.stderr.starts_with("error:"), "{}", outcome.stderr);
        assert_eq!(outcome.stdout, "");
    }
}

#[test]
fn a_slip_gets_a_suggestion() {
    let outcome = davit().run(["versoin"]);
    assert!(outcome.stderr.contains("'version'"), "{}", outcome.stderr);
    assert_eq!(outcome.code, 1);
}

#[test]
fn only_near_words_are_suggested() {
    let davit = davit();
    for (line, near) in [
        ("ps --foo", None),
        ("network foo", None),
        ("container bogus", None),
        ("container strat x", Some("'start'")),
        ("ps --rot x", Some("'--root'")),
        ("run --privilegd x", Some("'--privileged'")),
    ] {
        let outcome = davit.run(line.split(' '));
        let code = if line.contains(" --") { 125 } else { 1 };
        assert_eq!(outcome.code, code, "{line}");
        match near {
            Some(near) => assert!(outcome.stderr.contains(near), "{line}: {}", outcome.stderr),
            None => assert!(!outcome.stderr.contains("similar"), "{line}: {}", outcome.stderr),
        }
    }
}

#[test]
fn a_noun_alone_shows_its_help() {
    let davit = davit();
    for (noun, usage) in [
        ("-D", "Usage: davit [OPTIONS] <COMMAND>"),
        ("container", "Usage: davit container [OPTIONS] <COMMAND>"),
        ("builder", "Usage: davit builder [OPTIONS] <COMMAND>"),
    ] {
        // Docker prints it to standard error, where nobody asked for it.
        let outcome = davit.run([noun]);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (0, ""), "{noun}");
        assert!(outcome.stderr.contains(usage), "{noun}: {}", outcome.stderr);
    }
    assert!(davit.ok(["help", "run"]).contains("Usage: davit run "));
    assert_eq!(davit.ok(["-v"]), davit.ok(["--version"]));
}

#[test]
fn colours_are_for_terminals() {
    let davit = davit();
    let mut command = davit.command(["versoin"]);
    let plain = Outcome::from(command.output().unwrap());
    assert!(!plain.stderr.contains('\x1b'));
    let forced = Outcome::from(command.env("CLICOLOR_FORCE", "1").output().unwrap());
    assert!(forced.stderr.contains('\x1b'));
    let refused = Outcome::from(command.env("NO_COLOR", "1").output().unwrap());
    assert!(!refused.stderr.contains('\x1b'));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let davit = davit();
    let mut child = davit
        .command(["completion", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(Outcome::from(child.wait_with_output().unwrap()).stderr, "");
}

#[test]
fn the_version_answers_dockers_templates() {
    let davit = davit();
    assert_eq!(davit.ok(["version", "--format", "{{.Server.APIVersion}}"]), "1.51");
    assert_eq!(davit.ok(["version", "--format", "{{.Client.Version}}"]), env!("CARGO_PKG_VERSION"));
    assert!(davit.ok(["version", "--format", "json"]).starts_with(r#"{"Client":{"#));
}

#[test]
fn completions_are_scripts_that_their_shell_accepts() {
    let davit = davit();
    let Some(bash) = need_tool("bash") else { return };
    let script = davit.dir().join("davit.bash");
    fs_err::write(&script, davit.ok(["completion", "bash"])).unwrap();
    let status = std::process::Command::new(bash).arg("-n").arg(&script).status().unwrap();
    assert!(status.success());

    let Some(fish) = need_tool("fish") else { return };
    let script = davit.dir().join("davit.fish");
    fs_err::write(&script, davit.ok(["completion", "fish"])).unwrap();
    let offer = |line: &str| {
        let source = format!("source {}; complete -C '{line}'", script.display());
        let mut command = std::process::Command::new(&fish);
        command.args(["--no-config", "-c", &source]).current_dir(davit.dir());
        command.env("HOME", davit.dir());
        Outcome::from(command.output().unwrap()).stdout
    };
    assert_eq!(offer("davit completion "), "bash\nelvish\nfish\npowershell\nzsh\n");
    assert!(
        offer("davit man ").contains("davit.fish"),
        "files are offered where they may be meant"
    );
}

#[test]
fn manual_pages_are_written_for_every_verb() {
    let davit = davit();
    let folder = davit.dir().join("man");
    davit.ok(["man", folder.to_str().unwrap()]);
    let page = fs_err::read_to_string(folder.join("davit-version.1")).unwrap();
    assert!(page.contains("davit\\-version"), "{page}");
    // Title, section, date, source and manual.
    let title = concat!(
        ".TH davit-version 1 \" \" \"davit ",
        env!("CARGO_PKG_VERSION"),
        "\" \"davit manual\"\n"
    );
    assert!(page.contains(title), "{page}");
    let page = fs_err::read_to_string(folder.join("davit-container-run.1")).unwrap();
    let synopsis = ".SH SYNOPSIS\ndavit run [OPTIONS] IMAGE [COMMAND] [ARG...]\n";
    assert!(page.contains(synopsis), "{page}");
    let (own, global) = page.split_once(".SH \"GLOBAL OPTIONS\"").unwrap();
    assert!(own.contains("\\-\\-rm") && !own.contains("run\\-root"), "{own}");
    assert!(global.contains("run\\-root"), "{global}");
}

#[test]
fn malformed_settings_are_named() {
    let davit = davit();
    let folder = davit.dir().join("config/davit");
    fs_err::create_dir_all(&folder).unwrap();
    fs_err::write(folder.join("config.toml"), "[store]\nkeep_blob = 1\n").unwrap();
    let mut command = davit.command(["config"]);
    command.env("XDG_CONFIG_HOME", davit.dir().join("config"));
    let outcome = Outcome::from(command.output().unwrap());
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("config.toml") && outcome.stderr.contains("keep_blob"));
}

/// Every verb that needs a root of davit's, with the least that it asks for.
const ROOTS_VERBS: [&str; 52] = [
    "attach a",
    "boot",
    "build .",
    "builder prune -f",
    "commit a",
    "container inspect a",
    "container ls",
    "container prune -f",
    "copy store:a dir:/nonexistent/x",
    "cp a:/x .",
    "create a",
    "diff a",
    "exec a b",
    "export a",
    "history a",
    "image inspect a",
    "image ls",
    "image prune -f",
    "images",
    "import /dev/null",
    "info",
    "inspect a",
    "kill a",
    "load -i /dev/null",
    "logs a",
    "network inspect a",
    "network ls",
    "pause a",
    "port a",
    "ps",
    "pull localhost:1/a",
    "push localhost:1/a",
    "rename a b",
    "restart a",
    "rm a",
    "rmi a",
    "run a",
    "save a",
    "start a",
    "stop a",
    "system check",
    "system df",
    "system info",
    "system prune -f",
    "system reset -f",
    "tag a b",
    "top a",
    "unpause a",
    "volume create",
    "volume ls",
    "volume prune -f",
    "wait a",
];

#[test]
fn who_is_not_root_gets_one_clear_line() {
    let davit = davit();
    let Some(setpriv) = need_tool("setpriv") else { return };
    if !davit_test::need_root() {
        return;
    }
    // The build folder may not be reachable for others.
    let binary = davit.dir().join("davit");
    fs_err::copy(env!("CARGO_BIN_EXE_davit"), &binary).unwrap();
    for verb in ROOTS_VERBS {
        let mut command = std::process::Command::new(&setpriv);
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary);
        command.args(verb.split(' ')).current_dir("/").stdin(Stdio::null());
        command.env("DAVIT_ROOT", davit.root()).env("DAVIT_RUN_ROOT", davit.run_root());
        let outcome = Outcome::from(command.env("HOME", "/nonexistent").output().unwrap());
        let told = "error: davit needs root: it cannot run rootless yet\n\nhint: sudo davit …\n";
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", told), "{verb}");
        // As of Docker's verbs without a daemon.
        let code = if verb.starts_with("run ") { 125 } else { 1 };
        assert_eq!(outcome.code, code, "{verb}");
    }
    assert!(!davit.root().exists());
}
