//! `davit registry`: accounts and rights, without a server.

use std::{os::unix::fs::PermissionsExt as _, process::Command};

use davit_test::{Davit, Outcome, TempDir};

use crate::registry_serve::given;

struct Site {
    davit: Davit,
    dir: TempDir,
}

impl Site {
    fn new() -> Self {
        Self { davit: Davit::new(env!("CARGO_BIN_EXE_davit")), dir: TempDir::new() }
    }

    fn command(&self, words: &str) -> Command {
        let mut command = self.davit.command(["registry"]);
        command.args(words.split(' ')).arg("--root").arg(self.dir.join("registry"));
        command
    }

    fn run(&self, words: &str, input: &str) -> Outcome {
        given(self.command(words), input)
    }

    fn ok(&self, words: &str) -> String {
        let outcome = self.run(words, "wonderland\n");
        assert_eq!(outcome.code, 0, "{words}: {}", outcome.stderr);
        outcome.stdout.trim_end().to_owned()
    }

    fn refused(&self, words: &str, reason: &str) {
        let outcome = self.run(words, "wonderland\n");
        assert_eq!(outcome.code, 1, "{words}: {outcome:?}");
        assert!(outcome.stderr.contains(reason), "{words}: {}", outcome.stderr);
    }
}

#[test]
fn accounts_are_made_listed_and_removed() {
    let site = Site::new();
    assert_eq!(site.ok("user add alice --admin --password-stdin"), "alice");
    site.ok("user add bob --password-stdin");
    site.refused("user add bob --password-stdin", "the name `bob` is taken");
    site.refused("user add library --password-stdin", "reserved");
    site.refused("user add Bob --password-stdin", "no account name");
    let short = site.run("user add carol --password-stdin", "short\n");
    assert!(short.stderr.contains("8 to 1024 bytes"), "{}", short.stderr);
    assert_eq!(site.ok("user ls -q"), "alice\nbob");
    let table = site.ok("user ls --format {{.Name}}:{{.State}}:{{.Admin}}");
    assert_eq!(table, "alice:active:true\nbob:active:false");

    assert_eq!(site.ok("user set bob --admin true"), "bob");
    assert_eq!(site.ok("user ls --format {{.Name}}:{{.Admin}}"), "alice:true\nbob:true");
    site.refused("user set nobody --quota 1g", "there is no account `nobody`");
    let sized = site.run("user set bob --quota much", "");
    assert!(sized.stderr.contains("invalid size: 'much'"), "{}", sized.stderr);

    site.refused("org add acme --owner nobody", "there is no user `nobody`");
    assert_eq!(site.ok("org ls -q"), "");
    site.ok("org add acme --owner alice");
    assert_eq!(site.ok("org set acme --quota 10g"), "acme");
    assert_eq!(site.ok("org ls --format {{.Name}}:{{.Used}}:{{.Quota}}"), "acme:0B:10.7GB");
    site.refused("user set acme --admin true", "`acme` cannot be given this");
    site.refused("team member add acme/dev bob", "there is no team `acme/dev`");
    site.ok("team add acme/dev");
    site.refused("team member add acme/dev bob", "hint: davit registry org member add acme bob");
    site.ok("org member add acme bob");
    site.ok("team member add acme/dev bob");
    assert_eq!(site.ok("team ls acme --format {{.Name}}={{.Members}}"), "dev=bob");
    let members = site.ok("org member ls acme --format {{.Name}}={{.Role}}");
    assert_eq!(members, "alice=owner\nbob=member");
    site.refused("org member rm acme alice", "last owner");

    site.ok("grant add acme/dev acme/web-* push");
    site.refused("grant add acme/dev other/* push", "beyond the repositories of `acme`");
    site.refused("grant add bob acme/* owner", "no role");
    let grants = site.ok("grant ls --format {{.Who}}|{{.Repositories}}|{{.Role}}");
    assert_eq!(grants, "team acme/dev|acme/web-*|push");

    site.ok("user disable bob");
    assert!(site.ok("user ls").contains("disabled"));
    site.ok("user rm bob");
    assert_eq!(site.ok("user ls -q"), "alice");
    site.ok("user passwd alice --password-stdin");
    assert!(site.ok("audit check").contains("none changed or missing"));
    assert!(site.ok("audit ls").contains("account.remove"));
    // The registry's folder is another than davit's own, and its owner's alone.
    assert!(!site.davit.root().exists());
    let mode = fs_err::metadata(site.dir.join("registry")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn tokens_are_shown_once_and_revoked() {
    let site = Site::new();
    site.ok("user add alice --password-stdin");
    let token =
        site.ok("token add alice --name laptop --scope repository:alice/*:pull --expires 90d");
    assert!(token.starts_with("davit_pat_"), "{token}");
    let list = site.ok("token ls alice");
    assert!(list.contains("laptop") && list.contains("repository:alice/*:pull"), "{list}");
    assert!(!list.contains(&token));
    let id = site.ok("token ls alice --format {{.Id}}");
    site.refused("token add alice --scope repository:alice/*:fly", "allows nothing");
    site.refused("token add alice --scope x", "no scope");
    site.refused("token add nobody", "there is no user `nobody`");
    site.ok("org add acme --owner alice");
    site.refused("token add acme", "there is no user `acme`");
    site.ok(&format!("token rm alice {id}"));
    assert_eq!(site.ok("token ls alice --format {{.Id}}"), "");
    let robot = site.ok("robot add alice+ci");
    assert!(robot.starts_with("davit_bot_"), "{robot}");
    assert_eq!(site.ok("robot ls -q"), "alice+ci");
    site.refused("robot add alice", "no account name");
    site.ok("robot rm alice+ci");
}

#[test]
fn password_files_are_imported() {
    let site = Site::new();
    let file = site.dir.join("htpasswd");
    // The hash of `wonderland` at bcrypt's lowest cost.
    let hash = "$2y$04$cbFrDxw1Q0F8kqBZSQ8rDOq2BhbbhQDJ1GbfE9tGWNAk0J/aQyRZu";
    fs_err::write(&file, format!("alice:{hash}\nbob:$apr1$x$y\n")).unwrap();
    let outcome = site.run(&format!("user import {}", file.display()), "");
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, "alice\n"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("htpasswd:2: has no bcrypt hash"), "{}", outcome.stderr);
    assert_eq!(site.ok("user ls -q"), "alice");
}

#[test]
fn sign_up_is_set_and_people_are_invited() {
    let site = Site::new();
    assert_eq!(site.ok("signup"), "not set: open on loopback, else closed");
    assert_eq!(site.ok("signup invite"), "invite");
    assert_eq!(site.ok("signup"), "invite");
    let outcome = site.run("signup everyone", "");
    assert_eq!(outcome.code, 125, "{outcome:?}");
    site.ok("user add alice --admin --password-stdin");
    site.ok("user add bob --password-stdin");
    site.refused("user invite bob", "`bob` does not manage this registry");
    let invitation = site.ok("user invite alice --name carol --expires 2d");
    assert!(invitation.starts_with("davit_inv_"), "{invitation}");
    assert_eq!(site.ok("token ls alice --format {{.Kind}}={{.Name}}"), "invite=carol");
    assert!(site.ok("audit ls").contains("sign_up.set"));
}

#[test]
fn token_keys_are_rotated() {
    let site = Site::new();
    let keys = site.dir.join("registry/token-keys.json");
    let (first, second) = (site.ok("key rotate"), site.ok("key rotate"));
    assert_ne!(first, second);
    let mode = fs_err::metadata(&keys).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(site.ok("audit ls").contains(&second));
}

#[test]
fn others_vouch_for_people_and_robots() {
    let site = Site::new();
    let add = "oidc add idp --issuer https://idp.example --client-id davit --client-secret-stdin";
    assert_eq!(site.ok(add), "idp");
    site.refused("oidc add idp --issuer http://idp.example --client-id davit", "by HTTPS");
    assert_eq!(
        site.ok("oidc ls --format {{.Name}}|{{.Issuer}}|{{.ClientId}}|{{.SignsUp}}"),
        "idp|https://idp.example|davit|false"
    );
    site.ok("oidc rm idp");
    site.refused("oidc rm idp", "there is no provider `idp`");
    site.ok("user add alice --password-stdin");
    site.ok("robot add alice+ci");
    let rule = "--issuer https://ci.example --audience davit --claim";
    site.refused(&format!("trust add alice {rule} sub=x"), "there is no robot `alice`");
    site.refused(&format!("trust add alice+ci {rule} sub=*"), "at least one claim");
    let id = site.ok(&format!("trust add alice+ci {rule} sub=repo:alice/*"));
    let list = site.ok("trust ls alice+ci --format {{.Id}}|{{.Robot}}|{{.Claims}}");
    assert_eq!(list, format!("{id}|alice+ci|sub=repo:alice/*"));
    site.ok(&format!("trust rm alice+ci {id}"));
    assert_eq!(site.ok("trust ls --format {{.Id}}"), "");
}

#[test]
fn directories_and_their_groups_are_set() {
    let site = Site::new();
    let add = "--bind-dn cn=reader --bind-password-stdin --users ou=people --groups ou=groups";
    assert_eq!(site.ok(&format!("ldap add corp --url ldaps://ldap.example {add}")), "corp");
    let clear = format!("ldap add corp --url ldap://ldap.example --no-start-tls {add}");
    site.refused(&clear, "with StartTLS");
    assert_eq!(site.ok("ldap ls --format {{.Name}}={{.Url}}"), "corp=ldaps://ldap.example");
    site.ok("user add alice --password-stdin");
    site.ok("org add acme --owner alice");
    site.refused("ldap map corp developers acme/dev", "there is no team `acme/dev`");
    site.ok("team add acme/dev");
    site.refused("ldap map other developers acme/dev", "there is no directory `other`");
    site.ok("ldap map corp developers acme/dev");
    let maps = site.ok("ldap maps --format {{.Directory}}:{{.Group}}:{{.Team}}");
    assert_eq!(maps, "corp:developers:acme/dev");
    // What is known goes to the same place only.
    let unsaid = "--bind-dn cn=reader --users ou=people";
    site.ok(&format!("ldap add corp --url ldaps://ldap.example {unsaid}"));
    site.refused(&format!("ldap add corp --url ldaps://other.example {unsaid}"), "is needed");
    site.refused("ldap sync other", "there is no directory `other`");
    site.ok(&format!("ldap add near --url ldap://127.0.0.1:1 --no-start-tls --sync-every 0 {add}"));
    site.refused("ldap sync near --dry-run", "cannot be reached");
    site.ok("ldap unmap corp developers");
    site.refused("ldap unmap corp developers", "there is no group `developers`");
    site.refused("oidc rm corp", "there is no provider `corp`");
    site.ok("ldap rm corp near");
    assert!(!site.ok("audit ls").contains("wonderland"), "no secret is in the log");
}
