//! What is served beside the Kubernetes API on the same port: the OpenStack façades, which know their callers themselves.

use axum::{Router, body::Body, middleware::Next};
use http::Request;
use hypernetes_api::auth::{Asking, Spent};
use tokio::time::Instant;

use super::{audit::Beside, panic};
use crate::{ApiServer, authentication, fairness::payer::Payer, metrics::labels::Labels};

impl ApiServer {
    /// Has all that a router serves recorded and counted, as one path, what panics in it caught, and what others have worked for a tenant
    /// there charged to it. Who asks is said by the router's service ([`Asking`]).
    pub fn observe(&self, path: &'static str, router: Router) -> Router {
        let server = self.clone();
        router.layer(axum::middleware::from_fn(move |mut request: Request<Body>, next: Next| {
            let server = server.clone();
            async move {
                let labels = Labels::of_path(request.method().as_str(), path);
                let since = Instant::now();
                let metrics = &server.0.metrics;
                let _in_flight = metrics.in_flight(matches!(labels.verb, "GET" | "HEAD"));
                let payer = request.extensions().get::<Payer>().cloned();
                let asking = Asking::default();
                request.extensions_mut().insert(asking.clone());
                // A router may have been put below its path, which it does not see then.
                let below = request.uri().path().strip_prefix(path).unwrap_or(request.uri().path());
                let record = Beside::begin(&server.0, &request, format!("{path}{below}"), &asking);
                let answer = panic::caught(next.run(request)).await;
                if let Some(record) = record {
                    record.answered(answer.status());
                }
                metrics.all.answered(&labels, answer.status(), since.elapsed());
                if let Some(tenant) = asking.token().map(|token| authentication::named(token).tenant)
                    && !tenant.is_system()
                {
                    server.0.accounts.of(&tenant).counts.answered(&labels, answer.status(), since.elapsed());
                }
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
