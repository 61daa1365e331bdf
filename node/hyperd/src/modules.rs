//! Kernel modules for containers that may use them: bridges, tunnels and packet filters in a pod need modules of the
//! guest's kernel, which a VM boots without. They are copied into the guest, once, when the first such container is made;
//! its kernel then loads what is asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use hypernetes_guest_protocol::v1;

use crate::{
    error::{Error, Result},
    runtime::Runtime,
    sandbox::{Live, Sandbox},
};

/// The set's name is part of the contract: since version 3 an agent that gets it serves the kernel's requests from it.
pub(crate) const SET: &str = "modules";
/// Each line: a module's name, what it depends on (separated by commas, or `-`), and its aliases.
const INDEX: &str = "index";
const CAPABILITIES: [&str; 3] = ["CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_SYS_MODULE"];

/// What containers ask kernels for; each brings what it depends on. A kernel may have some of them built in.
const WANTED: [&str; 56] = [
    "act_mirred",
    "br_netfilter",
    "bridge",
    "cls_u32",
    "dummy",
    "fuse",
    "ifb",
    "ip6_tables",
    "ip6table_filter",
    "ip6table_nat",
    "ip_gre",
    "ip_tables",
    "ipip",
    "iptable_filter",
    "iptable_mangle",
    "iptable_nat",
    "iptable_raw",
    "ipvlan",
    "loop",
    "macvlan",
    "nf_conntrack",
    "nf_nat",
    "nf_tables",
    "nft_chain_nat",
    "nft_compat",
    "nft_ct",
    "nft_fib_inet",
    "nft_hash",
    "nft_limit",
    "nft_log",
    "nft_masq",
    "nft_nat",
    "nft_redir",
    "nft_reject_inet",
    "sch_fq",
    "sch_htb",
    "sch_ingress",
    "sit",
    "tcp_bbr",
    "tun",
    "veth",
    "vxlan",
    "wireguard",
    "x_tables",
    "xt_MASQUERADE",
    "xt_REDIRECT",
    "xt_addrtype",
    "xt_comment",
    "xt_conntrack",
    "xt_limit",
    "xt_mark",
    "xt_multiport",
    "xt_nat",
    "xt_owner",
    "xt_statistic",
    "xt_tcpudp",
];

impl Runtime {
    /// Gives the guest its modules if a process may have them loaded.
    pub(crate) async fn offer_modules(&self, sandbox: &Sandbox, live: &Live, process: &v1::Process) -> Result<()> {
        let may = process.privileged || process.capabilities.iter().any(|c| CAPABILITIES.contains(&c.as_str()));
        let Some(directory) = self.config.modules_dir.clone().filter(|_| may) else { return Ok(()) };
        if sandbox.requires(3, "").is_err() {
            return Ok(());
        }
        live.modules
            .get_or_try_init(async || {
                let files = self.modules.get_or_try_init(async || {
                    let read = tokio::task::spawn_blocking(move || read(&directory)).await;
                    read.map_err(|e| Error::FailedPrecondition(e.to_string()))?.map(Arc::new)
                });
                Ok(live.agent.put_files(SET, files.await?.as_ref().clone()).await?)
            })
            .await
            .copied()
    }
}

/// The wanted modules, what they depend on, and the index.
fn read(directory: &Path) -> Result<Vec<v1::File>> {
    let paths = find(directory).map_err(Error::file("looking for modules in", directory))?;
    let mut pending: Vec<String> = WANTED.map(str::to_owned).to_vec();
    let mut seen = BTreeSet::new();
    let (mut files, mut index) = (Vec::new(), String::new());
    while let Some(name) = pending.pop() {
        let Some(path) = paths.get(&name.replace('-', "_")) else { continue };
        let name = name.replace('-', "_");
        if !seen.insert(name.clone()) {
            continue;
        }
        let data = fs::read(path).map_err(Error::file("reading", path))?;
        let depends = values(&data, b"depends=").find(|list| !list.is_empty());
        pending.extend(depends.iter().flat_map(|list| list.split(',')).map(str::to_owned));
        let aliases: Vec<String> = values(&data, b"alias=").collect();
        index += &format!("{name} {} {}\n", depends.as_deref().unwrap_or("-"), aliases.join(" "));
        files.push(v1::File { path: format!("{name}.ko"), mode: 0o600, data, ..Default::default() });
    }
    files.push(v1::File { path: INDEX.into(), mode: 0o600, data: index.into_bytes(), ..Default::default() });
    Ok(files)
}

fn find(directory: &Path) -> std::io::Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            } else if let Some(name) = entry.file_name().to_str().and_then(|name| name.strip_suffix(".ko")) {
                found.insert(name.replace('-', "_"), entry.path());
            }
        }
    }
    Ok(found)
}

/// What a module says of itself: strings between NULs.
fn values<'a>(module: &'a [u8], key: &'a [u8]) -> impl Iterator<Item = String> + 'a {
    let strings = module.split(|byte| *byte == 0).filter_map(move |text| text.strip_prefix(key));
    strings.filter_map(|text| String::from_utf8(text.to_vec()).ok()).filter(|text| !text.contains([' ', '\n']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_bring_what_they_need() {
        let directory = tempfile::tempdir().unwrap();
        let module = |name: &str, depends: &str, alias: &str| {
            let text = format!("ELF\0license=GPL\0depends={depends}\0alias={alias}\0");
            fs::write(directory.path().join(name), text).unwrap();
        };
        fs::create_dir(directory.path().join("net")).unwrap();
        module("net/bridge.ko", "stp,llc", "rtnl-link-bridge");
        module("stp.ko", "llc", "");
        module("llc.ko", "", "");
        module("unwanted.ko", "", "");
        let files = read(directory.path()).unwrap();
        let mut names: Vec<&str> = files.iter().map(|f| f.path.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["bridge.ko", "index", "llc.ko", "stp.ko"]);
        let index = String::from_utf8(files.iter().find(|f| f.path == INDEX).unwrap().data.clone()).unwrap();
        assert!(index.contains("bridge stp,llc rtnl-link-bridge\n") && index.contains("llc - \n"), "{index}");
    }
}
