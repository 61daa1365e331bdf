//! The services of the installation, and where they are: one table, rendered as catalogue, services and endpoints.

use serde_json::{Value, json};

use crate::{IdentityConfig, ids::well_known_id, token::Scope};

pub(crate) struct Service {
    pub kind: &'static str,
    pub name: &'static str,
    pub description: &'static str,
    /// After the public URL; `{project}` stands for the id of the token's project.
    path: &'static str,
}

pub(crate) const SERVICES: [Service; 5] = [
    Service { kind: "identity", name: "keystone", description: "Identity", path: "/identity/v3" },
    Service { kind: "network", name: "neutron", description: "Tenant networks", path: "/networking" },
    Service { kind: "volumev3", name: "cinderv3", description: "Volumes", path: "/volume/v3/{project}" },
    Service { kind: "block-storage", name: "cinder", description: "Volumes", path: "/volume/v3/{project}" },
    Service { kind: "kubernetes", name: "kubernetes", description: "Logical clusters", path: "/clusters/{project}" },
];

const INTERFACES: [&str; 3] = ["public", "internal", "admin"];

impl Service {
    pub fn id(&self) -> String {
        well_known_id(&format!("service/{}", self.kind))
    }

    fn endpoint_id(&self, interface: &str) -> String {
        well_known_id(&format!("endpoint/{}/{interface}", self.kind))
    }

    pub fn to_json(&self, config: &IdentityConfig) -> Value {
        json!({
            "id": self.id(), "type": self.kind, "name": self.name, "description": self.description, "enabled": true,
            "links": {"self": link(config, &format!("services/{}", self.id()))},
        })
    }

    /// As `/v3/endpoints` shows them: with placeholders.
    pub fn endpoints(&self, config: &IdentityConfig) -> impl Iterator<Item = Value> {
        INTERFACES.into_iter().map(|interface| {
            let id = self.endpoint_id(interface);
            json!({
                "id": id, "interface": interface, "service_id": self.id(), "enabled": true,
                "region": config.region, "region_id": config.region,
                "url": format!("{}{}", config.public_url, self.path.replace("{project}", "%(project_id)s")),
                "links": {"self": link(config, &format!("endpoints/{id}"))},
            })
        })
    }
}

/// The catalogue of a token. Services that need a project are left out where the token has none, as Keystone does.
pub(crate) fn catalog(config: &IdentityConfig, scope: &Scope) -> Value {
    let project = match scope {
        Scope::Project(id) => Some(id.as_str()),
        _ => None,
    };
    let usable = SERVICES.iter().filter(|service| project.is_some() || !service.path.contains("{project}"));
    usable
        .map(|service| {
            let url =
                format!("{}{}", config.public_url, service.path.replace("{project}", project.unwrap_or_default()));
            let endpoints: Vec<Value> = INTERFACES
                .iter()
                .map(|interface| {
                    json!({
                        "id": service.endpoint_id(interface), "interface": interface, "url": url,
                        "region": config.region, "region_id": config.region,
                    })
                })
                .collect();
            json!({"id": service.id(), "type": service.kind, "name": service.name, "endpoints": endpoints})
        })
        .collect()
}

/// The region, the only one.
pub(crate) fn region(config: &IdentityConfig) -> Value {
    json!({
        "id": config.region, "description": "", "parent_region_id": null,
        "links": {"self": link(config, &format!("regions/{}", config.region))},
    })
}

/// URL of a resource of this API.
pub(crate) fn link(config: &IdentityConfig, path: &str) -> String {
    format!("{}/identity/v3/{path}", config.public_url)
}
