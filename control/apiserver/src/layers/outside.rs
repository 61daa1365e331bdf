//! What is served beside the Kubernetes API on the same port: the OpenStack façades, which know their callers themselves.

use axum::{Router, body::Body, middleware::Next};
use http::Request;
use tokio::time::Instant;

use super::panic;
use crate::{ApiServer, metrics::labels::Labels};

impl ApiServer {
    /// Has all that a router serves counted as one path, and what panics in it caught.
    pub fn observe(&self, path: &'static str, router: Router) -> Router {
        let server = self.clone();
        router.layer(axum::middleware::from_fn(move |request: Request<Body>, next: Next| {
            let server = server.clone();
            async move {
                let labels = Labels::of_path(request.method().as_str(), path);
                let since = Instant::now();
                let metrics = &server.0.metrics;
                let _in_flight = metrics.in_flight(matches!(labels.verb, "GET" | "HEAD"));
                let answer = panic::caught(next.run(request)).await;
                metrics.all.answered(&labels, answer.status(), since.elapsed());
                answer
            }
        }))
    }
}
