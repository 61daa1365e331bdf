//! The built-in signers (`spec.signerName`): for whom each signs, and what of a request becomes a certificate.
//!
//! A certificate is made anew of what is named here and nothing else of the request: whatever a request says besides makes
//! it fail, so that nobody has a certificate that says less than they think.

use std::net::IpAddr;

use hypernetes_api::{TenantId, names};

use crate::request::SigningRequest;

/// A signer that the system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signer {
    /// Users of the API.
    ApiserverClient,
    /// Nodes, as users of the API.
    ApiserverClientKubelet,
    /// Nodes' kubelets, as the API server calls them.
    KubeletServing,
}

/// What no signer of ours signs, and upstream's API no longer takes.
pub const LEGACY: &str = "kubernetes.io/legacy-unknown";

const SIGNERS: [(Signer, &str); 3] = [
    (Signer::ApiserverClient, "kubernetes.io/kube-apiserver-client"),
    (Signer::ApiserverClientKubelet, "kubernetes.io/kube-apiserver-client-kubelet"),
    (Signer::KubeletServing, "kubernetes.io/kubelet-serving"),
];

const DIGITAL_SIGNATURE: &str = "digital signature";
const KEY_ENCIPHERMENT: &str = "key encipherment";
const CLIENT_AUTH: &str = "client auth";
const SERVER_AUTH: &str = "server auth";

/// A certificate as a signer gives it, without its key and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// Of a server; else of a client.
    pub server: bool,
    pub key_encipherment: bool,
}

/// What a signer does not sign. Of nodes' requests the words are upstream's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("subject organization is not system:nodes")]
    NotNodes,
    #[error("subject common name does not begin with system:node: ")]
    NotNode,
    #[error("DNS or IP subjectAltName is required")]
    NoNames,
    #[error("DNS subjectAltNames are not allowed")]
    Dns,
    #[error("IP subjectAltNames are not allowed")]
    Addresses,
    #[error("Email subjectAltNames are not allowed")]
    Emails,
    #[error("URI subjectAltNames are not allowed")]
    Uris,
    #[error("subjectAltNames other than DNS names and IP addresses are not allowed")]
    OtherNames,
    #[error("the subject has to have exactly one common name, and nothing but that and organizations")]
    Subject,
    #[error("use of {signer} signer with {what} is not allowed")]
    Reserved { signer: &'static str, what: String },
    #[error("usages did not match [{0}]")]
    Usages(&'static str),
    #[error("nodes are the operator's: no cluster but the system's has any")]
    NotHere,
}

impl Signer {
    pub fn parse(name: &str) -> Option<Self> {
        SIGNERS.iter().find(|(_, known)| *known == name).map(|(signer, _)| *signer)
    }

    pub fn name(self) -> &'static str {
        SIGNERS.iter().find(|(signer, _)| *signer == self).map_or("", |(_, name)| name)
    }

    /// What a request gets in a tenant's cluster, the system's own included.
    ///
    /// # Errors
    /// What of it is not this signer's to sign.
    pub fn grant(self, request: &SigningRequest, usages: &[String], tenant: &TenantId) -> Result<Grant, Refusal> {
        if self != Self::ApiserverClient && !tenant.is_system() {
            return Err(Refusal::NotHere);
        }
        match self {
            Self::ApiserverClient => {
                restrict_subject(request, tenant)?;
                self.check_names(request, tenant)?;
                let known = [DIGITAL_SIGNATURE, KEY_ENCIPHERMENT, CLIENT_AUTH];
                if !usages.iter().all(|usage| known.contains(&usage.as_str())) || !has(usages, CLIENT_AUTH) {
                    return Err(Refusal::Usages("client auth, and perhaps digital signature and key encipherment"));
                }
            }
            Self::ApiserverClientKubelet => {
                check_node(request)?;
                self.check_names(request, tenant)?;
                exactly(usages, CLIENT_AUTH).then_some(()).ok_or(Refusal::Usages("digital signature, client auth"))?;
            }
            Self::KubeletServing => {
                check_node(request)?;
                if request.dns.is_empty() && request.addresses.is_empty() {
                    return Err(Refusal::NoNames);
                }
                self.check_names(request, tenant)?;
                exactly(usages, SERVER_AUTH).then_some(()).ok_or(Refusal::Usages("digital signature, server auth"))?;
            }
        }
        let common_name = only_name(request)?;
        Ok(Grant {
            common_name: common_name.to_owned(),
            organizations: request.organizations.clone(),
            dns: request.dns.clone(),
            addresses: request.addresses.clone(),
            server: self == Self::KubeletServing,
            key_encipherment: has(usages, KEY_ENCIPHERMENT),
        })
    }

    /// Names beside the subject. A client's certificate names its tenant, which the signer sets: to ask for that is to ask for nothing.
    fn check_names(self, request: &SigningRequest, tenant: &TenantId) -> Result<(), Refusal> {
        let client = self != Self::KubeletServing;
        let own = format!("{}{tenant}", names::CERTIFICATE_TENANT_URI);
        let refused = [
            (client && !request.dns.is_empty(), Refusal::Dns),
            (client && !request.addresses.is_empty(), Refusal::Addresses),
            (!request.emails.is_empty(), Refusal::Emails),
            (request.uris.iter().any(|uri| !(self == Self::ApiserverClient && *uri == own)), Refusal::Uris),
            (request.more_names, Refusal::OtherNames),
        ];
        refused.into_iter().find_map(|(is, why)| is.then_some(Err(why))).unwrap_or(Ok(()))
    }
}

fn has(usages: &[String], usage: &str) -> bool {
    usages.iter().any(|have| have == usage)
}

/// Digital signature and this one, and perhaps key encipherment, and no other.
fn exactly(usages: &[String], purpose: &str) -> bool {
    let known = [DIGITAL_SIGNATURE, KEY_ENCIPHERMENT, purpose];
    has(usages, DIGITAL_SIGNATURE) && has(usages, purpose) && usages.iter().all(|usage| known.contains(&usage.as_str()))
}

/// The request has one common name and nothing in its subject that is not copied.
fn only_name(request: &SigningRequest) -> Result<&str, Refusal> {
    match request.common_names.as_slice() {
        [name] if !request.more_subject && !name.is_empty() => Ok(name),
        _ => Err(Refusal::Subject),
    }
}

fn check_node(request: &SigningRequest) -> Result<(), Refusal> {
    if request.organizations != [names::GROUP_NODES] {
        return Err(Refusal::NotNodes);
    }
    let node = only_name(request)?.strip_prefix(names::USER_NODE_PREFIX).unwrap_or_default();
    if hypernetes_api::ObjectName::new(node).is_err() { Err(Refusal::NotNode) } else { Ok(()) }
}

/// The node that a request of one is for.
pub fn node_of(request: &SigningRequest) -> Option<&str> {
    check_node(request).ok()?;
    only_name(request).ok()?.strip_prefix(names::USER_NODE_PREFIX)
}

/// What a user's request may not say, whoever approves of it (upstream's CertificateSubjectRestriction, which knows of
/// `system:masters` alone): every name and group that means something to the server by itself. Those of nodes, service accounts
/// and components have other ways to their credentials, and Keystone's groups are admins of their clusters.
///
/// # Errors
/// The first of them; a URI that names another tenant is one.
pub fn restrict_subject(request: &SigningRequest, tenant: &TenantId) -> Result<(), Refusal> {
    let refused = |what: String| Refusal::Reserved { signer: Signer::ApiserverClient.name(), what };
    let means = |name: &str| names::is_reserved(name) || name.starts_with(names::KEYSTONE_PREFIX);
    if let Some(group) = request.organizations.iter().find(|group| means(group)) {
        return Err(refused(format!("{group} group")));
    }
    if let Some(user) = request.common_names.iter().find(|name| means(name)) {
        return Err(refused(format!("{user} user")));
    }
    let own = format!("{}{tenant}", names::CERTIFICATE_TENANT_URI);
    let tenants = request.uris.iter().find(|uri| uri.starts_with(names::CERTIFICATE_TENANT_URI) && **uri != own);
    match tenants {
        Some(uri) => Err(refused(format!("the URI {uri}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACME: &str = "0123456789abcdef0123456789abcdef";
    const GLOBEX: &str = "fedcba9876543210fedcba9876543210";

    fn request(name: &str, groups: &[&str]) -> SigningRequest {
        SigningRequest {
            common_names: vec![name.into()],
            organizations: groups.iter().map(|group| (*group).to_owned()).collect(),
            ..SigningRequest::default()
        }
    }

    fn granted(signer: Signer, request: &SigningRequest, usages: &[&str], tenant: &str) -> Result<Grant, Refusal> {
        let usages: Vec<String> = usages.iter().map(|usage| (*usage).to_owned()).collect();
        signer.grant(request, &usages, &tenant.parse().unwrap())
    }

    #[test]
    fn users_get_what_means_nothing_by_itself() {
        let client =
            |request: &SigningRequest, tenant: &str| granted(Signer::ApiserverClient, request, &[CLIENT_AUTH], tenant);
        for tenant in [ACME, TenantId::SYSTEM] {
            assert!(client(&request("ann", &["dev", "ops"]), tenant).is_ok());
            for group in [
                "system:masters",
                "system:nodes",
                "hypernetes:infrastructure",
                "system:bootstrappers",
                "keystone:admin",
                "keystone:reader",
            ] {
                assert!(
                    matches!(client(&request("ann", &["dev", group]), tenant), Err(Refusal::Reserved { .. })),
                    "{group}"
                );
            }
            for user in ["system:node:a", "system:serviceaccount:a:b", "hypernetes:server", "system:anonymous"] {
                assert!(matches!(client(&request(user, &[]), tenant), Err(Refusal::Reserved { .. })), "{user}");
            }
            let with = |change: fn(&mut SigningRequest)| {
                let mut request = request("ann", &["dev"]);
                change(&mut request);
                client(&request, tenant).unwrap_err()
            };
            assert_eq!(with(|r| r.common_names.push("bob".into())), Refusal::Subject);
            assert_eq!(with(|r| r.common_names.clear()), Refusal::Subject);
            assert_eq!(with(|r| r.more_subject = true), Refusal::Subject);
            assert_eq!(with(|r| r.dns.push("a".into())), Refusal::Dns);
            assert_eq!(with(|r| r.emails.push("a@b".into())), Refusal::Emails);
            assert_eq!(with(|r| r.more_names = true), Refusal::OtherNames);
            assert!(matches!(with(|r| r.uris.push(format!("hypernetes:tenant:{GLOBEX}"))), Refusal::Reserved { .. }));
            assert_eq!(with(|r| r.uris.push("spiffe://a".into())), Refusal::Uris);
        }
        let mut own = request("ann", &[]);
        own.uris.push(format!("hypernetes:tenant:{ACME}"));
        assert!(client(&own, ACME).is_ok() && client(&own, TenantId::SYSTEM).is_err());
        let usages = |usages: &[&str]| granted(Signer::ApiserverClient, &request("ann", &[]), usages, ACME).is_ok();
        assert!(usages(&[CLIENT_AUTH, DIGITAL_SIGNATURE, KEY_ENCIPHERMENT]));
        assert!(!usages(&[DIGITAL_SIGNATURE]) && !usages(&[CLIENT_AUTH, SERVER_AUTH]) && !usages(&[]));
    }

    #[test]
    fn nodes_get_their_own_in_the_systems_cluster_alone() {
        let (client, serving) = (Signer::ApiserverClientKubelet, Signer::KubeletServing);
        let node = request("system:node:a", &["system:nodes"]);
        let usages = [DIGITAL_SIGNATURE, CLIENT_AUTH];
        assert!(granted(client, &node, &usages, TenantId::SYSTEM).is_ok());
        assert_eq!(granted(client, &node, &usages, ACME), Err(Refusal::NotHere));
        assert_eq!(
            granted(client, &node, &[CLIENT_AUTH], TenantId::SYSTEM),
            Err(Refusal::Usages("digital signature, client auth"))
        );
        for groups in [&[][..], &["system:nodes", "system:masters"], &["dev"]] {
            assert_eq!(
                granted(client, &request("system:node:a", groups), &usages, TenantId::SYSTEM),
                Err(Refusal::NotNodes)
            );
        }
        for name in ["a", "system:node:", "system:node:a/b", "system:nodes:a"] {
            let asked = request(name, &["system:nodes"]);
            assert_eq!(granted(client, &asked, &usages, TenantId::SYSTEM), Err(Refusal::NotNode), "{name}");
        }
        let mut named = node.clone();
        named.dns.push("a".into());
        assert_eq!(granted(client, &named, &usages, TenantId::SYSTEM), Err(Refusal::Dns));
        let usages = [DIGITAL_SIGNATURE, SERVER_AUTH];
        assert!(granted(serving, &named, &usages, TenantId::SYSTEM).unwrap().server);
        assert_eq!(granted(serving, &node, &usages, TenantId::SYSTEM), Err(Refusal::NoNames));
        named.uris.push("hypernetes:tenant:system".into());
        assert_eq!(granted(serving, &named, &usages, TenantId::SYSTEM), Err(Refusal::Uris));
    }
}
