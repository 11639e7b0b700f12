//! Passwords and groups of a directory, against Debian's slapd.

mod silent;
mod sync;

use std::{
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use davit_distribution::Secret;
use davit_registry::auth::{
    accounts::{SetState, teams},
    ldap::{AddGroupMap, LdapSource, RemoveGroupMap, SetLdap, group_maps, ldap_sources},
    oidc::{Provider, SetProvider, identities, providers},
};
use davit_test::{Port, find_tool, need_signed_certificate, need_tool, until};

use super::*;

const BASE: &str = "dc=acme,dc=test";
const ENTRIES: &str = "\
dn: dc=acme,dc=test
objectClass: domain
dc: acme

dn: ou=people,dc=acme,dc=test
objectClass: organizationalUnit
ou: people

dn: ou=left,dc=acme,dc=test
objectClass: organizationalUnit
ou: left

dn: ou=groups,dc=acme,dc=test
objectClass: organizationalUnit
ou: groups

dn: uid=nina,ou=people,dc=acme,dc=test
objectClass: inetOrgPerson
uid: nina
cn: Nina
sn: N
userPassword: queen-of-hearts

dn: uid=alice,ou=people,dc=acme,dc=test
objectClass: inetOrgPerson
uid: alice
cn: Another Alice
sn: A
userPassword: queen-of-hearts

dn: cn=twin1,ou=people,dc=acme,dc=test
objectClass: inetOrgPerson
uid: twin
cn: twin1
sn: T
userPassword: queen-of-hearts

dn: cn=twin2,ou=people,dc=acme,dc=test
objectClass: inetOrgPerson
uid: twin
cn: twin2
sn: T
userPassword: queen-of-hearts

dn: cn=developers,ou=groups,dc=acme,dc=test
objectClass: groupOfNames
cn: developers
member: uid=nina,ou=people,dc=acme,dc=test
member: uid=alice,ou=people,dc=acme,dc=test
";

/// slapd on loopback; dropping it ends it.
struct Slapd {
    child: Child,
    plain: Port,
    tls: Port,
    dir: TempDir,
}

impl Slapd {
    fn start() -> Option<Self> {
        Self::start_with("")
    }

    /// With these entries too.
    fn start_with(entries: &str) -> Option<Self> {
        let (slapd, slapadd) = (need_tool("slapd")?, need_tool("slapadd")?);
        let dir = TempDir::new();
        need_signed_certificate(&dir)?;
        fs_err::create_dir(dir.join("data")).unwrap();
        let at = |name: &str| dir.join(name).display().to_string();
        let schemas: String = ["core", "cosine", "inetorgperson"]
            .map(|name| format!("include /etc/ldap/schema/{name}.schema\n"))
            .concat();
        // Passwords in the clear are refused by the server as well.
        let config = format!(
            "{schemas}modulepath /usr/lib/ldap\nmoduleload back_mdb\n\
             TLSCACertificateFile {}\nTLSCertificateFile {}\nTLSCertificateKeyFile {}\n\
             security simple_bind=128\ndatabase mdb\nsuffix \"{BASE}\"\nmaxsize 4194304\n\
             rootdn \"cn=admin,{BASE}\"\nrootpw secret\ndirectory {}\n",
            at("ca.crt"),
            at("server.crt"),
            at("server.key"),
            at("data"),
        );
        fs_err::write(dir.join("slapd.conf"), config).unwrap();
        fs_err::write(dir.join("entries.ldif"), format!("{ENTRIES}{entries}")).unwrap();
        let mut add = Command::new(slapadd);
        add.arg("-f").arg(dir.join("slapd.conf")).arg("-l").arg(dir.join("entries.ldif"));
        let output = add.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (plain, tls) = (Port::reserve(), Port::reserve());
        let mut command = Command::new(&slapd);
        let places = format!("ldap://{}/ ldaps://{}/", plain.address(), tls.address());
        command.args(["-d", "0", "-h", &places, "-f"]).arg(dir.join("slapd.conf"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        until("slapd answers", || {
            assert_eq!(child.try_wait().unwrap(), None, "slapd goes on");
            [&plain, &tls].iter().all(|port| TcpStream::connect(port.address()).is_ok())
        });
        Some(Self { child, plain, tls, dir })
    }

    fn source(&self) -> LdapSource {
        LdapSource {
            url: format!("ldap://{}", self.plain.address()),
            certificates: Some(fs_err::read_to_string(self.dir.join("ca.crt")).unwrap()),
            bind_dn: format!("cn=admin,{BASE}"),
            bind_password: Secret::new("secret"),
            users: format!("ou=people,{BASE}"),
            groups: Some(format!("ou=groups,{BASE}")),
            ..LdapSource::default()
        }
    }

    /// Changes entries by OpenLDAP's own client.
    fn modify(&self, changes: &str) {
        let program = find_tool("ldapmodify").unwrap();
        let file = self.dir.join("changes.ldif");
        fs_err::write(&file, changes).unwrap();
        let mut command = Command::new(program);
        command.args(["-x", "-w", "secret", "-D"]).arg(format!("cn=admin,{BASE}"));
        command.arg("-H").arg(format!("ldaps://{}", self.tls.address())).arg("-f").arg(file);
        command.env("LDAPTLS_CACERT", self.dir.join("ca.crt"));
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

async fn site(source: LdapSource) -> Site {
    site_with(source, throttled(1000, 1000)).await
}

async fn site_with(source: LdapSource, settings: AuthSettings) -> Site {
    let site = Site::with(settings).await;
    site.add("alice", Kind::User).await;
    site.add("acme", Kind::Organisation).await;
    set(&site, source).await.unwrap();
    site
}

async fn set(site: &Site, source: LdapSource) -> Result<(), String> {
    let set = SetLdap { by: Actor::operator(), name: "corp".to_owned(), source };
    site.database.write(set).await.map_err(|error| error.to_string())
}

const LDAP_PASSWORD: &str = "queen-of-hearts";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_log_in_by_a_directory() {
    let Some(slapd) = Slapd::start() else { return };
    let site = site(slapd.source()).await;
    assert_eq!(ldap_sources(&site.database).await.unwrap()[0].name, "corp");
    let nina = site.basic("nina", LDAP_PASSWORD).await.unwrap();
    assert_eq!(site.decide(&nina, Action::Push, "nina/app").await, Decision::Allow);
    let known = identities(&site.database, "nina").await.unwrap();
    assert_eq!((known.len(), &*known[0].issuer, known[0].subject.len()), (1, "ldap:corp", 36));
    // By pages and by /token as well.
    site.auth.log_in("nina", &Secret::new(LDAP_PASSWORD), HERE).await.unwrap();
    site.get("scope=repository:nina/app:pull", Some(("nina", LDAP_PASSWORD))).await;
    // Who is here keeps the name: the directory's alice is someone else.
    site.basic("alice", PASSWORD).await.unwrap();
    for (name, password) in [
        ("alice", LDAP_PASSWORD),
        ("nina", "wrong-password"),
        ("nina", ""),
        ("nobody", LDAP_PASSWORD),
        ("twin", LDAP_PASSWORD),
        ("*", LDAP_PASSWORD),
        ("ni*", LDAP_PASSWORD),
        ("nina)(uid=*", LDAP_PASSWORD),
        ("admin", "secret"),
        ("acme", LDAP_PASSWORD),
        ("acme+ci", LDAP_PASSWORD),
    ] {
        let refused = site.basic(name, password).await;
        assert!(matches!(refused, Err(Refusal::Wrong)), "{name}: {refused:?}");
    }
    // The entry is known by its id, whatever it is called.
    slapd.modify(&format!(
        "dn: uid=nina,ou=people,{BASE}\nchangetype: modrdn\nnewrdn: uid=nora\ndeleteoldrdn: 1\n"
    ));
    let nora = site.basic("nora", LDAP_PASSWORD).await.unwrap();
    assert_eq!(nora.account(), nina.account());
    let state = SetState { by: Actor::operator(), name: "nina".to_owned(), is_active: false };
    site.database.write(state).await.unwrap();
    assert!(matches!(site.basic("nora", LDAP_PASSWORD).await, Err(Refusal::Wrong)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_are_asked_by_tls_only() {
    let Some(slapd) = Slapd::start() else { return };
    let site = site(LdapSource {
        url: format!("ldaps://{}", slapd.tls.address()),
        signs_up: false,
        ..slapd.source()
    })
    .await;
    // Sign-up is closed: nobody new.
    assert!(matches!(site.basic("nina", LDAP_PASSWORD).await, Err(Refusal::Wrong)));
    let ldaps = LdapSource { signs_up: true, ..slapd.source() };
    let ldaps = LdapSource { url: format!("ldaps://{}", slapd.tls.address()), ..ldaps };
    set(&site, ldaps.clone()).await.unwrap();
    site.basic("nina", LDAP_PASSWORD).await.unwrap();
    let broken = [
        ("a certificate of nobody's", LdapSource { certificates: None, ..ldaps.clone() }),
        ("in the clear", LdapSource { start_tls: false, ..slapd.source() }),
        ("another password", LdapSource { bind_password: Secret::new("x"), ..ldaps.clone() }),
        ("no such port", LdapSource { url: "ldap://127.0.0.1:1".to_owned(), ..ldaps.clone() }),
    ];
    for (at, (what, source)) in broken.into_iter().enumerate() {
        set(&site, source).await.unwrap();
        // No word on whether there is such a person; the local ones go on.
        let refused = site.basic(&format!("someone{at}"), LDAP_PASSWORD).await;
        assert!(matches!(refused, Err(Refusal::Directory)), "{what}: {refused:?}");
        site.basic("alice", PASSWORD).await.unwrap();
    }
    let clear = LdapSource { url: "ldap://192.0.2.1".to_owned(), start_tls: false, ..ldaps };
    assert!(set(&site, clear).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_teams_as_long_as_they_are() {
    let Some(slapd) = Slapd::start() else { return };
    let site = site(slapd.source()).await;
    site.team("acme", "dev", &[]).await;
    site.team("acme", "ops", &[]).await;
    let dev = Subject::Team("acme".to_owned(), "dev".to_owned());
    site.grant(dev, "acme/*", Role::Push).await;
    let map = |group: &str, team: &str| AddGroupMap {
        by: Actor::operator(),
        source: "corp".to_owned(),
        group: group.to_owned(),
        team: ("acme".to_owned(), team.to_owned()),
    };
    site.database.write(map("developers", "dev")).await.unwrap();
    assert!(site.database.write(map("developers", "none")).await.is_err());
    let maps = group_maps(&site.database).await.unwrap();
    assert_eq!(maps, [("corp".to_owned(), "developers".to_owned(), "acme/dev".to_owned())]);
    let may = async || {
        // What is believed of a password ends when the account changes.
        let caller = site.basic("nina", LDAP_PASSWORD).await.unwrap();
        site.decide(&caller, Action::Push, "acme/web").await
    };
    assert_eq!(may().await, Decision::Allow);
    let members = async |team: &str| {
        let teams = teams(&site.database, "acme").await.unwrap();
        teams.into_iter().find(|found| found.name == team).unwrap().members
    };
    assert_eq!(members("dev").await, ["nina"]);
    // By hand into another team: no group takes that away.
    let by = Actor::operator;
    let (org, team, account) = ("acme".to_owned(), "ops".to_owned(), "nina".to_owned());
    let join = SetTeamMember { by: by(), org, team, account, is_member: true };
    site.database.write(join).await.unwrap();
    slapd.modify(&format!(
        "dn: cn=developers,ou=groups,{BASE}\nchangetype: modify\ndelete: member\n\
         member: uid=nina,ou=people,{BASE}\n"
    ));
    // A server that has not seen her yet asks the directory.
    let keys = site.dir.join("keys.json");
    let other = Auth::open(&site.database, &keys, AuthSettings::default()).await.unwrap();
    let caller =
        other.authenticate(Some(&super::basic("nina", LDAP_PASSWORD)), HERE).await.unwrap();
    let need = Need::Repository(Action::Push, "acme/web");
    assert_eq!(other.gate(&caller, need).await.unwrap(), Decision::Denied);
    assert_eq!(may().await, Decision::Denied, "on every server");
    assert_eq!((members("dev").await.len(), members("ops").await), (0, vec!["nina".to_owned()]));
    let remove =
        RemoveGroupMap { by: by(), source: "corp".to_owned(), group: "developers".to_owned() };
    site.database.write(remove).await.unwrap();
    assert!(group_maps(&site.database).await.unwrap().is_empty());
}

/// A name is a directory or a provider, whichever it was made last.
#[tokio::test]
async fn one_name_is_one_way_to_log_in() {
    let site = site(LdapSource { url: "ldap://127.0.0.1:1".to_owned(), ..LdapSource::default() });
    let site = site.await;
    let provider = Provider {
        issuer: "https://idp.test".to_owned(),
        client_id: "davit".to_owned(),
        client_secret: None,
        signs_up: false,
    };
    let set = SetProvider { by: Actor::operator(), name: "corp".to_owned(), provider };
    site.database.write(set).await.unwrap();
    assert!(ldap_sources(&site.database).await.unwrap().is_empty());
    assert_eq!(providers(&site.database).await.unwrap()[0].name, "corp");
    // No directory is asked that is none any more.
    let refused = site.basic("someone", LDAP_PASSWORD).await;
    assert!(matches!(refused, Err(Refusal::Wrong)), "{refused:?}");
}
