use std::{io, path::PathBuf};

/// What can go wrong on a host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("network namespace {name}: {operation}: {source}")]
    Namespace { name: String, operation: &'static str, source: io::Error },
    #[error("interface {interface}: {operation}: {source}")]
    Interface { interface: String, operation: &'static str, source: rtnetlink::Error },
    #[error("packet filter: {0}")]
    Filter(String),
    #[error("record {path}: {source}")]
    Record { path: PathBuf, source: io::Error },
    #[error("socket {path}: {source}")]
    Socket { path: PathBuf, source: io::Error },
    /// The first twelve digits of two identifiers are the same.
    #[error("the name {0} is taken by another network or port")]
    NameTaken(String),
    #[error("{0:?} is not the identifier of an object")]
    InvalidUid(String),
}
