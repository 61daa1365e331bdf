//! What single texts have to look like, and what is said of those that do not (`util/validation`): DNS names, label keys
//! and values, config keys, names of ports and variables, addresses.
//!
//! Each function says what is wrong with the text, nothing if it is good.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What is wrong with a text.
pub type Faults = Vec<String>;

pub const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const SUBDOMAIN_UNDERSCORE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LETTER_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const QUALIFIED_NAME: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const QUALIFIED_PARTS: &str = "a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const VARIABLE: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";
const HEADER: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
const HTTP_PATH: &str = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
const C_IDENTIFIER: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
const REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
const INTERFACE_ADDRESS: &str = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
const IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// Of labels, their keys and what is made of them, lengths are in bytes; elsewhere upstream says characters and means the same.
fn at_most(text: &str, most: usize, unit: &str) -> Option<String> {
    (text.len() > most).then(|| format!("must be no more than {most} {unit}"))
}

fn faults(too_long: Option<String>, fault: Option<&str>) -> Faults {
    too_long.into_iter().chain(fault.map(str::to_owned)).collect()
}

/// `must be between 1 and 65535, inclusive`
pub fn range(least: i64, most: i64) -> String {
    format!("must be between {least} and {most}, inclusive")
}

/// The fault of a number outside of a range, ends included.
pub fn in_range(number: i64, least: i64, most: i64) -> Option<String> {
    (!(least..=most).contains(&number)).then(|| range(least, most))
}

/// The fault of what is no port's number.
pub fn port(number: i64) -> Option<String> {
    in_range(number, 1, 65535)
}

fn is_lower(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// Letters and digits at both ends, and `inner` too between them.
fn bounded(text: &str, ends: impl Fn(u8) -> bool, inner: &[u8]) -> bool {
    let bytes = text.as_bytes();
    bytes.first().copied().is_some_and(&ends)
        && bytes.last().copied().is_some_and(&ends)
        && bytes.iter().all(|b| ends(*b) || inner.contains(b))
}

fn is_label(text: &str) -> bool {
    bounded(text, is_lower, b"-")
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

/// One word of labels' keys and values.
fn is_word(text: &str) -> bool {
    bounded(text, |b| b.is_ascii_alphanumeric(), b"-_.")
}

/// RFC 1123 label.
pub fn label(text: &str) -> Faults {
    let fault = match text {
        text if is_label(text) => None,
        text if is_subdomain(text) => Some("must not contain dots"),
        _ => Some(LABEL),
    };
    faults(at_most(text, 63, "characters"), fault)
}

/// RFC 1035 label: it begins with a letter.
pub fn letter_label(text: &str) -> Faults {
    let good = is_label(text) && text.starts_with(|c: char| c.is_ascii_lowercase());
    faults(at_most(text, 63, "characters"), (!good).then_some(LETTER_LABEL))
}

/// RFC 1123 subdomain: most objects' names.
pub fn subdomain(text: &str) -> Faults {
    faults(at_most(text, 253, "characters"), (!is_subdomain(text)).then_some(SUBDOMAIN))
}

/// A subdomain in which labels may begin with, and have, underscores.
pub fn subdomain_with_underscores(text: &str) -> Faults {
    let good = |part: &str| bounded(part.strip_prefix('_').unwrap_or(part), is_lower, b"-_");
    faults(at_most(text, 253, "characters"), (!text.split('.').all(good)).then_some(SUBDOMAIN_UNDERSCORE))
}

/// `*.` and a subdomain.
pub fn wildcard_subdomain(text: &str) -> Faults {
    let good = text.strip_prefix("*.").is_some_and(is_subdomain);
    faults(at_most(text, 253, "characters"), (!good).then_some(WILDCARD))
}

/// One segment of a path: the names of RBAC's objects.
pub fn path_segment(text: &str) -> Faults {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"].iter().filter(|bad| text.contains(**bad)).map(|bad| format!("may not contain '{bad}'")).collect()
}

/// The name of an object of some kind, where upstream takes any text. No object is called what this refuses, and it never
/// becomes more than one segment of a path or a URL.
pub fn reference(text: &str) -> Faults {
    let fault = hypernetes_api::ObjectName::new(text).is_err().then_some("must be the name of an object");
    faults(None, fault)
}

/// A key of labels, annotations, resources and taints: a word, before which may be a subdomain and `/`.
pub fn qualified_name(text: &str) -> Faults {
    let mut found = Faults::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => return vec![QUALIFIED_PARTS.to_owned()],
        Some((prefix, name)) => {
            if prefix.is_empty() {
                found.push("prefix part must be non-empty".to_owned());
            } else {
                found.extend(subdomain_in_bytes(prefix).into_iter().map(|fault| format!("prefix part {fault}")));
            }
            name
        }
    };
    if name.is_empty() {
        found.push("name part must be non-empty".to_owned());
    } else if let Some(fault) = at_most(name, 63, "bytes") {
        found.push(format!("name part {fault}"));
    }
    if !is_word(name) {
        found.push(QUALIFIED_NAME.to_owned());
    }
    found
}

fn subdomain_in_bytes(text: &str) -> Faults {
    faults(at_most(text, 253, "bytes"), (!is_subdomain(text)).then_some(SUBDOMAIN))
}

/// A label's value.
pub fn label_value(text: &str) -> Faults {
    faults(at_most(text, 63, "bytes"), (!text.is_empty() && !is_word(text)).then_some(LABEL_VALUE))
}

/// A key of a config map or a secret, which becomes the name of a file.
pub fn config_key(text: &str) -> Faults {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let good = !text.is_empty() && text.bytes().all(allowed);
    let mut found = faults(at_most(text, 253, "characters"), (!good).then_some(CONFIG_KEY));
    match text {
        "." => found.push("must not be '.'".to_owned()),
        ".." => found.push("must not be '..'".to_owned()),
        text if text.starts_with("..") => found.push("must not start with '..'".to_owned()),
        _ => {}
    }
    found
}

/// The name of an environment variable.
pub fn variable(text: &str) -> Faults {
    let bad = |c: char| c == '=' || !(' '..='~').contains(&c);
    let empty = text.is_empty().then(|| "environment variable name must be non-empty".to_owned());
    faults(empty, text.contains(bad).then_some(VARIABLE))
}

/// The name of a container's port.
pub fn port_name(text: &str) -> Faults {
    let mut found = faults(at_most(text, 15, "characters"), None);
    let bytes = text.as_bytes();
    let mut say = |wrong: bool, what: &str| {
        if wrong {
            found.push(what.to_owned());
        }
    };
    let allowed = !bytes.is_empty() && bytes.iter().all(|b| is_lower(*b) || *b == b'-');
    say(!allowed, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
    say(!bytes.iter().any(u8::is_ascii_lowercase), "must contain at least one letter (a-z)");
    say(text.contains("--"), "must not contain consecutive hyphens");
    say(text.starts_with('-') || text.ends_with('-'), "must not begin or end with a hyphen");
    found
}

/// The name of an HTTP header.
pub fn header_name(text: &str) -> Faults {
    let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    faults(None, (!good).then_some(HEADER))
}

/// The path of a URL, without what would have to be escaped.
pub fn http_path(text: &str) -> Faults {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    faults(None, (text.is_empty() || !text.bytes().all(good)).then_some(HTTP_PATH))
}

/// A name of the C language.
pub fn c_identifier(text: &str) -> Faults {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bad = text.is_empty() || text.starts_with(|c: char| c.is_ascii_digit()) || !text.bytes().all(good);
    faults(None, bad.then_some(C_IDENTIFIER))
}

/// Why a condition is as it is, in a word.
pub fn reason(text: &str) -> Faults {
    let bytes = text.as_bytes();
    let good = bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_')
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"_,:".contains(b));
    faults(None, (!good).then_some(REASON))
}

/// `25%`
pub fn percent(text: &str) -> Faults {
    let good =
        text.strip_suffix('%').is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
    faults(None, (!good).then_some(PERCENT))
}

/// An address as Kubernetes reads it: IPv4 numbers may have leading zeros, which are ignored; zones are not addresses.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next().filter(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))?;
        let digits = part.trim_start_matches('0');
        *octet = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    }
    parts.next().is_none().then_some(IpAddr::V4(Ipv4Addr::from(octets)))
}

/// An address.
pub fn ip(text: &str) -> Faults {
    faults(None, parse_ip(text).is_none().then_some(IP))
}

/// An address and the length of its prefix.
pub fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let address = parse_ip(address)?;
    let length: u8 = length.bytes().all(|b| b.is_ascii_digit()).then(|| length.parse().ok())??;
    (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
}

/// A range of addresses.
pub fn cidr(text: &str) -> Faults {
    faults(None, parse_cidr(text).is_none().then_some(CIDR))
}

/// What is wrong with a text that should be JSON, in the words of upstream's reader where they are few.
pub fn json(text: &str) -> Option<String> {
    serde_json::from_str::<serde_json::Value>(text).err()?;
    Some(match text.trim_start().chars().next() {
        None => "unexpected end of JSON input".to_owned(),
        Some(c) if !c.is_ascii_digit() && !"{[\"-tfn".contains(c) => {
            format!("invalid character '{c}' looking for beginning of value")
        }
        Some(_) => "invalid character in JSON".to_owned(),
    })
}

/// What is wrong with how an address is written that is one: no two readers may take it for different ones.
pub fn unambiguous_ip(text: &str) -> Faults {
    let fault = match parse_ip(text) {
        Some(IpAddr::V4(ip)) if ip.to_string() != text => Some("must not have leading 0s"),
        Some(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => Some("must not be an IPv4-mapped IPv6 address"),
        _ => None,
    };
    faults(None, fault)
}

/// As [`unambiguous_ip`]; nor is there another way to write it.
pub fn canonical_ip(text: &str) -> Faults {
    let found = unambiguous_ip(text);
    match parse_ip(text) {
        Some(ip) if found.is_empty() && ip.to_string() != text => {
            vec![format!("must be in canonical form (\"{ip}\")")]
        }
        _ => found,
    }
}

/// As [`unambiguous_ip`], of a range: nor has its address more bits than its prefix.
pub fn unambiguous_cidr(text: &str) -> Faults {
    let (Some((ip, length)), Some((address, prefix))) = (parse_cidr(text), text.split_once('/')) else {
        return Faults::new();
    };
    let zeros = prefix != length.to_string() || (ip.is_ipv4() && ip.to_string() != address);
    let fault = match ip {
        _ if zeros => Some("must not have leading 0s in IP or prefix length"),
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => Some("must not have an IPv4-mapped IPv6 address"),
        _ => None,
    };
    if fault.is_some() {
        return faults(None, fault);
    }
    let beyond = match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let beyond = beyond.checked_shl(u32::from(length)).unwrap_or(0) != 0;
    faults(None, beyond.then_some("must not have bits set beyond the prefix length"))
}

/// As [`unambiguous_cidr`]; nor is there another way to write it.
pub fn canonical_cidr(text: &str) -> Faults {
    let found = unambiguous_cidr(text);
    match parse_cidr(text) {
        Some((ip, length)) if found.is_empty() && format!("{ip}/{length}") != text => {
            vec![format!("must be in canonical form (\"{ip}/{length}\")")]
        }
        _ => found,
    }
}

/// An address of an interface with the length of its network's prefix, written in the one way.
pub fn interface_address(text: &str) -> Faults {
    match parse_cidr(text) {
        None => vec![INTERFACE_ADDRESS.to_owned()],
        Some((ip, length)) if format!("{ip}/{length}") != text => {
            vec![format!("must be in canonical form (\"{ip}/{length}\")")]
        }
        Some(_) => Faults::new(),
    }
}

/// An absolute path by upstream's measure.
pub fn is_absolute(path: &str) -> bool {
    path.starts_with('/')
}

/// A path with a component `..`.
pub fn steps_back(path: &str) -> bool {
    path.split('/').any(|component| component == "..")
}

/// A path below a directory: relative, without `..`.
pub fn descending_path(path: &str) -> Faults {
    let mut found = Faults::new();
    if is_absolute(path) {
        found.push("must be a relative path".to_owned());
    }
    if steps_back(path) {
        found.push("must not contain '..'".to_owned());
    }
    found
}

/// A path below a directory that does not begin with two dots: those names are the volume's own.
pub fn local_path(path: &str) -> Faults {
    let mut found = descending_path(path);
    if path.starts_with("..") && !path.starts_with("../") {
        found.push("must not start with '..'".to_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(check: fn(&str) -> Faults, texts: &[&str]) {
        texts.iter().for_each(|text| assert_eq!(check(text), Faults::new(), "{text:?}"));
    }

    fn bad(check: fn(&str) -> Faults, texts: &[&str]) {
        texts.iter().for_each(|text| assert!(!check(text).is_empty(), "{text:?}"));
    }

    #[test]
    fn names() {
        good(label, &["a", "1", "a-b"]);
        bad(label, &["", "A", "a/b", "..", "-a", "a-", "a.b", "\0", &"a".repeat(64)]);
        assert_eq!(label("a.b"), ["must not contain dots"]);
        good(letter_label, &["a", "a-1"]);
        bad(letter_label, &["", "1a", "a-", "a.b", &"a".repeat(64)]);
        good(subdomain, &["a", "a.b", "kube-root-ca.crt"]);
        bad(subdomain, &["", "a..b", ".a", "../a", "a/b", "A", &"a".repeat(254)]);
        good(subdomain_with_underscores, &["_tcp.a_b", "a"]);
        bad(subdomain_with_underscores, &["_", "a_", "A", ""]);
        good(wildcard_subdomain, &["*.a.b"]);
        bad(wildcard_subdomain, &["*", "a.b", "*.", "*.*.a"]);
        good(path_segment, &["system:node"]);
        bad(path_segment, &[".", "..", "a/b", "%41"]);
    }

    #[test]
    fn keys_and_values() {
        good(qualified_name, &["a", "A_b.c", "example.com/a"]);
        bad(qualified_name, &["", "a b", "/a", "a/", "a/b/c", "A/b", &"a".repeat(64), "é"]);
        assert_eq!(qualified_name("").len(), 2);
        good(label_value, &["", "A_1"]);
        bad(label_value, &["a b", "-a", &"a".repeat(64)]);
        good(config_key, &["a", ".a", "A_b-c.d"]);
        bad(config_key, &["", ".", "..", "..a", "a/b", "a b", &"a".repeat(254)]);
        good(variable, &["A", "a b", "1"]);
        bad(variable, &["", "a=b", "é", "a\n"]);
        good(port_name, &["http", "a-1"]);
        bad(port_name, &["", "1", "a--b", "-a", "A", "averyveryverylong"]);
        good(c_identifier, &["a", "_", "A_1"]);
        bad(c_identifier, &["", "1", "a-b", "é"]);
        good(http_path, &["a", "/a/b~c%20"]);
        bad(http_path, &["", "a b", "a?b", "é"]);
        good(percent, &["0%", "250%"]);
        bad(percent, &["", "%", "1", "-1%", "1.5%"]);
    }

    #[test]
    fn addresses_that_can_be_read_in_one_way() {
        good(unambiguous_ip, &["1.2.3.4", "::1", "2001:0db8::1", "foo"]);
        bad(unambiguous_ip, &["010.0.0.1", "::ffff:1.2.3.4"]);
        good(canonical_ip, &["1.2.3.4", "2001:db8::1"]);
        bad(canonical_ip, &["010.0.0.1", "::ffff:1.2.3.4", "2001:0db8::1", "2001:DB8::1"]);
        good(canonical_cidr, &["10.0.0.0/8", "2001:db8::/32", "foo"]);
        bad(canonical_cidr, &["2001:0db8::/32", "10.0.0.1/8"]);
        good(unambiguous_cidr, &["10.0.0.0/8", "0.0.0.0/0", "::/0", "1.2.3.4/32", "::1/128", "foo"]);
        bad(unambiguous_cidr, &["010.0.0.0/8", "10.0.0.0/08", "10.0.0.1/8", "::ffff:10.0.0.0/104", "::1/127"]);
    }

    #[test]
    fn addresses_and_paths() {
        good(ip, &["1.2.3.4", "010.0.0.1", "::1", "2001:db8::ffff"]);
        bad(ip, &["", "1.2.3", "1.2.3.256", "1.2.3.4.5", "::g", "fe80::1%eth0", "foo", "1.2.3.+4"]);
        good(cidr, &["10.0.0.0/8", "::/0"]);
        bad(cidr, &["10.0.0.0", "10.0.0.0/33", "foo/8", "::/129", "10.0.0.0/+8", "10.0.0.0/"]);
        good(local_path, &["a", "a/b", "a/..b", ".a"]);
        bad(local_path, &["/a", "..", "../a", "a/../b", "..a", "a/.."]);
    }
}
