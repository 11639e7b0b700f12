//! A connection to a directory: StartTLS or TLS, bind, search (RFC 4511).

use std::{io, pin::Pin, sync::Arc, time::Duration};

use davit_distribution::TlsConfig;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use super::{LdapError, LdapSource};
use crate::ber::{self, BOOLEAN, ENUMERATED, INTEGER, Reader, SEQUENCE};

/// Largest message of a directory.
const MESSAGE_BYTES: usize = 1 << 20;
/// Messages of one search: references among them.
const MOST_MESSAGES: usize = 4096;
/// Bytes of one search.
const SEARCH_BYTES: usize = 8 << 20;
/// The password is not the entry's, it has none, or may not be used now.
pub(super) const NOT_THEIRS: [i64; 3] = [48, 49, 53];
/// There were more entries than asked for.
const SIZE_LIMIT: i64 = 4;
/// There is nothing below the base.
const NO_SUCH_OBJECT: i64 = 32;
/// Entries of a page.
const PAGE_ENTRIES: i64 = 500;
/// Pages of one list at most.
const MOST_PAGES: usize = 2000;
/// How long a directory may take for a page.
const PAGE_TIME: Duration = Duration::from_secs(30);
/// Simple paged results (RFC 2696).
const PAGED: &str = "1.2.840.113556.1.4.319";
const START_TLS: &str = "1.3.6.1.4.1.1466.20037";

/// Tags of RFC 4511's operations.
mod tag {
    pub(super) const BIND: u8 = 0x60;
    pub(super) const BOUND: u8 = 0x61;
    pub(super) const UNBIND: u8 = 0x42;
    pub(super) const SEARCH: u8 = 0x63;
    pub(super) const ENTRY: u8 = 0x64;
    pub(super) const DONE: u8 = 0x65;
    pub(super) const REFERENCE: u8 = 0x73;
    pub(super) const EXTENDED: u8 = 0x77;
    pub(super) const EXTENDED_DONE: u8 = 0x78;
    /// The first choice of a context: a simple password, the name of an extension.
    pub(super) const FIRST: u8 = 0x80;
    pub(super) const AND: u8 = 0xa0;
    pub(super) const CONTROLS: u8 = 0xa0;
    pub(super) const SET: u8 = 0x31;
    pub(super) const EQUAL: u8 = 0xa3;
}

trait Stream: AsyncRead + AsyncWrite + Send {}
impl<S: AsyncRead + AsyncWrite + Send> Stream for S {}

/// An open connection.
pub(super) struct Connection {
    stream: Pin<Box<dyn Stream>>,
    last_id: i64,
}

/// Where to search, and for how many entries.
pub(super) struct Scope<'s> {
    pub(super) base: &'s str,
    pub(super) most: i64,
}

/// An entry that was found.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    attributes: Vec<(String, Vec<u8>)>,
}

impl Entry {
    fn value(&self, attribute: &str) -> Option<&[u8]> {
        let is_it = |(name, _): &&(String, Vec<u8>)| name.eq_ignore_ascii_case(attribute);
        self.attributes.iter().find(is_it).map(|(_, value)| &value[..])
    }

    /// The first value of an attribute, as text.
    pub(super) fn text(&self, attribute: &str) -> Option<String> {
        String::from_utf8(self.value(attribute)?.to_vec()).ok()
    }

    /// A unique id: a text as it is, bytes in hexadecimal.
    pub(super) fn id(&self, attribute: &str) -> Option<String> {
        let hex = |value: &[u8]| crate::auth::opaque::hex(value);
        Some(self.text(attribute).unwrap_or_else(|| hex(self.value(attribute).unwrap_or_default())))
            .filter(|id| !id.is_empty())
    }
}

/// Where a directory is, and how the way there is closed to others.
pub(super) struct Address {
    host: String,
    port: u16,
    name: ServerName<'static>,
    tls: Tls,
}

#[derive(PartialEq, Eq)]
enum Tls {
    First,
    Start,
    /// On this machine.
    None,
}

impl Address {
    pub(super) fn of(source: &LdapSource) -> Result<Self, LdapError> {
        let url: Url = source.url.parse().map_err(|_error| LdapError::Address)?;
        let host = url.host().ok_or(LdapError::Address)?.to_owned();
        // `ldap` is no scheme whose hosts are parsed further.
        let text = host.to_string();
        let text = text.trim_matches(['[', ']']).to_owned();
        let is_local = match text.parse::<std::net::IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => matches!(&host, Host::Domain(name) if name == "localhost"),
        };
        let (port, tls) = match (url.scheme(), source.start_tls) {
            ("ldaps", _) => (636, Tls::First),
            ("ldap", true) => (389, Tls::Start),
            ("ldap", false) if is_local => (389, Tls::None),
            _ => return Err(LdapError::Address),
        };
        let name = ServerName::try_from(text.clone()).map_err(|_error| LdapError::Address)?;
        Ok(Self { host: text, port: url.port().unwrap_or(port), name, tls })
    }
}

impl Connection {
    pub(super) async fn open(source: &LdapSource) -> Result<Self, LdapError> {
        let address = Address::of(source)?;
        let tcp = TcpStream::connect((address.host.as_str(), address.port)).await?;
        if address.tls == Tls::None {
            return Ok(Self { stream: Box::pin(tcp), last_id: 0 });
        }
        let connector = connector(source)?;
        let tcp = if address.tls == Tls::Start { start_tls(tcp).await? } else { tcp };
        let stream = connector.connect(address.name, tcp).await?;
        Ok(Self { stream: Box::pin(stream), last_id: 0 })
    }

    /// Proves who asks from now on.
    pub(super) async fn bind(&mut self, name: &str, password: &str) -> Result<(), LdapError> {
        let request = [
            ber::integer(INTEGER, 3),
            ber::octets(name.as_bytes()),
            ber::element(tag::FIRST, password.as_bytes()),
        ];
        self.send(&ber::element(tag::BIND, &request.concat())).await?;
        success(&self.receive(tag::BOUND).await?)
    }

    /// Entries below the base of which all these attributes have these values; of more than were asked
    /// for some.
    pub(super) async fn search(
        &mut self,
        scope: &Scope<'_>,
        wanted: &[(&str, &str)],
        attributes: &[&str],
    ) -> Result<Vec<Entry>, LdapError> {
        let (request, mut found) = (search_request(scope, wanted, attributes), Vec::new());
        match self.read_search(&request, &[], &mut |entry| found.push(entry)).await {
            Ok(_) | Err(LdapError::Refused(SIZE_LIMIT)) => Ok(found),
            Err(LdapError::Refused(NO_SUCH_OBJECT)) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// As [`Self::search`], page by page: all of them, or an error.
    pub(super) async fn search_all(
        &mut self,
        base: &str,
        wanted: &[(&str, &str)],
        attributes: &[&str],
        each: &mut (dyn FnMut(Entry) + Send),
    ) -> Result<(), LdapError> {
        let request = search_request(&Scope { base, most: 0 }, wanted, attributes);
        let mut cookie = Vec::new();
        for _ in 0..MOST_PAGES {
            let page = [ber::integer(INTEGER, PAGE_ENTRIES), ber::octets(&cookie)].concat();
            // Critical: a directory that knows no pages must not leave entries out.
            let control = [
                ber::octets(PAGED.as_bytes()),
                ber::element(BOOLEAN, &[0xff]),
                ber::octets(&ber::element(SEQUENCE, &page)),
            ];
            let controls = ber::element(tag::CONTROLS, &ber::element(SEQUENCE, &control.concat()));
            let page = self.read_search(&request, &controls, each);
            let told = tokio::time::timeout(PAGE_TIME, page).await;
            let told = told.map_err(|_elapsed| LdapError::Late)??;
            cookie = page_cookie(&told).ok_or(LdapError::Protocol)?;
            if cookie.is_empty() {
                return Ok(());
            }
        }
        Err(LdapError::TooMany)
    }

    /// Sends a search and hands its entries on; the controls that it ends with.
    async fn read_search(
        &mut self,
        request: &[u8],
        controls: &[u8],
        each: &mut (dyn FnMut(Entry) + Send),
    ) -> Result<Vec<u8>, LdapError> {
        self.send(&[request, controls].concat()).await?;
        let mut left = SEARCH_BYTES;
        for _ in 0..MOST_MESSAGES {
            let Message { kind, content, controls } = self.message().await?;
            left = left.checked_sub(content.len()).ok_or(LdapError::Protocol)?;
            match kind {
                tag::ENTRY => each(entry(&content).ok_or(LdapError::Protocol)?),
                tag::REFERENCE => {}
                tag::DONE => return success(&content).map(|()| controls),
                _ => break,
            }
        }
        Err(LdapError::Protocol)
    }

    /// Says good-bye.
    pub(super) async fn unbind(mut self) -> Result<(), LdapError> {
        self.send(&ber::element(tag::UNBIND, &[])).await
    }

    async fn send(&mut self, operation: &[u8]) -> Result<(), LdapError> {
        self.last_id += 1;
        Ok(send(&mut self.stream, self.last_id, operation).await?)
    }

    async fn message(&mut self) -> Result<Message, LdapError> {
        receive(&mut self.stream, self.last_id).await
    }

    async fn receive(&mut self, expected: u8) -> Result<Vec<u8>, LdapError> {
        let Message { kind, content, .. } = self.message().await?;
        if kind == expected { Ok(content) } else { Err(LdapError::Protocol) }
    }
}

async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    id: i64,
    operation: &[u8],
) -> Result<(), io::Error> {
    let message = [ber::integer(INTEGER, id), operation.to_vec()].concat();
    stream.write_all(&ber::element(SEQUENCE, &message)).await?;
    stream.flush().await
}

/// What a directory says.
struct Message {
    kind: u8,
    content: Vec<u8>,
    /// One after another.
    controls: Vec<u8>,
}

/// Reads one message and no byte more: what follows StartTLS is the handshake's.
async fn receive(stream: &mut (impl AsyncRead + Unpin), id: i64) -> Result<Message, LdapError> {
    let mut head = [0; 6];
    stream.read_exact(&mut head[..2]).await?;
    let mut size = 2;
    while ber::length(&head[1..size]).is_none() && size < head.len() {
        stream.read_exact(&mut head[size..=size]).await?;
        size += 1;
    }
    let (length, _) = ber::length(&head[1..size]).ok_or(LdapError::Protocol)?;
    if head[0] != SEQUENCE || length > MESSAGE_BYTES {
        return Err(LdapError::Protocol);
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    let mut reader = Reader(&bytes);
    let found = reader.number(INTEGER).ok_or(LdapError::Protocol)?;
    let (kind, content) = reader.next().ok_or(LdapError::Protocol)?;
    let controls = reader.take(tag::CONTROLS).unwrap_or_default().to_vec();
    // A notice of disconnection has id 0.
    if found != id {
        return Err(LdapError::Protocol);
    }
    Ok(Message { kind, content: content.to_vec(), controls })
}

fn search_request(scope: &Scope<'_>, wanted: &[(&str, &str)], attributes: &[&str]) -> Vec<u8> {
    let equal = |(name, value): &(&str, &str)| {
        let pair = [ber::octets(name.as_bytes()), ber::octets(value.as_bytes())];
        ber::element(tag::EQUAL, &pair.concat())
    };
    let filter: Vec<u8> = wanted.iter().flat_map(equal).collect();
    let list: Vec<u8> = attributes.iter().flat_map(|name| ber::octets(name.as_bytes())).collect();
    let request = [
        ber::octets(scope.base.as_bytes()),
        // The whole tree; aliases are not followed.
        ber::integer(ENUMERATED, 2),
        ber::integer(ENUMERATED, 0),
        ber::integer(INTEGER, scope.most),
        ber::integer(INTEGER, 10),
        ber::element(BOOLEAN, &[0]),
        ber::element(tag::AND, &filter),
        ber::element(SEQUENCE, &list),
    ];
    ber::element(tag::SEARCH, &request.concat())
}

/// Where the next page begins: empty after the last. `None`: these are no pages.
fn page_cookie(controls: &[u8]) -> Option<Vec<u8>> {
    let mut controls = Reader(controls);
    while let Some(control) = controls.take(SEQUENCE) {
        let mut control = Reader(control);
        if control.take(ber::OCTETS)? != PAGED.as_bytes() {
            continue;
        }
        let (mut kind, mut value) = control.next()?;
        if kind == BOOLEAN {
            (kind, value) = control.next()?;
        }
        let mut page = Reader(Reader((kind == ber::OCTETS).then_some(value)?).take(SEQUENCE)?);
        page.number(INTEGER)?;
        return Some(page.take(ber::OCTETS)?.to_vec());
    }
    None
}

async fn start_tls(mut tcp: TcpStream) -> Result<TcpStream, LdapError> {
    let name = ber::element(tag::FIRST, START_TLS.as_bytes());
    send(&mut tcp, 1, &ber::element(tag::EXTENDED, &name)).await?;
    let Message { kind, content, .. } = receive(&mut tcp, 1).await?;
    if kind != tag::EXTENDED_DONE {
        return Err(LdapError::Protocol);
    }
    success(&content)?;
    Ok(tcp)
}

fn success(content: &[u8]) -> Result<(), LdapError> {
    match Reader(content).number(ENUMERATED) {
        Some(0) => Ok(()),
        Some(code) => Err(LdapError::Refused(code)),
        None => Err(LdapError::Protocol),
    }
}

fn entry(content: &[u8]) -> Option<Entry> {
    let mut reader = Reader(content);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let name = text(reader.take(ber::OCTETS)?)?;
    let mut list = Reader(reader.take(SEQUENCE)?);
    let mut attributes = Vec::new();
    while let Some(attribute) = list.take(SEQUENCE) {
        let mut attribute = Reader(attribute);
        let kind = text(attribute.take(ber::OCTETS)?)?;
        // A set of values.
        if let Some(value) = Reader(attribute.take(tag::SET)?).take(ber::OCTETS) {
            attributes.push((kind, value.to_vec()));
        }
    }
    Some(Entry { name, attributes })
}

/// Trusts the certificates of the settings, else those of the system.
fn connector(source: &LdapSource) -> Result<TlsConnector, LdapError> {
    let mut roots = RootCertStore::empty();
    if let Some(text) = &source.certificates {
        for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
            let certificate = certificate.map_err(|_error| LdapError::Certificates)?;
            roots.add(certificate).map_err(|_error| LdapError::Certificates)?;
        }
    } else {
        let bundles = TlsConfig::default().bundles;
        let found = bundles.iter().find_map(|path| CertificateDer::pem_file_iter(path).ok());
        roots.add_parsable_certificates(found.into_iter().flatten().filter_map(Result::ok));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_error| LdapError::Certificates)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_search_has_an_end() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let attribute = [ber::octets(b"cn"), ber::element(0x31, &ber::octets(&[b'x'; 100_000]))];
        let list = ber::element(SEQUENCE, &ber::element(SEQUENCE, &attribute.concat()));
        let entry = ber::element(tag::ENTRY, &[ber::octets(b"cn=x"), list].concat());
        let message = ber::element(SEQUENCE, &[ber::integer(INTEGER, 1), entry].concat());
        let sent = tokio::spawn(async move {
            let mut sent = 0;
            while theirs.write_all(&message).await.is_ok() {
                sent += message.len();
            }
            sent
        });
        let mut connection = Connection { stream: Box::pin(ours), last_id: 0 };
        let scope = Scope { base: "", most: 2 };
        let outcome = connection.search(&scope, &[], &["cn"]).await;
        assert!(matches!(outcome, Err(LdapError::Protocol)), "{outcome:?}");
        drop(connection);
        assert!(sent.await.unwrap() < 2 * SEARCH_BYTES, "what does not end is not read to its end");
    }

    #[test]
    fn passwords_are_not_sent_in_the_clear() {
        let is_good = |url: &str, start_tls| {
            let source = LdapSource { url: url.to_owned(), start_tls, ..LdapSource::default() };
            Address::of(&source).is_ok()
        };
        for (url, start_tls, expected) in [
            ("ldaps://ldap.acme.test", false, true),
            ("ldap://ldap.acme.test", true, true),
            ("ldap://ldap.acme.test", false, false),
            ("ldap://127.0.0.1:10389", false, true),
            ("ldap://[::1]", false, true),
            ("ldap://192.0.2.1", false, false),
            ("ldap://localhost.evil.test", false, false),
            ("http://127.0.0.1", false, false),
            ("ldap:", true, false),
            ("", true, false),
        ] {
            assert_eq!(is_good(url, start_tls), expected, "{url} {start_tls}");
        }
    }
}
