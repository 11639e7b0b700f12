//! The client against Debian's docker-registry.

use bytes::Bytes;
use davit_distribution::{
    Access, Client, ClientConfig, Error, RegistryConfig, Secret, Target, TlsConfig,
};
use davit_image::{Descriptor, Digest, MediaType, Repository, Tag};
use davit_test::{Access as Guard, Registry, TempDir};

use crate::fixture::{manifest, noise, read};

fn repository(registry: &Registry, path: &str) -> Repository {
    format!("{}/{path}", registry.host()).parse().unwrap()
}

async fn push_image(client: &Client, repository: &Repository, layer: &[u8]) -> Digest {
    let session = client.session(repository, Access::Push);
    session.upload_bytes(Bytes::from_static(b"{}")).await.unwrap();
    session.upload_bytes(Bytes::copy_from_slice(b"layer")).await.unwrap();
    session.upload_bytes(Bytes::copy_from_slice(layer)).await.unwrap();
    let raw = manifest();
    let target = Target::Tag("v1".parse().unwrap());
    session.put_manifest(&target, &MediaType::OCI_MANIFEST, raw.bytes().to_vec()).await.unwrap();
    raw.digest()
}

#[tokio::test]
async fn what_is_pushed_comes_back() {
    let Some(registry) = Registry::start(Guard::Open) else { return };
    let client = Client::new(ClientConfig::default());
    let (first, second) = (repository(&registry, "a/b"), repository(&registry, "c"));
    let layer = noise(2_000_000);
    let digest = push_image(&client, &first, &layer).await;
    let session = client.session(&first, Access::Pull);
    assert_eq!(session.tags().await.unwrap(), ["v1"]);
    let target = Target::Tag("v1".parse::<Tag>().unwrap());
    assert_eq!(session.resolve(&target).await.unwrap().digest, digest);
    assert_eq!(session.manifest(&target).await.unwrap().document.bytes(), manifest().bytes());
    let descriptor = Descriptor::of(MediaType::OCI_LAYER_GZIP, &layer);
    assert_eq!(read(&session, &descriptor).await.unwrap(), layer);

    let other = client.session(&second, Access::Push);
    assert_eq!(other.blob_size(&descriptor.digest).await.unwrap(), None);
    assert!(other.mount_blob(&descriptor.digest, &first).await.unwrap());
    assert_eq!(other.blob_size(&descriptor.digest).await.unwrap(), Some(2_000_000));
    assert!(!other.mount_blob(&Digest::of(b"nowhere"), &first).await.unwrap());
    let names = client.catalog(&registry.host(), 10, |_| true).await.unwrap();
    assert!(names.contains(&"a/b".to_owned()), "{names:?}");
}

/// Settings that trust the registry's authority by `certs.d`.
fn trusting(registry: &Registry, dir: &TempDir) -> ClientConfig {
    let folder = dir.join("certs.d").join(registry.host());
    fs_err::create_dir_all(&folder).unwrap();
    fs_err::copy(registry.ca_file(), folder.join("ca.crt")).unwrap();
    ClientConfig { certificate_directories: vec![dir.join("certs.d")], ..ClientConfig::default() }
}

#[tokio::test]
async fn passwords_and_tls_are_checked() {
    let Some(registry) = Registry::start(Guard::PasswordAndTls) else { return };
    let dir = TempDir::new();
    let config = trusting(&registry, &dir);
    let repository = repository(&registry, "a/b");
    let client = Client::new(config.clone());
    let login = client.login(&registry.host(), "alice", Secret::new("wonderland")).await.unwrap();
    assert!(login.checked);
    let wrong =
        Client::new(config.clone()).login(&registry.host(), "alice", Secret::new("x")).await;
    assert!(wrong.unwrap_err().is_denied());

    client.use_credential(&repository, login.credential).await.unwrap();
    push_image(&client, &repository, &noise(100_000)).await;
    let stranger = Client::new(config).session(&repository, Access::Pull);
    assert!(stranger.tags().await.unwrap_err().is_denied());
}

#[tokio::test]
async fn an_unknown_certificate_is_refused_unless_the_registry_is_insecure() {
    let Some(registry) = Registry::start(Guard::PasswordAndTls) else { return };
    // A name that leads to the same place, but is not this machine's.
    let host = registry.host().replace("127.0.0.1", "registry.invalid");
    let repository: Repository = format!("{host}/a/b").parse().unwrap();
    let there = RegistryConfig {
        address: Some(std::net::Ipv4Addr::LOCALHOST.into()),
        ..RegistryConfig::default()
    };
    let config = |settings: RegistryConfig| ClientConfig {
        registries: [(host.clone(), settings)].into(),
        ..ClientConfig::default()
    };
    let strict = Client::new(config(there.clone())).session(&repository, Access::Pull);
    let error = strict.tags().await.unwrap_err();
    assert!(error.is_certificate() && !error.is_transient(), "{error}");

    let insecure = RegistryConfig { insecure: true, ..there.clone() };
    let session = Client::new(config(insecure)).session(&repository, Access::Pull);
    assert!(session.tags().await.unwrap_err().is_denied(), "TLS does, the account is missing");

    // A bundle that holds the authority does as well.
    let tls = TlsConfig { bundles: vec![registry.ca_file()], directories: Vec::new() };
    let config = ClientConfig { tls, ..config(there) };
    let session = Client::new(config).session(&repository, Access::Pull);
    assert!(matches!(session.tags().await, Err(Error::Denied { .. })));
}

/// As for Docker; but an authority that is named for the loopback is not ignored.
#[tokio::test]
async fn this_machine_needs_no_certificate_unless_one_is_named() {
    let Some(registry) = Registry::start(Guard::PasswordAndTls) else { return };
    let repository = repository(&registry, "a/b");
    let session = Client::new(ClientConfig::default()).session(&repository, Access::Pull);
    assert!(session.tags().await.unwrap_err().is_denied(), "TLS does, the account is missing");

    let dir = TempDir::new();
    let config = trusting(&registry, &dir);
    let [stranger, _] = registry.client_files();
    fs_err::copy(stranger, dir.join("certs.d").join(registry.host()).join("ca.crt")).unwrap();
    let session = Client::new(config).session(&repository, Access::Pull);
    assert!(session.tags().await.unwrap_err().is_certificate());
}

#[tokio::test]
async fn a_self_signed_certificate_is_trusted_where_it_is_named() {
    let Some(registry) = Registry::start(Guard::SelfSigned) else { return };
    let dir = TempDir::new();
    let config = trusting(&registry, &dir);
    let session = Client::new(config).session(&repository(&registry, "a/b"), Access::Push);
    session.upload_bytes(Bytes::from_static(b"{}")).await.unwrap();
}

#[tokio::test]
async fn a_lone_client_certificate_is_named() {
    let Some(registry) = Registry::start(Guard::Open) else { return };
    let dir = TempDir::new();
    let folder = dir.join("certs.d").join(registry.host());
    fs_err::create_dir_all(&folder).unwrap();
    fs_err::write(folder.join("client.cert"), "").unwrap();
    let config = ClientConfig {
        certificate_directories: vec![dir.join("certs.d")],
        ..ClientConfig::default()
    };
    let session = Client::new(config).session(&repository(&registry, "a"), Access::Pull);
    let error = session.tags().await.unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error}");
}
