//! Who else vouches for people and builds: OpenID providers, whom they know, and issuers of builds' tokens.
//!
//! Secrets are taken and never told. One that is absent stays as it was, for the same issuer alone.

use std::{fmt, str::FromStr};

use http::{Method, StatusCode};

use super::{
    Call, Endpoint, Problem, Rule, Site,
    route::endpoint,
    schema::{Grammar, Nothing, Page, Prose, Text, input, reply},
    text::{Account, AnyName, SecretText},
};
use crate::auth::oidc::{
    self, AddTrust, ForeignIdentity, ProviderKind, ProviderRow, RemoveIdentity, RemoveProvider,
    RemoveTrust, SetProvider, TrustRow, identities, providers, trust_rules,
};

/// Claims of one rule.
const MOST_CLAIMS: usize = 32;

reply! {
    /// A provider by which people log in.
    Provider {
        /// Its name here.
        name: String,
        /// Its address, as it writes it in tokens.
        issuer: String,
        /// What it calls this registry.
        client_id: String,
        /// Whether a secret is kept, by which this registry proves itself there.
        has_secret: bool,
        /// Whether everyone whom it knows may have an account, whatever sign-up is set to.
        signs_up: bool,
    }
}

reply! {
    /// Who an account's owner is elsewhere, and logs in as.
    Identity {
        /// Who knows them, as it writes itself in tokens.
        issuer: String,
        /// As whom.
        subject: String,
    }
}

input! {
    /// An identity that an account is to lose.
    OldIdentity {
        /// Who knows them.
        issuer: Prose<2048>,
        /// As whom.
        subject: Prose<2048>,
    }
}

reply! {
    /// Tokens of an issuer that stand for a robot.
    TrustRule {
        /// Its number.
        id: i64,
        /// The robot.
        robot: String,
        /// The issuer, as it writes itself in tokens.
        issuer: String,
        /// For whom the tokens must be.
        audience: String,
        /// What each claim must be: `NAME=PATTERN`.
        claims: Vec<String>,
    }
}

input! {
    /// A provider by which people log in.
    NewProvider {
        /// Its address, exactly as it writes it in tokens.
        issuer: Prose<2048>,
        /// What it calls this registry.
        client_id: Prose<512>,
    } maybe {
        /// By what this registry proves itself; absent: as before, for the same issuer and client.
        client_secret: SecretText<4096>,
        /// Give everyone whom it knows an account, whatever sign-up is set to.
        signs_up: bool,
    }
}

input! {
    /// Tokens of an issuer that stand for a robot.
    NewTrustRule {
        /// The robot.
        robot: Account,
        /// The issuer, exactly as it writes itself in tokens.
        issuer: Prose<2048>,
        /// For whom the tokens must be.
        audience: Prose<512>,
        /// What each claim must be, `NAME=PATTERN`, in which `*` is any text; all must match.
        claims: Vec<Text<Claim>>,
    }
}

/// A claim and its pattern.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    name: String,
    pattern: String,
}

impl FromStr for Claim {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let is_short = text.chars().count() <= Self::LENGTH.1 && !text.contains('\0');
        let parts = text.split_once('=').filter(|(name, _)| is_short && !name.is_empty());
        let (name, pattern) = parts.ok_or("a claim is NAME=PATTERN")?;
        Ok(Self { name: name.to_owned(), pattern: pattern.to_owned() })
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.pattern)
    }
}

impl Grammar for Claim {
    const PATTERN: &'static str = "^[^=\\u0000]+=[^\\u0000]*$";
    const LENGTH: (usize, usize) = (2, 1024);
}

const ON: Rule = Rule::SiteAdmin;
const GONE: StatusCode = StatusCode::NO_CONTENT;

pub(super) fn endpoints() -> Vec<Endpoint> {
    use Method as M;
    vec![
        endpoint(
            (M::GET, "/oidc", ON),
            ("listProviders", "OpenID providers by which people log in, by name"),
            async |call: Call, _: Nothing, _: Nothing| {
                identity_providers(&call.site).await.map(Page::whole)
            },
        ),
        endpoint(
            (M::PUT, "/oidc/{provider}", ON),
            ("setProvider", "Make an OpenID provider known, or change it"),
            set_provider,
        )
        .with(GONE),
        endpoint(
            (M::DELETE, "/oidc/{provider}", ON),
            ("deleteProvider", "Remove an OpenID provider; accounts stay"),
            async |call: Call, _: Nothing, _: Nothing| {
                remove(call, "provider", ProviderKind::Oidc).await
            },
        )
        .with(GONE),
        endpoint(
            (M::GET, "/accounts/{account}/identities", Rule::ManageAccount),
            ("listIdentities", "Who an account's owner is elsewhere, by issuer"),
            async |call: Call, _: Nothing, _: Nothing| {
                account_identities(&call.site, &call.account()?).await.map(Page::whole)
            },
        ),
        endpoint(
            (M::DELETE, "/accounts/{account}/identities", Rule::ManageAccount),
            ("removeIdentity", "Let nobody log in by an identity any more"),
            remove_identity,
        )
        .with(GONE),
        endpoint(
            (M::GET, "/trust", ON),
            ("listTrustRules", "Tokens of other issuers that stand for robots, oldest first"),
            async |call: Call, _: Nothing, _: Nothing| trust(&call.site).await.map(Page::whole),
        ),
        endpoint(
            (M::POST, "/trust", ON),
            ("createTrustRule", "Let tokens of an issuer stand for a robot (RFC 8693)"),
            create_trust,
        )
        .with(StatusCode::CREATED),
        endpoint(
            (M::DELETE, "/trust/{robot}/{id}", ON),
            ("deleteTrustRule", "End that"),
            delete_trust,
        )
        .with(GONE),
    ]
}

/// OpenID providers, by name.
pub(crate) async fn identity_providers(site: &Site) -> Result<Vec<Provider>, Problem> {
    let provider = |row: ProviderRow| Provider {
        name: row.name,
        issuer: row.issuer,
        client_id: row.client_id,
        has_secret: row.has_secret,
        signs_up: row.signs_up,
    };
    Ok(providers(&site.registry.database).await?.into_iter().map(provider).collect())
}

async fn set_provider(call: Call, _: Nothing, new: NewProvider) -> Result<Nothing, Problem> {
    let provider = oidc::Provider {
        issuer: new.issuer.0.trim().to_owned(),
        client_id: new.client_id.0,
        client_secret: new.client_secret.map(|secret| secret.0),
        signs_up: new.signs_up.unwrap_or_default(),
    };
    let name = call.named::<AnyName>("provider")?.0;
    let set = SetProvider { by: call.actor(), name, provider };
    call.site.registry.database.write(set).await?;
    Ok(Nothing {})
}

/// Removes a provider, or a directory.
pub(super) async fn remove(
    call: Call,
    place: &'static str,
    kind: ProviderKind,
) -> Result<Nothing, Problem> {
    let name = call.named::<AnyName>(place)?.0;
    let remove = RemoveProvider { by: call.actor(), name, kind };
    call.site.registry.database.write(remove).await?;
    Ok(Nothing {})
}

/// Who an account's owner is elsewhere, by issuer.
pub(crate) async fn account_identities(
    site: &Site,
    account: &str,
) -> Result<Vec<Identity>, Problem> {
    let rows = identities(&site.registry.database, account).await?;
    let identity = |ForeignIdentity { issuer, subject }| Identity { issuer, subject };
    Ok(rows.into_iter().map(identity).collect())
}

async fn remove_identity(call: Call, old: OldIdentity, _: Nothing) -> Result<Nothing, Problem> {
    let identity = ForeignIdentity { issuer: old.issuer.0, subject: old.subject.0 };
    let remove = RemoveIdentity { by: call.actor(), account: call.account()?, identity };
    call.site.registry.database.write(remove).await?;
    Ok(Nothing {})
}

/// Tokens of other issuers that stand for robots, oldest first.
pub(crate) async fn trust(site: &Site) -> Result<Vec<TrustRule>, Problem> {
    let rule = |row: TrustRow| TrustRule {
        id: row.id,
        robot: row.robot.1,
        issuer: row.issuer,
        audience: row.audience,
        claims: row.claims.into_iter().map(|(name, it)| format!("{name}={it}")).collect(),
    };
    Ok(trust_rules(&site.registry.database, "").await?.into_iter().map(rule).collect())
}

async fn create_trust(call: Call, _: Nothing, new: NewTrustRule) -> Result<TrustRule, Problem> {
    if new.claims.len() > MOST_CLAIMS {
        return Err(Problem::conflict(format!("a rule has at most {MOST_CLAIMS} claims")));
    }
    let claims: Vec<String> = new.claims.iter().map(|claim| claim.0.to_string()).collect();
    let (robot, issuer) = (new.robot.0.0, new.issuer.0.trim().to_owned());
    let audience = new.audience.0;
    let add = AddTrust {
        by: call.actor(),
        robot: robot.clone(),
        issuer: issuer.clone(),
        audience: audience.clone(),
        claims: new.claims.into_iter().map(|claim| (claim.0.name, claim.0.pattern)).collect(),
    };
    let id = call.site.registry.database.write(add).await?;
    Ok(TrustRule { id, robot, issuer, audience, claims })
}

async fn delete_trust(call: Call, _: Nothing, _: Nothing) -> Result<Nothing, Problem> {
    let (robot, id) = (call.named::<AnyName>("robot")?.0, call.number()?);
    let remove = RemoveTrust { by: call.actor(), robot, id };
    call.site.registry.database.write(remove).await?;
    Ok(Nothing {})
}
