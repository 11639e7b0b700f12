//! The listener: connections, TLS, limits, health, metrics, and an end that finishes what is under way.
//!
//! ```text
//! accept ─► TLS? ─► hyper ─► /v2/ …            oci
//!      └──► front ────┘    ├ /token            auth
//!                          ├ /hooks/KEY        autobuild
//!                          ├ /healthz /readyz /metrics
//!                          ├ /api/v1/…         api
//!                          └ all else          web
//! ```

use std::{
    convert::Infallible, io, net::SocketAddr, path::PathBuf, pin::pin, sync::Arc, time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo, routing::any};
use http::{HeaderValue, Request, Response, header, request::Parts};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};
use tower::ServiceExt as _;

use crate::{
    api::{Api, Site},
    auth::{Auth, AuthError, AuthSettings, accounts::SignUpMode},
    config::{Limits, Places},
    db::{Database, DbError},
    events::Worker,
    mirror::Mirrors,
    oci::{Ending, Oci, Reply},
    registry::Registry,
    replication,
    store::{Store, StoreError},
    uploads,
    web::Web,
};

mod acme;
mod beside;
mod forwarded;
mod front;
mod health;
mod hosts;
mod metrics;
mod observe;
mod otlp;
mod pages;
mod tls;

pub use acme::{
    AcmeName, AcmeNameError, AcmeSettings, ExternalAccount, ExternalKey, ExternalKeyError,
    LETS_ENCRYPT,
};
pub use forwarded::{ForwardedHeader, Network, NetworkError, TrustedProxies};
use health::Health;
use hosts::Hosts;
pub use metrics::Metrics;
use observe::Observer;
pub(crate) use observe::request_id;
use otlp::Traces;
use pages::Pages;
use tls::Certificates;
pub use tls::{Tls, TlsError, TlsFiles};

/// Connections at once; more wait in the kernel.
const CONNECTIONS: usize = 8192;
/// How long a client may take for the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// How long a client may take for the TLS handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How long requests under way may take when the server ends.
const GRACE: Duration = Duration::from_secs(25);
/// How long they may take to end, when their bodies have been cut off.
const LAST_GRACE: Duration = Duration::from_secs(5);
/// Bytes of a request's head.
const HEAD_BYTES: usize = 64 << 10;
/// Headers of a request.
const HEADERS: usize = 100;
/// Threads that wait for the disk: each upload that is under way has one.
const DISK_THREADS: usize = 64;
/// Stack of the server's threads: address space, of which a page is memory once it is used.
const STACK_BYTES: usize = 4 << 20;

/// How a registry is served.
#[derive(Clone, Debug)]
pub struct ServeSettings {
    /// Where its things are.
    pub places: Places,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where the certificate comes from; `None` is plain HTTP.
    pub tls: Option<Tls>,
    /// Whether plain HTTP is taken from other machines.
    pub plain_http: bool,
    /// Whether callers are asked who they are.
    pub auth: bool,
    /// Who is believed for whom it asks.
    pub proxies: TrustedProxies,
    /// Base URL by which clients reach the server, where the request's `Host` is another.
    pub public_url: Option<String>,
    /// Base URL of a collector of OpenTelemetry traces (OTLP over HTTP).
    pub otlp: Option<String>,
    /// What is allowed.
    pub limits: Limits,
}

/// Why the registry cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Passwords would cross the network in the clear.
    #[error("{0} can be reached by other machines, and plain HTTP shows them passwords")]
    PlainHttp(SocketAddr),
    /// Anybody could change everything.
    #[error(
        "{0} can be reached by other machines, and without authentication they may do everything"
    )]
    NoAuth(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    /// The registry's directory cannot be made.
    #[error("cannot make `{}`", .0.display())]
    Root(PathBuf, #[source] io::Error),
    /// No threads.
    #[error("cannot start threads")]
    Threads(#[source] io::Error),
    /// The certificate or key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The keys that sign tokens, or the database.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The database.
    #[error(transparent)]
    Database(#[from] DbError),
    /// The blob store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ServeSettings {
    fn check(&self) -> Result<(), ServeError> {
        let is_loopback = self.listen.ip().is_loopback();
        if !is_loopback && self.tls.is_none() && !self.plain_http {
            return Err(ServeError::PlainHttp(self.listen));
        }
        if !is_loopback && !self.auth {
            return Err(ServeError::NoAuth(self.listen));
        }
        Ok(())
    }
}

/// Serves until `wait` returns, then lets requests end; blocks. `ready` learns the address.
///
/// # Errors
/// See [`ServeError`].
pub fn serve(
    settings: ServeSettings,
    ready: impl FnOnce(SocketAddr),
    wait: impl FnOnce() + Send + 'static,
) -> Result<(), ServeError> {
    settings.check()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(DISK_THREADS)
        .thread_stack_size(STACK_BYTES)
        .thread_name("registry")
        .build()
        .map_err(ServeError::Threads)?;
    runtime.block_on(async {
        let server = Server::start(settings).await?;
        ready(server.address());
        // Not one of the runtime's threads: the wait for a signal may be endless.
        let (asked, stop) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            wait();
            // The server may have ended by itself.
            asked.send(())
        });
        // Either it was asked, or nobody can ask any more.
        drop(stop.await);
        server.stop().await;
        Ok(())
    })
}

/// Runs a use case for a command that serves nothing; blocks.
///
/// # Errors
/// No threads.
pub fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future))
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    registry: Registry,
    stop: watch::Sender<bool>,
    /// Ends what still comes in.
    cut: watch::Sender<bool>,
    /// Sends traces; it ends when nobody makes any.
    tracing: Option<tokio::task::JoinHandle<()>>,
    accepting: tokio::task::JoinHandle<()>,
    /// Cares for the certificate; gives an attempt back when it is stopped.
    renewing: Option<tokio::task::JoinHandle<()>>,
    /// What is done beside requests.
    beside: Vec<tokio::task::JoinHandle<()>>,
}

impl Server {
    /// Opens the registry and starts to listen.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub async fn start(settings: ServeSettings) -> Result<Self, ServeError> {
        settings.check()?;
        let root = &settings.places.root;
        fs_err::create_dir_all(root).map_err(|error| ServeError::Root(root.clone(), error))?;
        let database = Database::open(&settings.places.database()).await?;
        let certificates = match &settings.tls {
            Some(tls) => Some(Certificates::open(tls, &database).await?),
            None => None,
        };
        let store = Store::open(&settings.places.store())?;
        store.probe().await?;
        let auth_settings = AuthSettings {
            is_on: settings.auth,
            public_url: settings.public_url.clone(),
            is_tls: settings.tls.is_some(),
            sign_up: usual_sign_up(settings.listen),
            ..AuthSettings::default()
        };
        let key_file = settings.places.token_keys();
        let auth = Arc::new(Auth::open(&database, &key_file, auth_settings).await?);
        let registry = Registry::new(database, store, settings.limits);
        let metrics = Arc::new(Metrics::default());
        let mirrors = Arc::new(Mirrors::new(registry.clone(), &root.join("mirror")));
        let (cut, ending) = watch::channel(false);
        let oci = Oci::new(registry.clone(), Arc::clone(&auth), Arc::clone(&metrics))
            .with_mirrors(mirrors)
            .until(Ending::new(ending));
        let listener = TcpListener::bind(settings.listen).await;
        let listener = listener.map_err(|error| ServeError::Listen(settings.listen, error))?;
        let address =
            listener.local_addr().map_err(|error| ServeError::Listen(settings.listen, error))?;
        let (stop, stopped) = watch::channel(false);
        let (tended, compared) = (Arc::clone(&auth), Arc::clone(&auth));
        let scheme = if settings.tls.is_some() { "https" } else { "http" };
        let base_url = settings.public_url.clone();
        let base_url = base_url.unwrap_or_else(|| format!("{scheme}://{address}"));
        let site = Site::new(registry.clone(), Arc::clone(&auth), stopped.clone(), &base_url);
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let (traces, tracing) = settings.otlp.as_deref().map(Traces::start).unzip();
        let health = Health::new(registry.database.clone(), pages::written(&settings.places));
        let told = Pages { registry: registry.clone(), metrics: Arc::clone(&metrics) };
        let router = pages::router(health, auth, (told, Arc::clone(&slots)));
        let router = with_site(router, &site);
        let (observer, proxies) = (Observer::new(traces), settings.proxies.clone());
        let front = Front { router, oci, observer, proxies, hosts: Hosts::new(&settings) };
        let collecting = tokio::spawn(beside::collect(site, metrics, stopped.clone()));
        let replicating = tokio::spawn(replication::run(registry.clone(), stopped.clone()));
        let telling = tokio::spawn(Worker::new(registry.clone(), &base_url).run(stopped.clone()));
        let tending = tokio::spawn(async move { tended.tend().await });
        let noting = tokio::spawn(beside::note_pulls(registry.clone()));
        let comparing = tokio::spawn(beside::compare_directories(compared));
        let beside = vec![collecting, telling, tending, noting, replicating, comparing];
        let renewing = match &certificates {
            Some(Certificates::Acme(acme)) => {
                Some(tokio::spawn(Arc::clone(acme).run(stopped.clone())))
            }
            _ => None,
        };
        let accepting = tokio::spawn(accept((listener, slots), front, certificates, stopped));
        Ok(Self { address, registry, stop, cut, tracing, accepting, renewing, beside })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The registry that it serves.
    #[must_use]
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Takes no more requests, waits for those under way, and closes the database.
    pub async fn stop(self) {
        self.stop_within(GRACE).await;
    }

    /// As [`Server::stop`]; uploads that still come in after so long end, and go on from there when
    /// the registry is served again.
    pub async fn stop_within(self, grace: Duration) {
        let mut accepting = self.accepting;
        self.stop.send_replace(true);
        if tokio::time::timeout(grace, &mut accepting).await.is_err() {
            tracing::warn!("uploads that still come in end here");
            self.cut.send_replace(true);
            if tokio::time::timeout(LAST_GRACE, &mut accepting).await.is_err() {
                tracing::warn!("requests were cut off");
                accepting.abort();
            }
        }
        // The spans that wait are sent, if the collector takes them at once; an attempt at a certificate is
        // given back.
        for last in [self.tracing, self.renewing].into_iter().flatten() {
            let _late = tokio::time::timeout(LAST_GRACE, last).await;
        }
        // What they had begun is done in the next run.
        for task in self.beside {
            task.abort();
        }
        beside::write_pulls(&self.registry).await;
        if let Err(fault) = uploads::write_all(&self.registry).await {
            let error: &dyn std::error::Error = &fault;
            tracing::warn!(error, "upload sessions without bytes were lost");
        }
        self.registry.database.close().await;
    }
}

/// Until it is set: on this machine alone everyone may sign up, elsewhere nobody.
fn usual_sign_up(listen: SocketAddr) -> SignUpMode {
    if listen.ip().is_loopback() { SignUpMode::Open } else { SignUpMode::Closed }
}

/// The API and the pages, where nothing else answers.
fn with_site(router: Router, site: &Arc<Site>) -> Router {
    let api = Api::new(Arc::clone(site));
    let web = Web::new(Arc::clone(site), api.clone());
    let api = any(move |request| {
        let api = api.clone();
        async move { api.serve(request).await }
    });
    router.route("/api/{*path}", api).fallback(move |request| {
        let web = web.clone();
        async move { web.serve(request).await }
    })
}

/// Who answers a request.
#[derive(Clone, Debug)]
struct Front {
    router: Router,
    oci: Oci,
    observer: Observer,
    proxies: TrustedProxies,
    hosts: Hosts,
}

impl Front {
    async fn answer(
        self,
        peer: SocketAddr,
        request: Request<Body>,
    ) -> Result<Response<Body>, Infallible> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path();
        if path == "/v2" || path.starts_with("/v2/") {
            return Ok(self.reply(peer, parts, body).await.into_response());
        }
        let peer = self.proxies.client(peer, &parts.headers);
        let observed = self.observer.begin(peer, &parts);
        parts.extensions.insert(ConnectInfo(peer));
        let mut response = match self.hosts.refusal(&parts) {
            Some(refusal) => refusal.into_response(),
            None => {
                let answer = self.router.oneshot(Request::from_parts(parts, body));
                observed.answer(answer).await?
            }
        };
        observed.end(response.status(), response.headers_mut());
        Ok(response)
    }

    /// Answers a request below `/v2`.
    async fn reply(&self, peer: SocketAddr, mut parts: Parts, body: Body) -> Reply {
        let peer = self.proxies.client(peer, &parts.headers);
        let observed = self.observer.begin(peer, &parts);
        parts.extensions.insert(ConnectInfo(peer));
        let mut reply = match self.hosts.refusal(&parts) {
            Some(refusal) => refusal,
            None => observed.answer(self.oci.answer(&parts, body)).await,
        };
        observed.end(reply.head.status(), reply.head.headers_mut());
        reply
    }
}

/// Takes connections until the end, then waits for those that are open.
async fn accept(
    (listener, slots): (TcpListener, Arc<Semaphore>),
    front: Front,
    certificates: Option<Certificates>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.changed() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = serve_stream(
                    (stream, peer),
                    front.clone(),
                    certificates.clone(),
                    stopped.clone(),
                );
                tokio::spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of descriptors: those that are open must end first.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    // All slots are free when no connection is open.
    let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
    drop(slots.acquire_many(all).await);
}

async fn serve_stream(
    (stream, peer): (TcpStream, SocketAddr),
    front: Front,
    certificates: Option<Certificates>,
    stopped: watch::Receiver<bool>,
) {
    // Replies are written whole: nothing is gained by waiting for more.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the connection has ended");
        return;
    }
    let Some(certificates) = certificates else {
        return front::serve(stream, peer, front, stopped).await;
    };
    match tokio::time::timeout(HANDSHAKE_TIME, certificates.accept(stream)).await {
        Ok(Ok(Some(stream))) => drop(serve_connection(stream, peer, front, stopped).await),
        Ok(Ok(None)) => {}
        Ok(Err(error)) => tracing::debug!(%error, %peer, "TLS handshake failed"),
        Err(_elapsed) => tracing::debug!(%peer, "TLS handshake took too long"),
    }
}

/// HTTP/2 tells the host apart from the headers (RFC 9113 § 8.3.1); here it is one of them.
fn with_host(mut request: Request<Body>) -> Request<Body> {
    let authority = request.uri().authority().map(|it| HeaderValue::from_str(it.as_str()));
    if let Some(Ok(host)) = authority {
        request.headers_mut().entry(header::HOST).or_insert(host);
    }
    request
}

async fn serve_connection<S>(
    stream: S,
    peer: SocketAddr,
    front: Front,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), ()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        front.clone().answer(peer, with_host(request.map(Body::new)))
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_headers(HEADERS)
        .max_buf_size(HEAD_BYTES.max(400 << 10));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX))
        .max_concurrent_streams(128)
        .keep_alive_interval(HEAD_TIME);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    outcome.map_err(|error| tracing::debug!(%error, %peer, "a connection failed"))
}
