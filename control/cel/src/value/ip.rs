//! IP addresses, as Go's `net/netip` reads them; neither zones nor IPv4 within IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::url::quoted;

pub(crate) fn parse(text: &str) -> std::result::Result<IpAddr, String> {
    let address = address(text)
        .map_err(|why| format!("IP Address {} parse error during conversion from string: {why}", quoted(text)))?;
    if text.contains('%') {
        return Err(format!("IP address {} with zone value is not allowed", quoted(text)));
    }
    if is_mapped(address) {
        return Err(format!("IPv4-mapped IPv6 address {} is not allowed", quoted(text)));
    }
    Ok(address)
}

pub(crate) fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}

/// The address, without its zone, or what Go says is wrong.
pub(crate) fn address(text: &str) -> std::result::Result<IpAddr, String> {
    let failed = |why: &str| format!("ParseAddr({}): {why}", quoted(text));
    match text.find(['.', ':', '%']).map(|at| text.as_bytes()[at]) {
        Some(b'.') => text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| failed(wrong_with_v4(text).as_str())),
        Some(b':') => {
            let bare = match text.split_once('%') {
                Some((_, "")) => return Err(failed("zone must be a non-empty string")),
                Some((bare, _)) => bare,
                None => text,
            };
            bare.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| failed(wrong_with_v6(bare).as_str()))
        }
        Some(_) => Err(failed("missing IPv6 address")),
        None => Err(failed("unable to parse IP")),
    }
}

fn wrong_with_v4(text: &str) -> String {
    let mut fields = 0;
    for part in text.split('.') {
        fields += 1;
        if let Some(at) = part.find(|c: char| !c.is_ascii_digit()) {
            let offset = part.as_ptr() as usize - text.as_ptr() as usize + at;
            return format!("unexpected character (at {})", quoted(&text[offset..]));
        }
        if part.is_empty() {
            let at = part.as_ptr() as usize - text.as_ptr() as usize;
            let at = if at == text.len() { at - 1 } else { at };
            return format!("IPv4 field must have at least one digit (at {})", quoted(&text[at..]));
        }
        if part.len() > 1 && part.starts_with('0') {
            return "IPv4 field has octet with leading zero".to_owned();
        }
        if part.parse::<u8>().is_err() {
            return "IPv4 field has value >255".to_owned();
        }
        if fields > 4 {
            return "IPv4 address too long".to_owned();
        }
    }
    "IPv4 address too short".to_owned()
}

fn wrong_with_v6(text: &str) -> String {
    if let Some(at) = text.find(|c: char| !c.is_ascii_hexdigit() && c != ':' && c != '.') {
        let field = text[..at].rfind(':').map_or(0, |colon| colon + 1);
        if field == at {
            return format!("each colon-separated field must have at least one digit (at {})", quoted(&text[at..]));
        }
        return format!("unexpected character, want colon (at {})", quoted(&text[at..]));
    }
    if text.matches("::").count() > 1 {
        return "multiple :: in address".to_owned();
    }
    if let Some(long) = text.split(':').find(|field| field.len() > 4 && !field.contains('.')) {
        let at = long.as_ptr() as usize - text.as_ptr() as usize;
        return format!("each group must have 4 or less digits (at {})", quoted(&text[at..]));
    }
    if text.split(':').count() < 8 && !text.contains("::") {
        return "address string too short".to_owned();
    }
    "trailing garbage after address".to_owned()
}
