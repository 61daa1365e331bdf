//! What came of a question, and why.

use super::rights::Grant;

/// May they?
#[derive(Debug, Clone)]
pub enum Decision {
    /// Whatever roles there are.
    Allowed,
    /// By a binding.
    Granted(Grant),
    /// Whatever roles there are, and why.
    Denied(&'static str),
    /// Nothing allows it; which roles are bound that there are not.
    NoOpinion(Vec<String>),
}

impl Decision {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed | Self::Granted(_))
    }

    /// In upstream's words; empty where there are none.
    pub fn reason(&self) -> String {
        match self {
            Self::Allowed => String::new(),
            Self::Granted(grant) => format!("RBAC: allowed by {grant}"),
            Self::Denied(why) => (*why).to_owned(),
            Self::NoOpinion(errors) => match errors.as_slice() {
                [] => String::new(),
                [one] => format!("RBAC: {one}"),
                // As upstream lists several errors.
                many => format!("RBAC: [{}]", many.join(", ")),
            },
        }
    }
}
