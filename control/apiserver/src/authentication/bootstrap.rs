//! Bootstrap tokens: what lets a host that has no credential yet ask for a node's.
//!
//! A token is `<id>.<secret>`, and the Secret `bootstrap-token-<id>` of type `bootstrap.kubernetes.io/token` in `kube-system` of
//! the operator's cluster, as upstream has them (KEP-130). The same Secret in a tenant's cluster is a Secret and nothing else.
//! What the holder may do is in `authorization/certificates.rs`. One that is wrong costs its source what any other credential
//! costs that is none.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use hypernetes_api::{ApiError, TenantId, auth::UserInfo, names};
use hypernetes_certificates::bootstrap_token::{self, NAMESPACE, PREFIX, TYPE};
use hypernetes_store::{Key, ResourceId, Store};
use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use serde_json::Value;

use crate::stored_form;

/// Of the text behind `system:bootstrappers:`.
const MAX_GROUP_BYTES: usize = 256;

/// Id and secret of what looks like a bootstrap token.
pub fn parts(token: &str) -> Option<(&str, &str)> {
    token.split_once('.').filter(|(id, secret)| bootstrap_token::is_one(id, secret))
}

/// Whose token it is; `None` when it is nobody's, or nobody's any more.
///
/// # Errors
/// When the store does not answer.
pub async fn authenticate(store: &Store, id: &str, secret: &str) -> Result<Option<UserInfo>, ApiError> {
    let key = Key::new(&ResourceId::new("", "secrets"), &TenantId::system(), NAMESPACE, &format!("{PREFIX}{id}"))?;
    let Some(entry) = store.get(&key).await? else { return Ok(None) };
    Ok(user(&stored_form::decode(&entry)?, id, secret, Timestamp::now()))
}

fn user(object: &Value, id: &str, secret: &str, now: Timestamp) -> Option<UserInfo> {
    let entry = |name: &str| {
        let bytes = STANDARD.decode(object["data"][name].as_str()?).ok()?;
        String::from_utf8(bytes).ok()
    };
    let live = object["type"] == TYPE && !object["metadata"]["deletionTimestamp"].is_string();
    let named = entry("token-id")? == id;
    // Digests, whose comparison tells nothing of what they are of.
    let known =
        digest(&SHA256, entry("token-secret")?.as_bytes()).as_ref() == digest(&SHA256, secret.as_bytes()).as_ref();
    let until = match entry("expiration") {
        None => true,
        Some(text) if text.is_empty() => true,
        Some(text) => text.parse::<Timestamp>().is_ok_and(|until| now < until),
    };
    let meant = entry("usage-bootstrap-authentication")? == "true";
    if !(live && named && known && until && meant) {
        return None;
    }
    let mut groups = vec![names::GROUP_BOOTSTRAPPERS.to_owned(), names::GROUP_AUTHENTICATED.to_owned()];
    groups.extend(extra_groups(&entry("auth-extra-groups").unwrap_or_default())?);
    Some(UserInfo {
        name: format!("{}{id}", names::USER_BOOTSTRAP_PREFIX),
        uid: String::new(),
        groups,
        extra: BTreeMap::new(),
        tenant: TenantId::system(),
    })
}

/// `None` where one of them is not below `system:bootstrappers:`.
fn extra_groups(text: &str) -> Option<Vec<String>> {
    let below = format!("{}:", names::GROUP_BOOTSTRAPPERS);
    let good = |group: &&str| {
        let Some(rest) = group.strip_prefix(&below) else { return false };
        let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        rest.len() <= MAX_GROUP_BYTES
            && rest.bytes().all(|b| word(b) || b == b':' || b == b'-')
            && rest.bytes().last().is_some_and(word)
    };
    let all: Vec<&str> = text.split(',').map(str::trim).filter(|group| !group.is_empty()).collect();
    all.iter().all(good).then(|| all.into_iter().map(str::to_owned).collect())
}

/// Whether somebody is known by a bootstrap token alone.
pub fn is_bootstrapper(user: &UserInfo) -> bool {
    user.tenant.is_system()
        && user.name.starts_with(names::USER_BOOTSTRAP_PREFIX)
        && user.groups.iter().any(|group| group == names::GROUP_BOOTSTRAPPERS)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(change: &[(&str, Option<&str>)]) -> Value {
        let mut data = BTreeMap::from([
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
        ]);
        for (name, value) in change {
            match value {
                Some(value) => data.insert(name, value),
                None => data.remove(name),
            };
        }
        let data: BTreeMap<_, _> = data.into_iter().map(|(name, text)| (name, STANDARD.encode(text))).collect();
        json!({"type": TYPE, "metadata": {"name": "bootstrap-token-abcdef"}, "data": data})
    }

    fn known(secret: &Value) -> Option<UserInfo> {
        user(secret, "abcdef", "0123456789abcdef", "2026-01-01T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_token_is_good_as_long_as_its_secret_says() {
        let user = known(&secret(&[])).unwrap();
        assert_eq!((user.name.as_str(), user.tenant.is_system()), ("system:bootstrap:abcdef", true));
        assert!(is_bootstrapper(&user));
        for (field, good, bad) in [
            ("expiration", Some("2026-01-01T00:00:01Z"), Some("2026-01-01T00:00:00Z")),
            ("expiration", None, Some("tomorrow")),
            ("token-id", Some("abcdef"), Some("abcdeg")),
            ("token-secret", Some("0123456789abcdef"), Some("0123456789abcdeg")),
            ("token-secret", Some("0123456789abcdef"), None),
            ("usage-bootstrap-authentication", Some("true"), Some("yes")),
            ("usage-bootstrap-authentication", Some("true"), None),
            ("auth-extra-groups", Some("system:bootstrappers:a, system:bootstrappers:b:c-d"), Some("system:masters")),
            ("auth-extra-groups", Some(""), Some("system:bootstrappers:a,system:nodes")),
            ("auth-extra-groups", None, Some("system:bootstrappers:")),
            ("auth-extra-groups", None, Some("system:bootstrappers:A")),
        ] {
            assert!(known(&secret(&[(field, good)])).is_some(), "{field} {good:?}");
            assert!(known(&secret(&[(field, bad)])).is_none(), "{field} {bad:?}");
        }
        let mut other = secret(&[]);
        other["type"] = "Opaque".into();
        assert!(known(&other).is_none());
        let mut going = secret(&[]);
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert!(known(&going).is_none());
    }

    #[test]
    fn only_what_looks_like_one_is_looked_up() {
        assert_eq!(parts("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for text in
            ["", ".", "abcdef.", "abcdef.0123456789abcdeF", "../../.0123456789abcdef", "abcdef.0123456789abcdef.x"]
        {
            assert_eq!(parts(text), None, "{text:?}");
        }
    }
}
