//! Credential files and helpers.

use std::os::unix::fs::PermissionsExt as _;

use davit_distribution::{
    Credential, CredentialConfig, CredentialError, CredentialStore, Saved, Secret,
};
use davit_test::TempDir;

fn password(username: &str, password: &str) -> Credential {
    Credential::Password { username: username.into(), password: Secret::new(password) }
}

/// A store whose Docker file holds `docker` and whose Podman file holds `podman`.
fn store(dir: &TempDir, docker: &str, podman: &str) -> CredentialStore {
    fs_err::write(dir.join("config.json"), docker).unwrap();
    fs_err::write(dir.join("auth.json"), podman).unwrap();
    CredentialStore::new(CredentialConfig {
        docker_config: Some(dir.join("config.json")),
        auth_files: vec![dir.join("absent.json"), dir.join("auth.json")],
        legacy_file: Some(dir.join(".dockercfg")),
    })
}

#[test]
fn finds_what_the_tools_write() {
    // alice:one, bob:two
    let auth = |text: &str| format!(r#"{{"auths":{{{text}}}}}"#);
    let cases = [
        ("h", r#""h":{"auth":"YWxpY2U6b25l"}"#, Some(password("alice", "one"))),
        ("h", r#""https://h":{"auth":"YWxpY2U6b25l"}"#, Some(password("alice", "one"))),
        ("h", r#""https://h/v1/":{"auth":"YWxpY2U6b25l"}"#, Some(password("alice", "one"))),
        (
            "h:5000",
            r#""http://h:5000/":{"username":"bob","password":"two"}"#,
            Some(password("bob", "two")),
        ),
        (
            "docker.io",
            r#""https://index.docker.io/v1/":{"auth":"Ym9iOnR3bw=="}"#,
            Some(password("bob", "two")),
        ),
        ("docker.io", r#""docker.io":{"auth":"Ym9iOnR3bw=="}"#, Some(password("bob", "two"))),
        (
            "h",
            r#""h":{"auth":"YWxpY2U6","identitytoken":"t"}"#,
            Some(Credential::Identity(Secret::new("t"))),
        ),
        ("h", r#""h":{"registrytoken":"t"}"#, Some(Credential::Registry(Secret::new("t")))),
        ("h", r#""h":{}"#, None),
        ("h", r#""other":{"auth":"YWxpY2U6b25l"}"#, None),
        ("h", r#""h:5000":{"auth":"YWxpY2U6b25l"}"#, None),
        ("h", r#""h.evil":{"auth":"YWxpY2U6b25l"}"#, None),
    ];
    for (registry, entry, expected) in cases {
        let dir = TempDir::new();
        let store = store(&dir, &auth(entry), "");
        assert_eq!(store.find(registry, "a/b").unwrap(), expected, "{registry} {entry}");
    }
}

#[test]
fn podmans_files_count_where_dockers_has_nothing() {
    let dir = TempDir::new();
    let podman = r#"{"auths":{
        "h":{"auth":"YWxpY2U6b25l"},
        "h/a":{"auth":"Ym9iOnR3bw=="},
        "h/a/b":{"auth":"Y2Fyb2w6dGhyZWU="}}}"#;
    let store = store(&dir, r#"{"auths":{"g":{"auth":"YWxpY2U6b25l"}}}"#, podman);
    let find = |path: &str| store.find("h", path).unwrap();
    assert_eq!(find("a/b"), Some(password("carol", "three")));
    assert_eq!(find("a/c"), Some(password("bob", "two")));
    assert_eq!(find("ab"), Some(password("alice", "one")));
    assert_eq!(store.find("g", "x").unwrap(), Some(password("alice", "one")));
    let legacy = r#"{
        "https://h/v1/":{"auth":"Ym9iOnR3bw==","email":"bob@h"},
        "https://index.docker.io/v1/":{"auth":"Y2Fyb2w6dGhyZWU="}}"#;
    assert_eq!(store.find("docker.io", "a/b").unwrap(), None);
    fs_err::write(dir.join(".dockercfg"), legacy).unwrap();
    assert_eq!(find("ab"), Some(password("alice", "one")));
    assert_eq!(store.find("docker.io", "a/b").unwrap(), Some(password("carol", "three")));
}

#[test]
fn malformed_files_are_named() {
    let dir = TempDir::new();
    let find = |docker: &str| store(&dir, docker, "").find("h", "a").unwrap_err();
    assert!(matches!(find("{"), CredentialError::Json { .. }));
    assert!(matches!(find(r#"{"auths":{"h":{"auth":"%"}}}"#), CredentialError::Entry { .. }));
    assert!(matches!(
        find(r#"{"auths":{"h":{"auth":"bm9jb2xvbg=="}}}"#),
        CredentialError::Entry { .. }
    ));
    assert!(matches!(find(r#"{"credsStore":"../x"}"#), CredentialError::HelperName(_)));
    let missing = find(r#"{"credHelpers":{"h":"davit-test-absent"}}"#);
    assert!(matches!(missing, CredentialError::HelperStart { .. }));
}

#[test]
fn saving_keeps_other_settings_and_mode_0600() {
    let dir = TempDir::new();
    let before = r#"{"psFormat":"x","auths":{"g":{"auth":"YWxpY2U6b25l"}},"z":[1]}"#;
    let store = store(&dir, before, "");
    let file = dir.join("config.json");
    assert_eq!(store.save("h", &password("bob", "two")).unwrap(), Saved::File(file.clone()));
    store.save("docker.io", &Credential::Identity(Secret::new("t"))).unwrap();
    let text = fs_err::read_to_string(&file).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["psFormat"], "x");
    assert_eq!(json["z"][0], 1);
    assert_eq!(json["auths"]["h"]["auth"], "Ym9iOnR3bw==");
    assert_eq!(json["auths"]["https://index.docker.io/v1/"]["identitytoken"], "t");
    assert_eq!(fs_err::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(store.find("h", "a").unwrap(), Some(password("bob", "two")));

    assert!(store.erase("h").unwrap());
    assert!(!store.erase("h").unwrap());
    assert_eq!(store.find("h", "a").unwrap(), None);
    assert!(store.erase("docker.io").unwrap());
    assert_eq!(store.find("g", "a").unwrap(), Some(password("alice", "one")));
}

#[test]
fn a_first_login_makes_the_folder_and_a_link_stays_one() {
    let dir = TempDir::new();
    let at = |path: std::path::PathBuf| {
        CredentialStore::new(CredentialConfig {
            docker_config: Some(path),
            ..CredentialConfig::default()
        })
    };
    let file = dir.join("new/.docker/config.json");
    at(file.clone()).save("h", &password("a", "b")).unwrap();
    let link = dir.join("link.json");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    at(link.clone()).save("g", &password("a", "b")).unwrap();
    assert!(fs_err::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs_err::read_to_string(&file).unwrap().contains("\"g\""));
    let left: Vec<_> = fs_err::read_dir(dir.join("new/.docker")).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing unfinished is left");
}

#[test]
fn parallel_logins_lose_nothing() {
    let dir = TempDir::new();
    let store = store(&dir, "{}", "");
    std::thread::scope(|scope| {
        for n in 0..8 {
            let store = &store;
            scope.spawn(move || store.save(&format!("h{n}"), &password("a", "b")).unwrap());
        }
    });
    for n in 0..8 {
        assert!(store.find(&format!("h{n}"), "x").unwrap().is_some(), "h{n}");
    }
}
