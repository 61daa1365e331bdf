//! What tenants are told of this node: not where its files are.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// Stands for a path of the node.
const HIDDEN: &str = "(a path of the node)";

/// The node's own directories: paths below them are left out of what tenants read.
#[derive(Debug, Clone, Default)]
pub struct Redact(Vec<String>);

impl Redact {
    /// `directories`: those that are a directory's own, such as the kubelet's and the runtime's.
    pub fn new(directories: impl IntoIterator<Item = PathBuf>) -> Self {
        let long = |path: &Path| path.is_absolute() && path.components().count() > 1;
        let texts = directories.into_iter().filter(|path| long(path)).map(|path| path.display().to_string());
        Self(texts.collect())
    }

    /// The text with every path below the node's directories replaced.
    pub fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for directory in &self.0 {
            let mut out = String::with_capacity(text.len());
            let mut rest = text.as_str();
            while let Some(at) = rest.find(directory.as_str()) {
                out.push_str(&rest[..at]);
                out.push_str(HIDDEN);
                let after = &rest[at + directory.len()..];
                let end =
                    after.find(|c: char| c.is_whitespace() || "\"'`,;:()[]{}<>".contains(c)).unwrap_or(after.len());
                rest = &after[end..];
            }
            out.push_str(rest);
            text = out;
        }
        text
    }

    /// As [`Redact::clean`], of all that tenants read of a status.
    pub fn clean_status(&self, status: &mut Value) {
        match status {
            Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| match value {
                Value::String(text) if key == "message" => *text = self.clean(text),
                other => self.clean_status(other),
            }),
            Value::Array(items) => items.iter_mut().for_each(|item| self.clean_status(item)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_node_are_left_out() {
        let redact = Redact::new(["/srv/data/node".into(), "/srv/data/hyperd".into(), "/".into()]);
        for (text, clean) in [
            ("reading /srv/data/node/pods/u/volumes/x: denied", "reading (a path of the node): denied"),
            ("\"/srv/data/hyperd/a\" and /srv/data/node", "\"(a path of the node)\" and (a path of the node)"),
            ("exec: /bin/sh: not found", "exec: /bin/sh: not found"),
            ("", ""),
        ] {
            assert_eq!(redact.clean(text), clean);
        }
    }
}
