//! Where etcd is, as the operator says it.

use std::path::PathBuf;

/// Where etcd is and how it is spoken to.
#[derive(Debug, Clone, Default)]
pub struct Endpoints {
    /// `https://HOST:PORT` or `http://HOST:PORT`, at least one.
    pub urls: Vec<String>,
    /// File of the certificates, in PEM, that members' certificates are signed with. Needed with `https`.
    pub authority: Option<PathBuf>,
    /// Files of the certificate and the key, in PEM, that the server shows. Read anew for each connection.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// The endpoints cannot be used, whether etcd runs or not.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("no endpoint of etcd is named")]
    None,
    #[error("{0} is no endpoint of etcd: https://HOST:PORT, or http://HOST:PORT")]
    Url(String),
    #[error("{0} needs the file of etcd's authority (--etcd-cafile)")]
    NoAuthority(String),
    #[error("{path}: {why}")]
    File { path: String, why: String },
}
