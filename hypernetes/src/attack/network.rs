//! C7: a pod that says on its network that it is somebody else, and one that looks for others and for the host.
//!
//! Whether something arrived is told by the counters of the pod that it was sent to, and each kind of packet is first sent
//! honestly: an attempt that comes to nothing because nothing works proves nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{
    findings::Findings,
    pods::{PATIENCE, Pod},
    stage::Stage,
    wire::Wire,
};

/// Of 127.0.0.x, where the attackers' API requests come from.
const SOURCE: u8 = 13;
const SERVE: &str = "mkdir /tmp/w && hostname > /tmp/w/index.html && exec httpd -f -p 8080 -h /tmp/w";
const WAIT: &str = "exec sleep 1000000";
/// Echo requests that have been answered, by IPv4 and IPv6.
const ECHOES: &str = "awk '/^Icmp:/ && n++ {v4 = $9} END {print v4}' /proc/net/snmp; \
                      awk '/^Icmp6InEchos /{print $2}' /proc/net/snmp6";

pub async fn run(stage: &Stage, findings: &mut Findings) -> Result<()> {
    let wire = Wire::new(&stage.address, &stage.authority)?;
    let (red, blue) = (&stage.red.member, &stage.blue.member);
    let victim = Pod::start(blue, "attack-victim", &stage.image, SERVE).await?;
    let neighbour = Pod::start(red, "attack-neighbour", &stage.image, SERVE).await?;
    let attacker = Pod::start(red, "attack-liar", &stage.image, WAIT).await?;
    let outcome = attempts(stage, &wire, &attacker, &neighbour, &victim, findings).await;
    for pod in [attacker, neighbour, victim] {
        pod.remove().await;
    }
    outcome
}

async fn attempts(
    stage: &Stage,
    wire: &Wire,
    attacker: &Pod<'_>,
    neighbour: &Pod<'_>,
    victim: &Pod<'_>,
    findings: &mut Findings,
) -> Result<()> {
    let (own, near, far) = (attacker.address().await?, neighbour.address().await?, victim.address().await?);
    let tell = async |script: &str| attacker.run(wire, SOURCE, script).await;
    let ping = format!("ping -c 2 -i 0.2 -W 1 {near}");
    let (works, said) = tell(&ping).await?;
    ensure!(works, "the attacker's own ping of its neighbour does not work: {said}");

    // As somebody else. What comes after the script puts everything back as it was.
    let free = another(&own).context("the attacker's address is none of IPv4")?;
    let (mut lies, mut hosts) = (Vec::new(), Vec::new());
    for (whose, address) in [("nobody's", free.as_str()), ("its neighbour's", &near), ("another tenant's", &far)] {
        let target = if address == near { &free } else { &near };
        if address == own {
            continue;
        }
        let add = format!("ip addr add {address}/32 dev eth0");
        let del = format!("ip addr del {address}/32 dev eth0");
        lies.push((
            format!("packets from {whose} address"),
            format!("{add}; ping -c 2 -i 0.2 -W 1 -I {address} {target}; {del}"),
        ));
        lies.push((
            format!("fragments from {whose} address"),
            format!("{add}; ping -c 2 -i 0.2 -W 1 -s 20000 -I {address} {target}; {del}"),
        ));
    }
    lies.push((
        "packets from another MAC address".into(),
        format!(
            "mac=$(cat /sys/class/net/eth0/address); ip route > /tmp/routes; ip link set eth0 address 02:00:00:00:00:01; \
             {ping}; ip link set eth0 address $mac; while read route; do ip route replace $route; done < /tmp/routes"
        ),
    ));
    lies.push((
        "packets with a VLAN tag".into(),
        format!(
            "ip link add link eth0 name vlan7 type vlan id 7; ip link set vlan7 up; ip addr add {own}/32 dev vlan7; \
             ip route add {near}/32 dev vlan7; ping -c 2 -i 0.2 -W 1 -I vlan7 {near}; ip link del vlan7"
        ),
    ));
    lies.push(("neighbour discovery".into(), "ping -6 -c 2 -i 0.2 -W 1 -I eth0 ff02::1".into()));
    for (what, script) in lies {
        let before = neighbour.run(wire, SOURCE, ECHOES).await?.1;
        let (_, said) = tell(&script).await?;
        let after = neighbour.run(wire, SOURCE, ECHOES).await?.1;
        findings.judge(&what, before == after, if before == after { "nothing arrived" } else { &said });
        let (works, said) = tell(&ping).await?;
        ensure!(works, "after {what:?} the attacker's own packets do not arrive either: {said}");
    }

    // Who says by ARP that it has the gateway's and the neighbour's address gets none of what is for them.
    let fetch = |address: &str| format!("timeout 4 wget -q -O - http://{address}:8080/");
    for (pod, name) in [(victim, "attack-victim"), (neighbour, "attack-neighbour")] {
        serves(wire, pod, name).await?;
    }
    let (_, said) = tell(&fetch(&near)).await?;
    ensure!(said.trim() == "attack-neighbour", "the attacker does not reach its neighbour's server: {said}");
    let claim = format!(
        "gateway=$(ip route | awk '/^default/{{print $3}}'); for address in $gateway {near}; do \
         arping -U -c 2 -w 2 -I eth0 -s $address $address; arping -A -c 2 -w 2 -I eth0 -s $address $address; done; true"
    );
    tell(&claim).await?;
    let (_, said) = tell(&fetch(&near)).await?;
    let has = said.trim() == "attack-neighbour";
    findings.judge("addresses claimed by ARP", has, if has { "its neighbour still has its own" } else { &said });

    // To where it has no business.
    let (_, said) = tell(&fetch(&far)).await?;
    findings.judge(&format!("another tenant's pod at {far}"), !said.contains("attack-victim"), "it is not reached");
    let port = stage.address.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or(6443);
    hosts.extend(host_addresses()?);
    hosts.push("169.254.169.254".into());
    for host in hosts {
        for port in [port, 10250, 22] {
            let connect = format!("nc -w 2 {host} {port} < /dev/null");
            let (connected, _) = tell(&connect).await?;
            findings.judge(&format!("the host at {host}:{port}"), !connected, "no connection");
        }
    }
    Ok(())
}

/// Waits until a pod's server answers the pod itself.
async fn serves(wire: &Wire, pod: &Pod<'_>, name: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let (_, said) = pod.run(wire, SOURCE, "timeout 4 wget -q -O - http://127.0.0.1:8080/").await?;
        if said.trim() == name {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "the server of {name} does not answer: {said}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// An address of the same network that is most likely nobody's.
fn another(address: &str) -> Option<String> {
    let address: std::net::Ipv4Addr = address.parse().ok()?;
    let [a, b, c, d] = address.octets();
    Some(std::net::Ipv4Addr::new(a, b, c, if d < 200 { 231 } else { 131 }).to_string())
}

/// This machine's, but for loopback: a guest's 127.0.0.1 is its own.
fn host_addresses() -> Result<Vec<String>> {
    let interfaces = nix::ifaddrs::getifaddrs().context("listing the host's addresses")?;
    let addresses = interfaces.filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()));
    Ok(addresses.filter(|address| !address.is_loopback()).map(|address| address.to_string()).collect())
}
