//! Whom Pod Security Standards are not for: the operator's to say, for all tenants.

use std::{collections::BTreeSet, str::FromStr};

/// Empty: they are for everybody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exemptions {
    pub namespaces: BTreeSet<String>,
    pub users: BTreeSet<String>,
    pub runtime_classes: BTreeSet<String>,
}

/// One exemption, as an operator writes it: `namespace=NAME`, `user=NAME` or `runtimeclass=NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exemption {
    Namespace(String),
    User(String),
    RuntimeClass(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an exemption is namespace=NAME, user=NAME or runtimeclass=NAME, and not {0:?}")]
pub struct NoExemption(String);

impl FromStr for Exemption {
    type Err = NoExemption;

    fn from_str(text: &str) -> Result<Self, NoExemption> {
        let of = match text.split_once('=') {
            Some((kind, name)) if !name.is_empty() => (kind, name.to_owned()),
            _ => return Err(NoExemption(text.to_owned())),
        };
        match of {
            ("namespace", name) => Ok(Self::Namespace(name)),
            ("user", name) => Ok(Self::User(name)),
            ("runtimeclass", name) => Ok(Self::RuntimeClass(name)),
            _ => Err(NoExemption(text.to_owned())),
        }
    }
}

impl FromIterator<Exemption> for Exemptions {
    fn from_iter<I: IntoIterator<Item = Exemption>>(all: I) -> Self {
        let mut exemptions = Self::default();
        for one in all {
            let _ = match one {
                Exemption::Namespace(name) => exemptions.namespaces.insert(name),
                Exemption::User(name) => exemptions.users.insert(name),
                Exemption::RuntimeClass(name) => exemptions.runtime_classes.insert(name),
            };
        }
        exemptions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exemption_is_of_one_of_three_kinds() {
        let all =
            ["namespace=kube-system", "user=ann", "user=a=b", "runtimeclass=heavy"].map(|text| text.parse().unwrap());
        let exemptions: Exemptions = all.into_iter().collect::<Exemptions>();
        assert_eq!(exemptions.users, ["a=b", "ann"].map(str::to_owned).into());
        assert_eq!((exemptions.namespaces.len(), exemptions.runtime_classes.len()), (1, 1));
        for text in ["", "namespace", "namespace=", "group=x"] {
            assert!(text.parse::<Exemption>().is_err(), "{text}");
        }
    }
}
