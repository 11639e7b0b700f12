//! Stock clients that log in: what they may, and what they are refused.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use davit_image::Digest;
use davit_registry::{
    auth::accounts::SetVisibility,
    config::{Limits, Places},
    server::{ServeSettings, Server, TrustedProxies},
};
use davit_test::need_tool;
use serde_json::json;

use super::*;

/// An image of one empty layer, as an OCI layout.
fn layout(dir: &Path) {
    let blobs = dir.join("blobs/sha256");
    fs_err::create_dir_all(&blobs).unwrap();
    let add = |bytes: &[u8], kind: &str| {
        let digest = Digest::of(bytes);
        let name = digest.to_string().replace("sha256:", "");
        fs_err::write(blobs.join(name), bytes).unwrap();
        json!({ "mediaType": kind, "digest": digest.to_string(), "size": bytes.len() })
    };
    let tar = [0; 1024];
    let layer = add(&tar, "application/vnd.oci.image.layer.v1.tar");
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&tar).to_string()] },
    });
    let config = add(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer] });
    let mut manifest = add(manifest.to_string().as_bytes(), kind);
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "v1" });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs_err::write(dir.join("index.json"), index.to_string()).unwrap();
    fs_err::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// Runs a client to its end; `Err` is what it says when it fails.
async fn run(mut command: Command, input: &'static str) -> Result<String, String> {
    let work = move || {
        use std::io::Write as _;

        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A client that fails early reads nothing.
        drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// A server with `alice` and `bob`, on its own database.
async fn serving() -> (Server, Site) {
    let site = Site::new().await;
    for name in ["alice", "bob"] {
        site.add(name, Kind::User).await;
    }
    let root = site.dir.path().to_owned();
    let settings = ServeSettings {
        places: Places { root, database: None, store: None },
        listen: "127.0.0.1:0".parse().unwrap(),
        tls: None,
        plain_http: false,
        auth: true,
        proxies: TrustedProxies::default(),
        public_url: None,
        otlp: None,
        limits: Limits::default(),
    };
    (Server::start(settings).await.unwrap(), site)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skopeo_logs_in_pushes_and_is_refused() {
    let Some(skopeo) = need_tool("skopeo") else { return };
    let (server, site) = serving().await;
    let (host, dir) = (server.address().to_string(), TempDir::new());
    layout(&dir.join("image"));
    let auth_file = dir.join("auth.json");
    let image = format!("docker://{host}/alice/app:v1");
    let source = format!("oci:{}:v1", dir.join("image").display());
    let skopeo = |words: &[&str]| {
        let mut command = Command::new(&skopeo);
        command.arg("--insecure-policy").args(words).env("HOME", dir.path());
        command.env("REGISTRY_AUTH_FILE", &auth_file).env_remove("XDG_RUNTIME_DIR");
        command
    };
    let login = ["login", "--tls-verify=false", "-u", "alice", "--password-stdin", &host];
    let wrong = run(skopeo(&login), "wrong-password").await.unwrap_err();
    assert!(wrong.contains("invalid username/password"), "{wrong}");
    run(skopeo(&login), PASSWORD).await.unwrap();
    run(skopeo(&["copy", "--dest-tls-verify=false", &source, &image]), "").await.unwrap();
    run(skopeo(&["inspect", "--tls-verify=false", &image]), "").await.unwrap();

    let stranger = ["inspect", "--tls-verify=false", "--no-creds", &image];
    assert!(run(skopeo(&stranger), "").await.is_err());
    let (by, path) = (Actor::operator(), "alice/app".to_owned());
    site.database.write(SetVisibility { by, path, is_public: true }).await.unwrap();
    run(skopeo(&stranger), "").await.unwrap();

    let bob = format!("bob:{PASSWORD}");
    let push = ["copy", "--dest-tls-verify=false", "--dest-creds", &bob, &source, &image];
    assert!(run(skopeo(&push), "").await.is_err());
    let (_, token) = site.token("alice", "repository:alice/app:pull", None).await;
    let narrow = format!("alice:{token}");
    run(skopeo(&["inspect", "--tls-verify=false", "--creds", &narrow, &image]), "").await.unwrap();
    let push = ["copy", "--dest-tls-verify=false", "--dest-creds", &narrow, &source, &image];
    assert!(run(skopeo(&push), "").await.is_err());
    run(skopeo(&["delete", "--tls-verify=false", &image]), "").await.unwrap();
    assert!(run(skopeo(&["inspect", "--tls-verify=false", &image]), "").await.is_err());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_reads_private_manifests_with_its_credentials() {
    let (Some(docker), Some(skopeo)) = (need_tool("docker"), need_tool("skopeo")) else { return };
    let (server, site) = serving().await;
    let (host, dir) = (server.address().to_string(), TempDir::new());
    layout(&dir.join("image"));
    let source = format!("oci:{}:v1", dir.join("image").display());
    let creds = format!("alice:{PASSWORD}");
    let mut push = Command::new(skopeo);
    push.args(["--insecure-policy", "copy", "--dest-tls-verify=false", "--dest-creds", &creds]);
    push.args([&source, &format!("docker://{host}/alice/app:v1")]);
    run(push, "").await.unwrap();

    let inspect = |auths: serde_json::Value| {
        let config = dir.join("docker");
        fs_err::create_dir_all(&config).unwrap();
        let text = json!({ "auths": auths }).to_string();
        fs_err::write(config.join("config.json"), text).unwrap();
        let mut command = Command::new(&docker);
        command.env("DOCKER_CONFIG", config).env("DOCKER_HOST", "unix:///nowhere");
        command.args(["manifest", "inspect", "--insecure", &format!("{host}/alice/app:v1")]);
        command
    };
    let shown = run(inspect(json!({ &host: { "auth": encode("alice", PASSWORD) } })), "").await;
    assert!(shown.unwrap().contains("schemaVersion"));
    let (_, token) = site.token("alice", "repository:alice/*:pull", None).await;
    run(inspect(json!({ &host: { "auth": encode("alice", &token) } })), "").await.unwrap();
    assert!(run(inspect(json!({})), "").await.is_err());
    let other = inspect(json!({ &host: { "auth": encode("bob", PASSWORD) } }));
    assert!(run(other, "").await.is_err());
    server.stop().await;
}

fn encode(name: &str, password: &str) -> String {
    let header = basic(name, password);
    header.to_str().unwrap().replace("Basic ", "")
}
