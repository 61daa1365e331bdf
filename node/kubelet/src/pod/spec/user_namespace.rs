//! The users of a pod that wants its own (`hostUsers: false`).

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::PodSpec;
use sha2::{Digest, Sha256};

/// Users that each pod has of its own; the first as many are the node's.
const LENGTH: u32 = 65536;

/// What `hostUsers: false` asks the runtime for. The users come from the pod's uid, so that they are the same after every restart of
/// the kubelet; two pods of many can have the same, which parts them still, as each is a virtual machine.
pub fn of(spec: &PodSpec, uid: &str) -> Option<cri::UserNamespace> {
    if spec.host_users != Some(false) {
        return None;
    }
    let digest = Sha256::digest(uid);
    let ranges = u32::MAX / LENGTH - 1;
    let range = 1 + u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]) % ranges;
    let mapping = vec![cri::IdMapping { host_id: range * LENGTH, container_id: 0, length: LENGTH }];
    Some(cri::UserNamespace { mode: cri::NamespaceMode::Pod.into(), uids: mapping.clone(), gids: mapping })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_users_of_its_own_when_it_asks_for_them() {
        let spec = |host_users| PodSpec { host_users, ..Default::default() };
        assert_eq!(of(&spec(None), "a"), None);
        assert_eq!(of(&spec(Some(true)), "a"), None);
        let own = of(&spec(Some(false)), "a").unwrap();
        assert_eq!(own, of(&spec(Some(false)), "a").unwrap());
        assert_ne!(own, of(&spec(Some(false)), "b").unwrap());
        for n in 0..1000 {
            let own = of(&spec(Some(false)), &n.to_string()).unwrap();
            let mapping = &own.uids[0];
            assert!(own.uids == own.gids && mapping.host_id >= LENGTH);
            assert!(mapping.host_id.checked_add(mapping.length).is_some());
        }
    }
}
