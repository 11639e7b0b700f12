//! Accounts, credentials and the token server on a real database.

mod accounts;
mod clients;
mod gate;
mod gate_pages;
mod guessing;
mod ldap;
pub(crate) mod oidc;
mod people;
mod token_server;

use std::{net::IpAddr, sync::Arc};

use davit_distribution::{Secret, wire::Scope};
use davit_registry::{
    auth::{
        Action, AddToken, Auth, AuthSettings, Caller, Decision, Need, OpaqueKind, OpaqueToken,
        PasswordHash, Refusal, RepositoryGlob, Role, ThrottleSettings,
        accounts::{
            AddAccount, AddTeam, Kind, OrgRole, SetGrant, SetMember, SetTeamMember, Subject,
        },
        audit::Actor,
    },
    db::{Connection, Database, DbError, Location, Transaction, Value},
};
use davit_test::TempDir;
use http::HeaderValue;

const PASSWORD: &str = "wonderland";
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// A registry's accounts.
struct Site {
    dir: TempDir,
    database: Database,
    auth: Arc<Auth>,
}

impl Site {
    async fn new() -> Self {
        Self::with(AuthSettings::default()).await
    }

    async fn with(settings: AuthSettings) -> Self {
        let dir = TempDir::new();
        let database = open(&dir).await;
        Self::on(dir, database, settings).await
    }

    async fn on(dir: TempDir, database: Database, settings: AuthSettings) -> Self {
        let auth = Auth::open(&database, &dir.join("keys.json"), settings).await.unwrap();
        Self { dir, database, auth: Arc::new(auth) }
    }

    async fn add(&self, name: &str, kind: Kind) {
        let password = (kind == Kind::User).then(password_hash);
        let name = name.to_owned();
        let by = Actor::operator();
        let add = AddAccount { by, name, kind, password, is_admin: false };
        self.database.write(add).await.unwrap();
    }

    async fn member(&self, org: &str, account: &str, role: OrgRole) {
        let (org, account) = (org.to_owned(), account.to_owned());
        let set = SetMember { by: Actor::operator(), org, account, role: Some(role) };
        self.database.write(set).await.unwrap();
    }

    async fn team(&self, org: &str, team: &str, accounts: &[&str]) {
        let (org, team) = (org.to_owned(), team.to_owned());
        let add = AddTeam { by: Actor::operator(), org: org.clone(), team: team.clone() };
        self.database.write(add).await.unwrap();
        for account in accounts {
            let (org, team, account) = (org.clone(), team.clone(), (*account).to_owned());
            let by = Actor::operator();
            let set = SetTeamMember { by, org, team, account, is_member: true };
            self.database.write(set).await.unwrap();
        }
    }

    async fn grant(&self, subject: Subject, glob: &str, role: Role) {
        let glob: RepositoryGlob = glob.parse().unwrap();
        let by = Actor::operator();
        let grant = SetGrant { by, subject, glob, role: Some(role), is_adding_only: false };
        self.database.write(grant).await.unwrap();
    }

    async fn repository(&self, path: &str, visibility: &'static str) {
        let sql = "INSERT INTO repo (path, visibility, created_at) VALUES ($1, $2, 0)";
        self.sql(sql, vec![path.into(), visibility.into()]).await;
    }

    async fn token(&self, account: &str, scopes: &str, life_ms: Option<i64>) -> (i64, String) {
        let kind = if account.contains('+') { OpaqueKind::Robot } else { OpaqueKind::Personal };
        let token = OpaqueToken::new(kind);
        let add = AddToken {
            by: Actor::operator(),
            account: account.to_owned(),
            kind,
            name: "test".to_owned(),
            hash: token.hash(),
            scopes: Scope::parse_list(scopes).unwrap(),
            life_ms,
        };
        (self.database.write(add).await.unwrap(), token.secret().expose().to_owned())
    }

    /// Runs a statement that no use case has.
    async fn sql(&self, sql: &'static str, values: Vec<Value>) {
        self.database.write(Sql(sql, values)).await.unwrap();
    }

    async fn bearer(&self, token: &str) -> Result<Caller, Refusal> {
        let header = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
        self.auth.authenticate(Some(&header), HERE).await
    }

    async fn basic(&self, name: &str, password: &str) -> Result<Caller, Refusal> {
        self.auth.authenticate(Some(&basic(name, password)), HERE).await
    }

    /// Waits until what another process took away counts here: on PostgreSQL after a tenth of a second.
    async fn hears(&self) {
        if self.database.is_shared() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    async fn decide(&self, caller: &Caller, action: Action, path: &str) -> Decision {
        self.auth.gate(caller, Need::Repository(action, path)).await.unwrap()
    }
}

struct Sql(&'static str, Vec<Value>);

impl Transaction for Sql {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        connection.execute(self.0, self.1.clone()).await.map(drop)
    }
}

async fn open(dir: &TempDir) -> Database {
    Database::open(&crate::database::location(dir.path())).await.unwrap()
}

/// Hashing takes a while; all accounts share one.
fn password_hash() -> PasswordHash {
    static HASH: std::sync::OnceLock<PasswordHash> = std::sync::OnceLock::new();
    HASH.get_or_init(|| PasswordHash::new(&Secret::new(PASSWORD)).unwrap()).clone()
}

fn basic(name: &str, password: &str) -> HeaderValue {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
    HeaderValue::from_str(&format!("Basic {text}")).unwrap()
}

fn throttled(per_account: u32, per_address: u32) -> AuthSettings {
    let window = std::time::Duration::from_secs(3600);
    let throttle = ThrottleSettings { per_account, per_address, window };
    AuthSettings { throttle, ..AuthSettings::default() }
}
