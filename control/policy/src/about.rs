//! What a request is about, as rules of admission see it.

use serde_json::{Value, json};

/// The names by which a request is matched, and its objects.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    pub operation: &'a str,
    /// In the version in which it is asked for.
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    /// The plural.
    pub resource: &'a str,
    pub subresource: &'a str,
    /// Empty where the server makes it.
    pub name: &'a str,
    /// Of a `Namespace`: its own name. Empty for what is in none.
    pub namespace: &'a str,
    /// `null` where there is none.
    pub object: &'a Value,
    pub old: &'a Value,
}

/// The group, version and kind in which a rule has matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matched<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
}

/// The rest of an `AdmissionRequest`.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// As `UserInfo`.
    pub user: &'a Value,
    pub dry_run: bool,
    /// `CreateOptions` and so on.
    pub options: &'a Value,
}

impl<'a> About<'a> {
    pub fn as_asked(&self) -> Matched<'a> {
        Matched { group: self.group, version: self.version, kind: self.kind }
    }

    /// Whether it is about a namespace itself.
    pub fn is_namespace(&self) -> bool {
        self.group.is_empty() && self.resource == "namespaces"
    }

    /// An `AdmissionRequest` without uid and objects.
    pub fn request(&self, matched: Matched<'_>, request: Request<'_>) -> Value {
        let resource =
            |group: &str, version: &str| json!({"group": group, "version": version, "resource": self.resource});
        let mut sent = json!({
            "kind": {"group": matched.group, "version": matched.version, "kind": matched.kind},
            "resource": resource(matched.group, matched.version),
            "requestKind": {"group": self.group, "version": self.version, "kind": self.kind},
            "requestResource": resource(self.group, self.version),
            "operation": self.operation,
            "userInfo": request.user,
            "dryRun": request.dry_run,
            "options": request.options,
        });
        let some = [
            ("name", self.name),
            ("namespace", self.namespace),
            ("subResource", self.subresource),
            ("requestSubResource", self.subresource),
        ];
        for (field, value) in some.into_iter().filter(|(_, value)| !value.is_empty()) {
            sent[field] = value.into();
        }
        sent
    }
}
