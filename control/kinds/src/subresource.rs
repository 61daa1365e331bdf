//! Subresources: what each is called, which kind its bodies are of, and which verbs it has. Routing, discovery and the
//! dispatch of writes read this table; what is not in it does not exist.

use crate::verb::Verb;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subresource {
    Status,
    Approval,
    Scale,
    Finalize,
    Binding,
    Eviction,
    Token,
    Log,
    Exec,
    Attach,
    PortForward,
}

struct Row {
    subresource: Subresource,
    name: &'static str,
    verbs: &'static [Verb],
    /// Group, version and kind of its bodies; none: the resource's own.
    kind: Option<(&'static str, &'static str, &'static str)>,
}

const CHANGES: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];
/// A stream is opened by GET or POST, and both mean `create`.
const STREAM: &[Verb] = &[Verb::Create];

const ROWS: &[Row] = &[
    Row { subresource: Subresource::Status, name: "status", verbs: CHANGES, kind: None },
    Row { subresource: Subresource::Approval, name: "approval", verbs: CHANGES, kind: None },
    Row { subresource: Subresource::Scale, name: "scale", verbs: CHANGES, kind: Some(("autoscaling", "v1", "Scale")) },
    Row { subresource: Subresource::Finalize, name: "finalize", verbs: &[Verb::Update], kind: None },
    Row {
        subresource: Subresource::Binding,
        name: "binding",
        verbs: &[Verb::Create],
        kind: Some(("", "v1", "Binding")),
    },
    Row {
        subresource: Subresource::Eviction,
        name: "eviction",
        verbs: &[Verb::Create],
        kind: Some(("policy", "v1", "Eviction")),
    },
    Row {
        subresource: Subresource::Token,
        name: "token",
        verbs: &[Verb::Create],
        kind: Some(("authentication.k8s.io", "v1", "TokenRequest")),
    },
    Row { subresource: Subresource::Log, name: "log", verbs: &[Verb::Get], kind: None },
    Row { subresource: Subresource::Exec, name: "exec", verbs: STREAM, kind: Some(("", "v1", "PodExecOptions")) },
    Row { subresource: Subresource::Attach, name: "attach", verbs: STREAM, kind: Some(("", "v1", "PodAttachOptions")) },
    Row {
        subresource: Subresource::PortForward,
        name: "portforward",
        verbs: STREAM,
        kind: Some(("", "v1", "PodPortForwardOptions")),
    },
];

impl Subresource {
    pub fn parse(name: &str) -> Option<Self> {
        ROWS.iter().find(|row| row.name == name).map(|row| row.subresource)
    }

    fn row(self) -> Option<&'static Row> {
        ROWS.iter().find(|row| row.subresource == self)
    }

    pub fn name(self) -> &'static str {
        self.row().map_or("", |row| row.name)
    }

    pub fn verbs(self) -> &'static [Verb] {
        self.row().map_or(&[], |row| row.verbs)
    }

    /// Methods as discovery shows them: streams are opened by GET, too.
    pub fn shown_verbs(self) -> Vec<&'static str> {
        let stream = matches!(self, Self::Exec | Self::Attach | Self::PortForward);
        self.verbs().iter().map(|verb| verb.as_str()).chain(stream.then_some("get")).collect()
    }

    /// Group, version and kind of its bodies, where these are not the resource's own.
    pub fn kind(self) -> Option<(&'static str, &'static str, &'static str)> {
        self.row().and_then(|row| row.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subresource_has_one_row() {
        use Subresource::*;
        for one in [Status, Approval, Scale, Finalize, Binding, Eviction, Token, Log, Exec, Attach, PortForward] {
            assert_eq!(ROWS.iter().filter(|row| row.subresource == one).count(), 1, "{one:?}");
            assert_eq!(Subresource::parse(one.name()), Some(one));
            assert!(!one.verbs().is_empty(), "{one:?}");
        }
    }
}
