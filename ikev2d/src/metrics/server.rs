// SPDX-License-Identifier: Apache-2.0 OR MIT
//! HTTP for whoever scrapes.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Snapshot, encode};
use crate::config::MetricsListen;

/// A scrape for the daemon's task.
pub(crate) type Scrape = oneshot::Sender<Snapshot>;

/// What OpenMetrics 1.0 is sent as.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How long one scrape may take, its request and all.
const DEADLINE: Duration = Duration::from_secs(10);
/// Scrapes at once.
const CLIENTS: usize = 4;

/// Answers scrapes for ever, in tasks of its own.
pub(crate) fn start(listen: &MetricsListen, scrapes: mpsc::Sender<Scrape>) -> anyhow::Result<()> {
    match listen {
        MetricsListen::Loopback(address) => {
            let listener = std::net::TcpListener::bind(address)
                .with_context(|| format!("daemon.metrics.listen = \"{address}\""))?;
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            tokio::spawn(serve(scrapes, async move || {
                listener.accept().await.map(|(stream, _)| stream)
            }));
        }
        MetricsListen::Unix(path) => {
            // Nobody else answers there, or binding would replace it.
            if std::os::unix::net::UnixStream::connect(path).is_err() {
                let _ = std::fs::remove_file(path);
            }
            let listener = UnixListener::bind(path)
                .with_context(|| format!("daemon.metrics.listen = \"unix:{}\"", path.display()))?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
            tokio::spawn(serve(scrapes, async move || {
                listener.accept().await.map(|(stream, _)| stream)
            }));
        }
    }
    Ok(())
}

async fn serve<S>(scrapes: mpsc::Sender<Scrape>, accept: impl AsyncFn() -> io::Result<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CLIENTS));
    // One that is closed is the end of the daemon.
    while let Ok(place) = places.clone().acquire_owned().await {
        let Ok(stream) = accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let scrapes = scrapes.clone();
        tokio::spawn(async move {
            let _place = place;
            let answer = |request| answer(request, scrapes.clone());
            let connection = hyper::server::conn::http1::Builder::new()
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), hyper::service::service_fn(answer));
            match tokio::time::timeout(DEADLINE, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "metrics"),
                Err(_) => tracing::debug!("who asked for metrics took too long"),
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    scrapes: mpsc::Sender<Scrape>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let plain = |status, text: &'static str| {
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != "/metrics" {
        return Ok(plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n"));
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET\n");
        let get = hyper::header::HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, get);
        return Ok(response);
    }
    let (asked, answered) = oneshot::channel();
    let text = async {
        scrapes.send(asked).await.ok()?;
        let snapshot = answered.await.ok()?;
        // A device may take its time.
        let text = tokio::task::spawn_blocking(move || encode::text(snapshot)).await;
        text.ok()?.ok()
    };
    Ok(match text.await {
        Some(text) => {
            let mut response = Response::new(Full::from(text));
            let kind = hyper::header::HeaderValue::from_static(OPENMETRICS);
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        None => plain(StatusCode::SERVICE_UNAVAILABLE, "the daemon ends\n"),
    })
}
