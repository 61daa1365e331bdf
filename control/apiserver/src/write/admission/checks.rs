//! What expressions ask of the authorizer. They are evaluated without waiting: what is not known yet is noted, found out when they are done,
//! and then they are evaluated again.

use std::collections::HashMap;

use hypernetes_api::{ApiError, auth::UserInfo, names};
use hypernetes_policy::{Attributes as Wanted, AuthorizationRequest, Authorizer, Decision};
use parking_lot::Mutex;

use super::Request;
use crate::{authorization::Attributes, request::selectors::Selector};

/// What one write's policies have asked.
#[derive(Default)]
pub struct Checks(Mutex<Known>);

#[derive(Default)]
struct Known {
    answered: HashMap<Check, Decision>,
    asked: Vec<Check>,
}

/// A question, kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Check {
    account: Option<(String, String)>,
    verb: String,
    path: Option<String>,
    /// Group, resource, subresource, namespace, name, field selector, label selector.
    of: [String; 7],
}

impl Check {
    fn of(request: &AuthorizationRequest<'_>) -> Self {
        let (path, of) = match request.of {
            Wanted::Path(path) => (Some(path.to_owned()), Default::default()),
            Wanted::Resource { group, resource, subresource, namespace, name, field_selector, label_selector } => {
                let of = [group, resource, subresource, namespace, name, field_selector, label_selector];
                (None, of.map(str::to_owned))
            }
        };
        let account = request.service_account.map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
        Self { account, verb: request.verb.to_owned(), path, of }
    }

    async fn answer(&self, request: &Request<'_>) -> Result<Decision, ApiError> {
        let [group, resource, subresource, namespace, name, fields, labels] = &self.of;
        let some = |text: &'_ String| (!text.is_empty()).then(|| text.clone());
        let (namespace, name) = (some(namespace), some(name));
        // A selector that cannot be read narrows nothing down.
        let selected = match fields.is_empty() && labels.is_empty() {
            true => None,
            false => Selector::parse(&[], labels, fields).ok(),
        };
        let wanted = Attributes {
            verb: &self.verb,
            group,
            resource,
            subresource,
            namespace: namespace.as_deref(),
            name: name.as_deref(),
            path: self.path.as_deref(),
            selected: selected.as_ref(),
            everywhere: false,
        };
        let tenant = request.call.tenant()?;
        let account = self.account.as_ref().map(|(namespace, name)| UserInfo {
            name: format!("{}{namespace}:{name}", names::USER_SERVICE_ACCOUNT_PREFIX),
            uid: String::new(),
            groups: vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{namespace}"),
                names::GROUP_AUTHENTICATED.into(),
            ],
            extra: Default::default(),
            tenant: tenant.clone(),
        });
        let user = account.as_ref().unwrap_or(&request.call.user);
        let decision = request.server.authorizer().decide(user, &tenant, &wanted).await?;
        Ok(Decision { allowed: decision.is_allowed(), reason: decision.reason(), error: None })
    }
}

impl Authorizer for Checks {
    fn authorize(&self, request: &AuthorizationRequest<'_>) -> Decision {
        let (check, mut known) = (Check::of(request), self.0.lock());
        if let Some(decision) = known.answered.get(&check) {
            return decision.clone();
        }
        known.asked.push(check);
        Decision { error: Some("not known yet".into()), ..Decision::default() }
    }
}

impl Checks {
    /// Evaluates until all is known that was asked: an expression asks two things at most, and each time it is told one more.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn settle<T>(&self, request: &Request<'_>, mut evaluate: impl FnMut() -> T) -> Result<T, ApiError> {
        loop {
            let came = evaluate();
            let asked = std::mem::take(&mut self.0.lock().asked);
            if asked.is_empty() {
                return Ok(came);
            }
            for check in asked {
                let decision = check.answer(request).await?;
                self.0.lock().answered.insert(check, decision);
            }
            request.call.pause().await;
        }
    }
}
