//! Errors as Neutron tells them: `{"NeutronError": {"type", "message", "detail"}}`. Types and messages are those of
//! neutron-lib's exceptions.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use hypernetes_api::subnet::SubnetError;
use hypernetes_facade::{Fault, PageError, ServiceError, excerpt, respond};
use serde_json::{Value, json};

use crate::{address_book::Refusal, ipam::AllocationError, macs::MacError, taken::is_taken};

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Error {
    status: StatusCode,
    kind: &'static str,
    message: String,
}

impl Error {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into() }
    }

    /// The body or an attribute is not of the expected form.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "HTTPBadRequest", message)
    }

    pub fn attribute(name: &str, reason: impl std::fmt::Display) -> Self {
        Self::bad_request(format!("Invalid input for {}. Reason: {reason}.", excerpt(name)))
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

    pub fn unavailable(why: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "ServiceUnavailable",
            format!("The service is temporarily unavailable: {why}"),
        )
    }

    pub fn extension_not_found(alias: &str) -> Self {
        let message = format!("Extension with alias {} does not exist", excerpt(alias));
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
        Self::new(StatusCode::NOT_FOUND, exception, format!("{kind} {} could not be found.", excerpt(id)))
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

    /// Another server gave the same address to another port, at the same time.
    pub fn taken() -> Self {
        let message = "Unable to complete operation: the IP or hardware address is in use.";
        Self::new(StatusCode::CONFLICT, "IpAddressInUse", message)
    }

    /// Why a range is not one for a subnet.
    pub fn subnet(error: &SubnetError, cidr: &str) -> Self {
        let cidr = excerpt(cidr);
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

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unauthorized => Self::new(
                StatusCode::UNAUTHORIZED,
                "Unauthorized",
                "The request you have made requires authentication.",
            ),
            Fault::Forbidden(action) => Self::forbidden(&action),
            Fault::Denied(why) => Self::new(StatusCode::FORBIDDEN, "PolicyNotAuthorized", why),
            Fault::Query(why) => Self::bad_request(why),
            Fault::Malformed(why) => Self::bad_request(format!("The server could not comply with the request: {why}.")),
            Fault::Invalid(why) => Self::invalid(why),
            Fault::TooLarge | Fault::Unreadable => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "HTTPRequestEntityTooLarge", "The request body is too large.")
            }
            Fault::NoSuchPath => Self::new(StatusCode::NOT_FOUND, "HTTPNotFound", "The resource could not be found."),
            Fault::MethodNotAllowed => Self::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "HTTPMethodNotAllowed",
                "The method is not allowed for this resource.",
            ),
            Fault::NotFound(what) => Self::new(StatusCode::NOT_FOUND, "HTTPNotFound", what),
            Fault::Conflict(why) => Self::conflict(why),
            Fault::NoRoom => Self::new(StatusCode::CONFLICT, "OverQuota", "There is no room left to store this."),
            Fault::Unavailable(why) => Self::unavailable(why),
        }
    }
}

impl From<PageError> for Error {
    fn from(error: PageError) -> Self {
        match error {
            PageError::NotANumber(name) => {
                Self::bad_request(format!("Bad limit: {name} must be an integer 0 or greater"))
            }
            PageError::NoSuchMarker(_) => Self::bad_request("Bad marker: there is no such object"),
        }
    }
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        if is_taken(&error) { Self::taken() } else { Fault::from(error).into() }
    }
}

impl ServiceError for Error {
    fn status(&self) -> StatusCode {
        self.status
    }

    fn body(&self) -> Value {
        json!({"NeutronError": {"type": self.kind, "message": self.message, "detail": ""}})
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        respond(&self)
    }
}
