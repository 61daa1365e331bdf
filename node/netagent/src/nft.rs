//! The packet filter of one network's namespace: what enters from a tap has the port's own addresses, and what leaves
//! goes to another tap.
//!
//! The rules never change; ports come and go as elements of sets, so that a change costs the same however many there are.

use std::{
    fmt::Write as _,
    io::Write as _,
    process::{Command, Stdio},
};

use crate::{
    Error,
    records::{Attachment, Mac},
};

/// Replaces all of ours in one transaction. What a guest sends is looked at before anything else is done with it
/// (hook `prerouting` at priority `raw`); what is for the namespace itself is dropped but for pings of the gateway, and for
/// what belongs to a socket: nothing listens, so that these are the relay's connections (no connection is tracked for that); IPv6 is not forwarded, and not answered.
const RULES: &str = r#"
table ip hypernetes
delete table ip hypernetes
table ip hypernetes {
    set ports { type ifname . ether_addr . ipv4_addr; }
    chain prerouting {
        type filter hook prerouting priority raw; policy drop;
        iifname . ether saddr . ip saddr @ports accept
    }
    chain input {
        type filter hook input priority filter; policy drop;
        icmp type echo-request limit rate 100/second accept
        iifname "tap*" meta l4proto tcp socket transparent 0 accept
    }
    chain forward {
        type filter hook forward priority filter; policy drop;
        iifname "tap*" oifname "tap*" accept
    }
}
table arp hypernetes
delete table arp hypernetes
table arp hypernetes {
    set ports { type ifname . ether_addr . ipv4_addr; }
    chain input {
        type filter hook input priority filter; policy drop;
        iifname . arp saddr ether . arp saddr ip @ports accept
    }
}
table ip6 hypernetes
delete table ip6 hypernetes
table ip6 hypernetes {
    chain prerouting {
        type filter hook prerouting priority raw; policy drop;
    }
}
"#;

/// The whole rule set, with these attachments let in.
pub(crate) fn rules<'a>(attachments: impl Iterator<Item = &'a Attachment>) -> Result<String, Error> {
    let mut script = RULES.to_owned();
    for attachment in attachments {
        script.push_str(&connect(attachment)?);
    }
    Ok(script)
}

/// Lets in what the attachment sends. Repeating it is no error.
pub(crate) fn connect(attachment: &Attachment) -> Result<String, Error> {
    elements("add", attachment)
}

/// Lets in nothing any more. Repeating it is no error.
pub(crate) fn disconnect(attachment: &Attachment) -> Result<String, Error> {
    // Deleting what is not there would be one; so it is added first, in the same transaction.
    Ok(elements("add", attachment)? + &elements("delete", attachment)?)
}

fn elements(verb: &str, attachment: &Attachment) -> Result<String, Error> {
    let tap = attachment.tap()?;
    let mac: Mac = attachment.mac;
    let mut script = String::new();
    for address in &attachment.addresses {
        for family in ["ip", "arp"] {
            let _ =
                writeln!(script, "{verb} element {family} hypernetes ports {{ \"{tap}\" . {mac} . {} }}", address.ip);
        }
    }
    Ok(script)
}

/// Applies a script as one transaction in the calling thread's network namespace.
pub(crate) fn apply(script: &str) -> Result<(), Error> {
    let failed = |what: &str, error: std::io::Error| Error::Filter(format!("{what} nft: {error}"));
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed("starting", e))?;
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(script.as_bytes()));
    let output = child.wait_with_output().map_err(|e| failed("waiting for", e))?;
    if !output.status.success() {
        return Err(Error::Filter(String::from_utf8_lossy(&output.stderr).trim().chars().take(400).collect()));
    }
    written.map_err(|e| failed("writing to", e))
}
