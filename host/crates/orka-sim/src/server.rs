//! The HTTP side: connections, recording, faults, and which API answers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::Cluster;
use crate::fault::{FaultAction, delay_after, delay_before, parse_faults};
use crate::reply::{Content, Reply, WireBody, weak_etag};
use crate::request::Request;
use crate::snapshot::RequestRecord;
use crate::{v2, v3};

/// Largest body read; larger ones end the connection. Well above what the APIs take.
const BODY_BYTES_MAX: usize = 16 << 20;

/// Between the first half of a broken body and the close, so that the half is really sent.
pub(crate) const HALF_BODY_PAUSE: Duration = Duration::from_millis(20);

/// Between tries to open a port again.
const REOPEN_PAUSE: Duration = Duration::from_millis(5);

/// The paths of the simulator itself.
const SIM_PREFIX: &str = "/_sim/";

/// What a request comes to on the wire.
enum Outcome {
    Answer(Box<Response<WireBody>>),
    Close,
    Reset,
    Hang,
}

/// An error the HTTP server cannot answer: it closes the connection.
#[derive(Debug, thiserror::Error)]
enum Ending {
    #[error("the connection is closed on purpose")]
    Close,
    #[error("the connection is reset on purpose")]
    Reset,
}

/// Accepts connections until the power goes, and then ends all of them.
pub(crate) async fn serve(
    cluster: Arc<Cluster>,
    mut listener: TcpListener,
    tls: Option<TlsAcceptor>,
    power: CancellationToken,
) {
    let tracker = TaskTracker::new();
    let mut outages = cluster.outages.subscribe();
    let mut connections = power.child_token();
    loop {
        let accepted = tokio::select! {
            () = power.cancelled() => break,
            Ok(()) = outages.changed() => None,
            accepted = listener.accept() => Some(accepted),
        };
        let Some(accepted) = accepted else {
            std::mem::replace(&mut connections, power.child_token()).cancel();
            let (address, length) = (listener.local_addr(), *outages.borrow_and_update());
            drop(listener);
            listener = tokio::select! {
                () = power.cancelled() => return tracker_ends(tracker).await,
                reopened = reopen(address, length) => reopened,
            };
            continue;
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(
                    Arc::clone(&cluster),
                    stream,
                    tls.clone(),
                    connections.clone(),
                );
                tracker.spawn(connection);
            }
            Err(error) => tracing::warn!(%error, "a connection could not be accepted"),
        }
    }
    drop(listener);
    tracker_ends(tracker).await;
}

async fn tracker_ends(tracker: TaskTracker) {
    tracker.close();
    tracker.wait().await;
}

/// Opens a port again after some time, as soon as it is free.
async fn reopen(address: io::Result<std::net::SocketAddr>, closed_for: Duration) -> TcpListener {
    tokio::time::sleep(closed_for).await;
    loop {
        let opened = match &address {
            Ok(address) => TcpListener::bind(address).await,
            Err(error) => Err(io::Error::from(error.kind())),
        };
        match opened {
            Ok(listener) => return listener,
            // Some client may have been given the port meanwhile, and will give it back.
            Err(error) => tracing::debug!(%error, "the port cannot be opened again yet"),
        }
        tokio::time::sleep(REOPEN_PAUSE).await;
    }
}

async fn connection(
    cluster: Arc<Cluster>,
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    power: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let address = stream
        .local_addr()
        .map(|address| address.to_string())
        .unwrap_or_default();
    let Some(tls) = tls else {
        let local = format!("http://{address}");
        return speak_http(cluster, stream, local, power, |stream| stream).await;
    };
    let accepted = tokio::select! {
        accepted = tls.accept(stream) => accepted,
        () = power.cancelled() => return,
    };
    match accepted {
        Ok(stream) => {
            let local = format!("https://{address}");
            speak_http(cluster, stream, local, power, |stream| stream.get_ref().0).await;
        }
        // What a client does that does not trust the certificate.
        Err(error) => tracing::debug!(%error, "no TLS session"),
    }
}

/// Serves one connection; `tcp` finds the socket in the stream.
async fn speak_http<S>(
    cluster: Arc<Cluster>,
    stream: S,
    local: String,
    power: CancellationToken,
    tcp: impl Fn(&S) -> &TcpStream,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let (cluster, local) = (Arc::clone(&cluster), local.clone());
        async move { respond(cluster, request, &local).await }
    });
    let mut connection = http1::Builder::new()
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    let outcome = tokio::select! {
        outcome = &mut connection => outcome,
        () = power.cancelled() => return,
    };
    if let Err(error) = outcome
        && caused_by_reset(&error)
        && let Err(error) = tcp(connection.into_parts().io.inner()).set_zero_linger()
    {
        tracing::debug!(%error, "connection is closed instead of reset");
    }
}

fn caused_by_reset(error: &hyper::Error) -> bool {
    let ending =
        std::error::Error::source(error).and_then(|source| source.downcast_ref::<Ending>());
    matches!(ending, Some(Ending::Reset))
}

async fn respond(
    cluster: Arc<Cluster>,
    request: hyper::Request<Incoming>,
    local: &str,
) -> Result<Response<WireBody>, Ending> {
    let request = read(request, local).await.map_err(|_| Ending::Close)?;
    // The work goes on when the client goes away, as it does on a real server.
    let work = tokio::spawn(async move { handle(&cluster, request).await });
    match work.await {
        Ok(Outcome::Answer(response)) => Ok(*response),
        Ok(Outcome::Reset) => Err(Ending::Reset),
        Ok(Outcome::Hang) => std::future::pending().await,
        Ok(Outcome::Close) | Err(_) => Err(Ending::Close),
    }
}

async fn read(request: hyper::Request<Incoming>, local: &str) -> io::Result<Request> {
    let (parts, mut body) = request.into_parts();
    let mut bytes = Vec::new();
    while let Some(frame) =
        std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await
    {
        if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > BODY_BYTES_MAX {
            return Err(io::Error::other("the body is too large"));
        }
    }
    let scheme = local.split_once("://").map_or("http", |(scheme, _)| scheme);
    let host = parts
        .headers
        .get("host")
        .and_then(|host| host.to_str().ok());
    Ok(Request {
        base: host.map_or_else(|| local.to_owned(), |host| format!("{scheme}://{host}")),
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().map(str::to_owned),
        headers: parts.headers,
        body: bytes,
    })
}

async fn handle(cluster: &Arc<Cluster>, request: Request) -> Outcome {
    if request.path.starts_with(SIM_PREFIX) {
        let reply = sim_call(cluster, &request);
        let bytes = reply.bytes();
        return answer(&request, &reply, WireBody::whole(bytes));
    }
    let number = record(cluster, &request);
    let actions = cluster
        .lock()
        .faults
        .strike(request.method.as_str(), &request.path);
    let outcome = with_faults(cluster, &request, &actions).await;
    if let Outcome::Answer(response) = &outcome
        && let Some(record) = cluster.lock().requests.get_mut(number)
    {
        record.status = Some(response.status().as_u16());
    }
    outcome
}

/// Writes the request down; returns its place.
fn record(cluster: &Cluster, request: &Request) -> usize {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = request
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), text(value)));
    let headers = headers.collect();
    let at_ms = u64::try_from(cluster.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut inner = cluster.lock();
    let place = inner.requests.len();
    inner.requests.push(RequestRecord {
        number: place as u64 + 1,
        method: request.method.to_string(),
        path: request.path.clone(),
        query: request.query.clone(),
        headers,
        body: String::from_utf8_lossy(&request.body).into_owned(),
        status: None,
        at_ms,
    });
    place
}

async fn with_faults(
    cluster: &Arc<Cluster>,
    request: &Request,
    actions: &[FaultAction],
) -> Outcome {
    pause(delay_before(actions)).await;
    for action in actions {
        if let Some(outcome) = instead(cluster, request, action) {
            return outcome;
        }
    }
    let mut reply = route(cluster, request, actions).await;
    for action in actions {
        edit(&mut reply, action);
    }
    pause(delay_after(actions)).await;
    let bytes = reply.bytes();
    for action in actions {
        match action {
            FaultAction::CloseAfter => return Outcome::Close,
            FaultAction::ResetAfter => return Outcome::Reset,
            FaultAction::HalfBody => {
                return answer(request, &reply, WireBody::half(bytes, HALF_BODY_PAUSE));
            }
            FaultAction::SlowDrip { bytes: piece, ms } => {
                return answer(
                    request,
                    &reply,
                    WireBody::drip(bytes, *piece, Duration::from_millis(*ms)),
                );
            }
            _ => {}
        }
    }
    answer(request, &reply, WireBody::whole(bytes))
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

/// The outcome of an action that replaces the work.
fn instead(cluster: &Cluster, request: &Request, action: &FaultAction) -> Option<Outcome> {
    let reply = match action {
        FaultAction::Reply {
            status,
            body,
            content_type,
            headers,
        } => {
            let kind = content_type
                .as_deref()
                .unwrap_or("application/json; charset=utf-8");
            let mut reply = if body.is_empty() {
                Reply::empty(*status)
            } else {
                Reply::text(*status, kind, body.clone())
            };
            reply.headers.clone_from(headers);
            reply
        }
        FaultAction::Error { status, message } => error_reply(request, *status, message),
        FaultAction::Unauthorized => error_reply(request, 401, unauthorized_text(request)),
        FaultAction::RateLimit { retry_after } => {
            let reply = error_reply(request, 429, "Too many requests, please try again later.");
            match retry_after {
                Some(seconds) => reply.with_header("Retry-After", seconds.to_string()),
                None => reply,
            }
        }
        FaultAction::HtmlPage { status } => Reply::text(*status, "text/html", proxy_page(*status)),
        FaultAction::EmptyOk => Reply::empty(200),
        FaultAction::Garbage => Reply::text(
            200,
            "application/json; charset=utf-8",
            "{\"message\": <!garbage\u{0}",
        ),
        FaultAction::Redirect { location, status } => {
            Reply::empty(*status).with_header("Location", location.clone())
        }
        FaultAction::CloseBefore => return Some(Outcome::Close),
        FaultAction::ResetBefore => return Some(Outcome::Reset),
        FaultAction::Hang => return Some(Outcome::Hang),
        FaultAction::RevokeToken => {
            revoke(cluster, request);
            return None;
        }
        _ => return None,
    };
    let bytes = reply.bytes();
    Some(answer(request, &reply, WireBody::whole(bytes)))
}

/// Ends the token of a request, as another holder of it would.
fn revoke(cluster: &Cluster, request: &Request) {
    let token = request.bearer().unwrap_or_default();
    let mut inner = cluster.lock();
    inner
        .user_tokens
        .iter_mut()
        .filter(|known| known.value == token)
        .for_each(|known| known.revoked = true);
    inner.sa_tokens.retain(|known| known.spec.token != token);
}

/// Whether a path belongs to the 3.x API.
fn is_three(request: &Request) -> bool {
    request.path == "/api" || request.path.starts_with("/api/")
}

fn error_reply(request: &Request, status: u16, message: &str) -> Reply {
    if is_three(request) {
        v3::status_object(status, message)
    } else {
        v2::fail(status, message)
    }
}

fn unauthorized_text(request: &Request) -> &'static str {
    if is_three(request) {
        "Unauthorized"
    } else {
        "invalid signature"
    }
}

/// The page of a reverse proxy in front of the service.
fn proxy_page(status: u16) -> String {
    let reason = http::StatusCode::from_u16(status)
        .ok()
        .and_then(|code| code.canonical_reason())
        .unwrap_or("Error");
    format!(
        "<html>\r\n<head><title>{status} {reason}</title></head>\r\n<body>\r\n<center><h1>{status} {reason}</h1></center>\r\n\
         <hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
}

/// Changes an answer as its faults say.
fn edit(reply: &mut Reply, action: &FaultAction) {
    match action {
        FaultAction::EditReply {
            set,
            remove,
            status,
        } => {
            if let Content::Json(Value::Object(members)) = &mut reply.content {
                members.extend(set.clone());
                members.retain(|name, _| !remove.contains(name));
            }
            reply.status = status.unwrap_or(reply.status);
        }
        FaultAction::UnknownMembers => {
            if let Content::Json(value) = &mut reply.content {
                add_unknown(value);
            }
        }
        _ => {}
    }
}

fn add_unknown(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.values_mut().for_each(add_unknown);
            members.insert(
                "x_unknown".to_owned(),
                json!({ "nested": [1, null, "text"] }),
            );
            members.insert("x_null".to_owned(), Value::Null);
        }
        Value::Array(items) => items.iter_mut().for_each(add_unknown),
        _ => {}
    }
}

async fn route(cluster: &Arc<Cluster>, request: &Request, actions: &[FaultAction]) -> Reply {
    let generation = cluster.config.generation;
    if generation.serves_three()
        && is_three(request)
        && let Some(reply) = v3::answer(cluster, request, actions).await
    {
        return reply;
    }
    if generation.serves_two()
        && !is_three(request)
        && let Some(reply) = v2::answer(cluster, request, actions).await
    {
        return reply;
    }
    if generation.serves_two() && !(is_three(request) && generation.serves_three()) {
        Reply::express_not_found(request.method.as_str(), &request.path)
    } else {
        Reply::text(404, "text/plain; charset=utf-8", "404 page not found\n")
    }
}

/// Puts status, headers and body together. Express headers belong to the 2.x API only.
fn answer(request: &Request, reply: &Reply, body: WireBody) -> Outcome {
    let mut response = Response::builder().status(reply.status);
    if !is_three(request) {
        let bytes = reply.bytes();
        response = response
            .header("X-Powered-By", "Express")
            .header("Access-Control-Allow-Origin", "*");
        if !bytes.is_empty() {
            response = response.header("ETag", weak_etag(&bytes));
        }
    }
    if let Some(kind) = reply.content_type() {
        response = response.header("Content-Type", kind);
    }
    for (name, value) in &reply.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            response = response.header(name, value);
        }
    }
    response.body(body).map_or(Outcome::Close, |response| {
        Outcome::Answer(Box::new(response))
    })
}

/// The simulator's own paths: its state and its faults.
fn sim_call(cluster: &Cluster, request: &Request) -> Reply {
    let path = request.path.strip_prefix(SIM_PREFIX).unwrap_or_default();
    match (&request.method, path) {
        (&Method::GET, "state") => match serde_json::to_value(cluster.snapshot()) {
            Ok(state) => Reply::json(200, state),
            Err(error) => Reply::json(500, json!({ "error": error.to_string() })),
        },
        (&Method::GET, "faults") => Reply::json(200, json!(cluster.lock().faults.rules())),
        (&Method::DELETE, "faults") => {
            cluster.lock().faults.clear();
            Reply::json(200, json!([]))
        }
        (&Method::POST, "faults") => match parse_faults(&String::from_utf8_lossy(&request.body)) {
            Ok(rules) => {
                let mut inner = cluster.lock();
                rules.into_iter().for_each(|rule| inner.faults.add(rule));
                Reply::json(200, json!(inner.faults.rules()))
            }
            Err(error) => Reply::json(400, json!({ "error": error_chain(&error) })),
        },
        _ => Reply::json(404, json!({ "error": "the simulator has no such path" })),
    }
}

/// An error with its causes, on one line.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
