//! Subresources: endpoints below a resource's objects. A record lists its own, each with its name, the kind of its bodies, and
//! what is done through it. That is one of a closed set: what each writes of an object is said in `strategy`, and the API server has
//! a function for each. Routing and discovery read records; what no record has does not exist.

use crate::{
    scale::{PodSelector, Scale},
    verb::Verb,
};

/// Group, version and kind.
type Kind = (&'static str, &'static str, &'static str);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    pub name: &'static str,
    pub behaviour: Behaviour,
    /// The kind of its bodies; none: the resource's own.
    pub body: Option<Kind>,
}

/// What is done through a subresource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// The status is written.
    Status,
    /// The conditions of the status are written.
    Approval,
    /// The whole object is written, with the fields that are otherwise kept.
    Finalize,
    /// How many there are is read and written.
    Scale(Scale),
    /// A pod is given a node.
    Bind,
    /// A pod is deleted.
    Evict,
    /// A token of the object is issued.
    IssueToken,
    /// The node that a pod is on answers.
    Connect(Connection),
}

/// For what a node is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// What a container has written.
    Logs,
    Exec,
    Attach,
    PortForward,
}

const CHANGES: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];

impl Subresource {
    /// One whose bodies are the resource's own.
    pub fn new(name: &'static str, behaviour: Behaviour) -> Self {
        Self { name, behaviour, body: None }
    }

    /// One whose bodies are of another kind.
    pub fn of(name: &'static str, behaviour: Behaviour, body: Kind) -> Self {
        Self { name, behaviour, body: Some(body) }
    }

    pub fn status() -> Self {
        Self::new("status", Behaviour::Status)
    }

    pub fn scale(scale: Scale) -> Self {
        Self::of("scale", Behaviour::Scale(scale), ("autoscaling", "v1", "Scale"))
    }

    /// [`Self::scale`] as upstream's workloads have it.
    pub(crate) fn usual_scale() -> Self {
        Self::scale(Scale::usual(PodSelector::Terms("spec.selector".into())))
    }

    /// Verbs as discovery shows them: streams are opened by GET, too.
    pub fn shown_verbs(&self) -> Vec<&'static str> {
        let verbs = self.behaviour.verbs().iter().map(|verb| verb.as_str());
        verbs.chain(self.behaviour.is_stream().then_some("get")).collect()
    }
}

impl Behaviour {
    pub fn verbs(&self) -> &'static [Verb] {
        match self {
            Self::Status | Self::Approval | Self::Scale(_) => CHANGES,
            Self::Finalize => &[Verb::Update],
            Self::Bind | Self::Evict | Self::IssueToken => &[Verb::Create],
            Self::Connect(Connection::Logs) => &[Verb::Get],
            // A stream is opened by GET or POST, and both mean `create`.
            Self::Connect(Connection::Exec | Connection::Attach | Connection::PortForward) => &[Verb::Create],
        }
    }

    /// Whether what begins as a request becomes a stream in both directions.
    pub fn is_stream(&self) -> bool {
        matches!(self, Self::Connect(Connection::Exec | Connection::Attach | Connection::PortForward))
    }
}
