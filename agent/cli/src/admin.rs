//! The admin port: `/livez`, `/readyz`, `/metrics`, `/version`. HTTP/1, for probes and scrapers, not for clients.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::failure::{Exit, Failure};

/// What the admin port tells about an agent.
pub trait Status: Send + Sync + 'static {
    /// Why the agent should get no requests now; empty if it should.
    fn unready(&self) -> Vec<String>;
    /// The metrics in Prometheus text format.
    fn metrics(&self) -> String;
}

/// A bound admin port.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    reasons: Vec<String>,
}

impl Admin {
    /// Binds the port, so that a taken one is found before anything is started.
    pub async fn bind(address: SocketAddr) -> Result<Self, Failure> {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            Failure::new(
                Exit::Conflict,
                format!("cannot listen on {address}: {error}; choose another with --admin-listen"),
            )
        })?;
        Ok(Self { listener })
    }

    /// The address that it is bound to.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Serves until `cancel`.
    pub async fn run(self, status: Arc<dyn Status>, cancel: CancellationToken) -> std::io::Result<()> {
        let routes = Router::new()
            // The process runs its event loop; nothing else, or an outage of a store would restart the fleet.
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .route("/version", get(|| async { concat!(env!("CARGO_PKG_VERSION"), "\n") }))
            .with_state(status);
        axum::serve(self.listener, routes).with_graceful_shutdown(cancel.cancelled_owned()).await
    }
}

async fn readyz(
    State(status): State<Arc<dyn Status>>,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    let reasons = status.unready();
    let code = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if query.iter().any(|(key, _)| key == "verbose") {
        let readiness = Readiness { ready: reasons.is_empty(), reasons };
        let body = serde_json::to_string(&readiness).unwrap_or_default();
        return (code, [(header::CONTENT_TYPE, "application/json")], body).into_response();
    }
    let text = if reasons.is_empty() { "ready\n".to_owned() } else { format!("{}\n", reasons.join("; ")) };
    (code, text).into_response()
}

async fn metrics(State(status): State<Arc<dyn Status>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], status.metrics()).into_response()
}
