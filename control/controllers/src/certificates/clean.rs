//! When a request has served (upstream's csrcleaner and its times).

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};

use super::{APPROVED, DENIED, FAILED, certificate, condition};

/// After it was answered.
const ANSWERED: SignedDuration = SignedDuration::from_hours(1);
/// While nobody answers, or signs what was approved of.
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// When it goes. One whose certificate has expired goes at once.
pub(super) fn end(request: &CertificateSigningRequest) -> Timestamp {
    let created = request.metadata.creation_timestamp.as_ref().map_or_else(Timestamp::now, |time| time.0);
    let since = |condition: &CertificateSigningRequestCondition| {
        condition.last_update_time.as_ref().or(condition.last_transition_time.as_ref()).map_or(created, |time| time.0)
    };
    let after = |from: Timestamp, time| from.checked_add(time).unwrap_or(Timestamp::MAX);
    if let Some(refused) = [DENIED, FAILED].iter().find_map(|kind| condition(request, kind)) {
        return after(since(refused), ANSWERED);
    }
    match (condition(request, APPROVED), certificate(request)) {
        (Some(approved), Some(issued)) => {
            let expires = hypernetes_certificates::issue::validity(issued).map_or(Timestamp::MAX, |(_, until)| until);
            after(since(approved), ANSWERED).min(expires)
        }
        (Some(approved), None) => after(since(approved), PENDING),
        (None, _) => after(created, PENDING),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn each_goes_in_its_time() {
        let end = |status: serde_json::Value| {
            let request = json!({"metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"request": "", "signerName": "a.b/c", "usages": []}, "status": status});
            super::end(&serde_json::from_value(request).unwrap()).to_string()
        };
        let at = |kind: &str| json!([{"type": kind, "status": "True", "lastUpdateTime": "2026-01-01T12:00:00Z"}]);
        assert_eq!(end(json!({})), "2026-01-02T00:00:00Z");
        assert_eq!(end(json!({"conditions": at("Denied")})), "2026-01-01T13:00:00Z");
        assert_eq!(end(json!({"conditions": at("Failed")})), "2026-01-01T13:00:00Z");
        assert_eq!(end(json!({"conditions": at("Approved")})), "2026-01-02T12:00:00Z");
        assert_eq!(end(json!({"conditions": at("Approved"), "certificate": "eA=="})), "2026-01-01T13:00:00Z");
    }
}
