//! One order of a certificate: account, proofs, certificate (RFC 8555 § 7.1).

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeHandle, ChallengeType, Error,
    Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy, SuggestedWindow,
};
use rcgen::{CertificateParams, CustomExtension, KeyPair};

use super::{
    Acme, AcmeError, AcmeName, HOLD, PATIENCE, certificate::Certificate, http::Http, rows,
};
use crate::db::ms;

/// How the authority is asked whether it is ready.
const POLL: RetryPolicy = RetryPolicy::new().timeout(PATIENCE);
/// What it says of an account that it does not know (any more).
const NO_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// Has a certificate made: it, and its key in PEM.
pub(super) async fn order(acme: &Acme) -> Result<(Certificate, String), AcmeError> {
    let outcome = order_as(acme, account(acme).await).await;
    if let Err(AcmeError::Authority(error)) = &outcome
        && let Error::Api(problem) = &**error
        && problem.r#type.as_deref() == Some(NO_ACCOUNT)
    {
        // The next attempt makes another one.
        let directory = acme.settings.directory.clone();
        acme.database.write(rows::ForgetAccount { directory }).await?;
    }
    outcome
}

async fn order_as(
    acme: &Acme,
    account: Result<Account, AcmeError>,
) -> Result<(Certificate, String), AcmeError> {
    let identifiers: Vec<Identifier> =
        acme.settings.names.iter().map(AcmeName::identifier).collect();
    let replaced = acme.current().and_then(|current| current.id.clone());
    let mut order = begin(&account?, &identifiers, replaced).await?;
    let mut proved = Vec::new();
    let outcome = prove(acme, &mut order, &mut proved).await;
    // Whatever came of it, nobody asks for these any more.
    acme.database.write(rows::DropProofs { names: proved }).await?;
    outcome?;
    let key = order.finalize().await?;
    let chain = order.poll_certificate(&POLL).await?;
    Ok((Certificate::parse(&chain, &key)?, key))
}

async fn account(acme: &Acme) -> Result<Account, AcmeError> {
    let builder = Account::builder_with_http(Box::new(Http(acme.client.clone())));
    let directory = &acme.settings.directory;
    if let Some(text) = rows::account(&acme.database, directory).await? {
        let credentials = serde_json::from_str(&text).map_err(Error::from)?;
        return Ok(builder.from_credentials(credentials).await?);
    }
    let contact = acme.settings.contact.as_ref().map(|address| format!("mailto:{address}"));
    let contact: Vec<&str> = contact.as_deref().into_iter().collect();
    let new = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let key = acme.external_key();
    let (account, credentials) = builder.create(&new, directory.clone(), key.as_ref()).await?;
    let credentials = serde_json::to_string(&credentials).map_err(Error::from)?;
    let directory = directory.clone();
    acme.database.write(rows::KeepAccount { directory, credentials }).await?;
    Ok(account)
}

/// When the authority wants a certificate renewed, and how long that is true.
pub(super) async fn wanted(
    acme: &Acme,
    id: &CertificateIdentifier<'_>,
) -> Result<(SuggestedWindow, Duration), AcmeError> {
    let (info, again) = account(acme).await?.renewal_info(id).await?;
    Ok((info.suggested_window, again))
}

async fn begin(
    account: &Account,
    identifiers: &[Identifier],
    replaced: Option<CertificateIdentifier<'static>>,
) -> Result<Order, Error> {
    if let Some(replaced) = replaced {
        match account.new_order(&NewOrder::new(identifiers).replaces(replaced)).await {
            // It knows no replacements, or not of this one: then it is an order like any other.
            Err(Error::Unsupported(_) | Error::Api(_)) => {}
            outcome => return outcome,
        }
    }
    account.new_order(&NewOrder::new(identifiers)).await
}

/// Proves each name of an order.
async fn prove(acme: &Acme, order: &mut Order, proved: &mut Vec<String>) -> Result<(), AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let shown = authorization.identifier().to_string();
        let name = AcmeName::of(authorization.identifier().identifier);
        let challenge = authorization.challenge(ChallengeType::TlsAlpn01);
        let (Some(name), Some(mut challenge)) = (name, challenge) else {
            return Err(AcmeError::NoChallenge(shown));
        };
        let (chain, key) = proof(&name, &challenge).map_err(AcmeError::Key)?;
        proved.push(name.asked());
        let ends_ms = acme.database.now_ms() + ms(HOLD);
        let name = name.asked();
        acme.database.write(rows::PutProof { name, chain, key, ends_ms }).await?;
        challenge.set_ready().await?;
    }
    match order.poll_ready(&POLL).await {
        Ok(OrderStatus::Ready | OrderStatus::Valid) => Ok(()),
        outcome => Err(match refused(order).await {
            Some(refused) => refused,
            None => outcome.err().unwrap_or(Error::Str("order that is ready")).into(),
        }),
    }
}

/// The certificate that shows control of a name (RFC 8737 § 3).
fn proof(
    name: &AcmeName,
    challenge: &ChallengeHandle<'_>,
) -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut parameters = CertificateParams::new(vec![name.to_string()])?;
    let digest = challenge.key_authorization().digest();
    parameters.custom_extensions = vec![CustomExtension::new_acme_identifier(digest.as_ref())];
    Ok((parameters.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// The name that was not proved, and what the authority says of it.
async fn refused(order: &mut Order) -> Option<AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let name = authorization.identifier().to_string();
        let state = authorization.refresh().await.ok()?;
        if let Some(problem) = state.challenges.iter().find_map(|it| it.error.as_ref()) {
            return Some(AcmeError::Proof { name, problem: problem.to_string() });
        }
    }
    None
}
