//! Errors as Neutron tells them: `{"NeutronError": {"type", "message", "detail"}}`. Types and messages are those of
//! neutron-lib's exceptions.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use crate::{ledger::AllocationError, macs::MacError, subnet::SubnetError, tenant::Refusal};

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Error {
    status: StatusCode,
    kind: &'static str,
    message: String,
}

/// What a client sent comes back in messages, but not without bound.
fn short(text: &str) -> String {
    text.chars().take(128).collect()
}

impl Error {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into() }
    }

    /// From Keystone's middleware, and in its form.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "The request you have made requires authentication.")
    }

    /// The body or an attribute is not of the expected form.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "HTTPBadRequest", message)
    }

    pub fn attribute(name: &str, reason: impl std::fmt::Display) -> Self {
        Self::bad_request(format!("Invalid input for {}. Reason: {reason}.", short(name)))
    }

    pub fn invalid(message: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "InvalidInput",
            format!("Invalid input for operation: {}.", message.to_string().trim_end_matches('.')),
        )
    }

    pub fn forbidden(action: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "PolicyNotAuthorized", format!("rule:{action} is disallowed by policy"))
    }

    pub fn no_such_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "HTTPNotFound", "The resource could not be found.")
    }

    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "HTTPMethodNotAllowed",
            "The method is not allowed for this resource.",
        )
    }

    pub fn too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "HTTPRequestEntityTooLarge", "The request body is too large.")
    }

    pub fn unavailable(why: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "ServiceUnavailable",
            format!("The service is temporarily unavailable: {why}"),
        )
    }

    pub fn extension_not_found(alias: &str) -> Self {
        let message = format!("Extension with alias {} does not exist", short(alias));
        Self::new(StatusCode::NOT_FOUND, "HTTPNotFound", message)
    }

    /// `kind`: `Network`, `Subnet` or `Port`.
    pub fn not_found(kind: &str, id: &str) -> Self {
        let exception = match kind {
            "Network" => "NetworkNotFound",
            "Subnet" => "SubnetNotFound",
            "Port" => "PortNotFound",
            "Security group" => "SecurityGroupNotFound",
            _ => "HTTPNotFound",
        };
        Self::new(StatusCode::NOT_FOUND, exception, format!("{kind} {} could not be found.", short(id)))
    }

    pub fn network_in_use(id: &str) -> Self {
        let message = format!(
            "Unable to complete operation on network {id}. There are one or more ports still in use on the network."
        );
        Self::new(StatusCode::CONFLICT, "NetworkInUse", message)
    }

    pub fn subnet_in_use(id: &str) -> Self {
        let message = format!(
            "Unable to complete operation on subnet {id}: One or more ports have an IP allocation from this subnet."
        );
        Self::new(StatusCode::CONFLICT, "SubnetInUse", message)
    }

    pub fn gateway_in_use(gateway: &std::net::Ipv4Addr, port: &str) -> Self {
        let message = format!("Current gateway ip {gateway} already in use by port {port}. Unable to update.");
        Self::new(StatusCode::CONFLICT, "GatewayIpInUse", message)
    }

    pub fn service_port(id: &str, why: &str) -> Self {
        let message = format!("Port {id} cannot be deleted directly via the port API: {why}.");
        Self::new(StatusCode::CONFLICT, "ServicePortInUse", message)
    }

    /// Another object of that name came in between, or the object has been changed at the same time.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "Conflict", message)
    }

    /// Why a range is not one for a subnet.
    pub fn subnet(error: &SubnetError, cidr: &str) -> Self {
        let cidr = short(cidr);
        match error {
            SubnetError::Cidr(text) => Self::attribute("cidr", format_args!("{text:?} is not a valid IP subnet")),
            SubnetError::Address(text) => {
                Self::bad_request(format!("Invalid input. {text:?} is not a valid IP address."))
            }
            SubnetError::Gateway(_) => Self::invalid("Gateway is not valid on subnet"),
            SubnetError::Backwards(start, end) => Self::new(
                StatusCode::BAD_REQUEST,
                "InvalidAllocationPool",
                format!("The allocation pool {start}-{end} is not valid."),
            ),
            SubnetError::PoolOutside(start, end) => Self::new(
                StatusCode::BAD_REQUEST,
                "OutOfBoundsAllocationPool",
                format!("The allocation pool {start}-{end} spans beyond the subnet cidr {cidr}."),
            ),
            SubnetError::PoolsOverlap(a, b) => Self::new(
                StatusCode::CONFLICT,
                "OverlappingAllocationPools",
                format!("Found overlapping allocation pools: {a} {b} for subnet {cidr}."),
            ),
            SubnetError::GatewayInPool(gateway, start, end) => Self::new(
                StatusCode::CONFLICT,
                "GatewayConflictWithAllocationPools",
                format!("Gateway ip {gateway} conflicts with allocation pool {start}-{end}."),
            ),
            SubnetError::Ipv6 => Self::invalid(error),
        }
    }

    /// Why a port cannot be had on the network with this id.
    pub fn refused(refusal: &Refusal, network: &str) -> Self {
        use AllocationError as A;
        let conflict = |kind, message| Self::new(StatusCode::CONFLICT, kind, message);
        match refusal {
            Refusal::Network(_) | Refusal::Leaving(_) | Refusal::Namespace(_) => Self::not_found("Network", network),
            Refusal::OtherSubnet { ip, .. } => Self::new(
                StatusCode::BAD_REQUEST,
                "InvalidIpForSubnet",
                format!("IP address {ip} is not a valid IP for the specified subnet."),
            ),
            Refusal::Address(error) => Self::subnet(error, ""),
            Refusal::Allocation(A::NoSubnet | A::Exhausted) => {
                conflict("IpAddressGenerationFailure", format!("No more IP addresses available on network {network}."))
            }
            Refusal::Allocation(A::InUse { ip, .. } | A::Gateway(ip)) => conflict(
                "IpAddressInUse",
                format!("Unable to complete operation for network {network}. The IP address {ip} is in use."),
            ),
            Refusal::Allocation(A::Outside(ip)) => Self::new(
                StatusCode::BAD_REQUEST,
                "InvalidIpForNetwork",
                format!("IP address {ip} is not a valid IP for any of the subnets on the specified network."),
            ),
            Refusal::Allocation(A::UnknownSubnet(_)) => Self::invalid(format_args!(
                "Failed to create port on network {network}, because fixed_ips included invalid subnet"
            )),
            Refusal::Mac(MacError::InUse { mac, .. }) => conflict(
                "MacAddressInUse",
                format!("Unable to complete operation for network {network}. The mac address {mac} is in use."),
            ),
            Refusal::Mac(MacError::Invalid(mac)) => {
                Self::attribute("mac_address", format_args!("'{mac}' is not a valid MAC address"))
            }
        }
    }
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => match status.code {
                400 | 422 => Self::invalid(status.message),
                403 => Self::new(StatusCode::FORBIDDEN, "PolicyNotAuthorized", status.message),
                404 => Self::new(StatusCode::NOT_FOUND, "HTTPNotFound", status.message),
                409 => Self::conflict(status.message),
                413 => Self::too_large(),
                507 => Self::new(StatusCode::CONFLICT, "OverQuota", "There is no room left to store this."),
                _ => Self::unavailable(status.message),
            },
            other => Self::unavailable(other),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        if self.status == StatusCode::UNAUTHORIZED {
            let body = json!({"error": {"code": 401, "title": "Unauthorized", "message": self.message}});
            let mut response = (self.status, Json(body)).into_response();
            let keystone = HeaderValue::from_static("Keystone uri=\"/identity\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, keystone);
            return response;
        }
        let body = json!({"NeutronError": {"type": self.kind, "message": self.message, "detail": ""}});
        (self.status, Json(body)).into_response()
    }
}
