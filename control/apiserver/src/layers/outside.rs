//! What is served beside the Kubernetes API on the same port: the OpenStack façades, which know their callers themselves.

use axum::{Router, body::Body, middleware::Next};
use http::Request;
use hypernetes_api::auth::Spent;
use tokio::time::Instant;

use super::panic;
use crate::{ApiServer, fairness::payer::Payer, metrics::labels::Labels};

impl ApiServer {
    /// Has all that a router serves counted as one path, what panics in it caught, and what others have worked for a tenant there
    /// charged to it.
    pub fn observe(&self, path: &'static str, router: Router) -> Router {
        let server = self.clone();
        router.layer(axum::middleware::from_fn(move |request: Request<Body>, next: Next| {
            let server = server.clone();
            async move {
                let labels = Labels::of_path(request.method().as_str(), path);
                let since = Instant::now();
                let metrics = &server.0.metrics;
                let _in_flight = metrics.in_flight(matches!(labels.verb, "GET" | "HEAD"));
                let payer = request.extensions().get::<Payer>().cloned();
                let answer = panic::caught(next.run(request)).await;
                metrics.all.answered(&labels, answer.status(), since.elapsed());
                if let Some(Spent { cost, tenant: Some(tenant) }) = answer.extensions().get()
                    && !tenant.is_system()
                {
                    let account = server.0.accounts.of(tenant);
                    // Where the connection is the tenant's, it pays by that.
                    if !payer.is_some_and(|payer| payer.is(&account)) {
                        account.pace.charge(*cost);
                    }
                }
                answer
            }
        }))
    }
}
