//! What is put down of an image: its names, who may use it, and who has had it pulled.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{Digest, Image};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(flatten)]
    pub image: Image,
    /// Which layers' data its disk needs.
    #[serde(default)]
    pub layers: Vec<Digest>,
    /// Seconds since 1970: when it was pulled, imported, or last seen in use.
    #[serde(default)]
    pub used: u64,
    /// Of one that was added before this was put down nothing is known.
    #[serde(default)]
    pub access: Option<Access>,
    /// Who has had it pulled, with credentials or without: it is theirs to pay for.
    #[serde(default)]
    pub pulled_by: BTreeSet<String>,
}

/// Who has shown that they may have an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Access {
    /// It was imported by the host's operator, or its registry gives it to anybody.
    Everybody,
    /// It was pulled with credentials, for these.
    Pullers(BTreeSet<String>),
}

/// How an image that is added is found, and by whom.
pub(crate) struct KnownAs {
    pub tags: Vec<String>,
    pub digests: Vec<String>,
    pub access: Access,
    pub pulled_by: BTreeSet<String>,
}

impl Access {
    pub fn merge(self, other: Self) -> Self {
        match (self, other) {
            (Self::Pullers(mut some), Self::Pullers(more)) => {
                some.extend(more);
                Self::Pullers(some)
            }
            _ => Self::Everybody,
        }
    }
}

impl Record {
    /// What is not known of an image means no.
    pub fn may_be_used_by(&self, puller: &str) -> bool {
        match &self.access {
            Some(Access::Everybody) => true,
            Some(Access::Pullers(pullers)) => pullers.contains(puller),
            None => false,
        }
    }

    pub fn forget(&mut self, puller: &str) {
        self.pulled_by.remove(puller);
        if let Some(Access::Pullers(pullers)) = &mut self.access {
            pullers.remove(puller);
        }
    }

    /// Of before this was put down: what the operator has imported is from no registry; others are asked for again.
    pub fn complete(&mut self, imported: impl Fn(&Digest) -> bool) {
        let access = self.access.get_or_insert_with(|| match self.layers.iter().all(imported) {
            true => Access::Everybody,
            false => Access::Pullers(BTreeSet::new()),
        });
        if let Access::Pullers(pullers) = access {
            self.pulled_by.extend(pullers.iter().cloned());
        }
    }
}
