//! Who a container's processes are: the users of the pod, and those of its image.

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::PodSpec;
use sha2::{Digest, Sha256};

/// Users that each pod has of its own; the first as many are the node's.
const LENGTH: u32 = 65536;

/// What `hostUsers: false` asks the runtime for. The users come from the pod's uid, so that they are the same after every restart of
/// the kubelet; two pods of many can have the same, which parts them still, as each is a virtual machine.
pub fn namespace(spec: &PodSpec, uid: &str) -> Option<cri::UserNamespace> {
    if spec.host_users != Some(false) {
        return None;
    }
    let digest = Sha256::digest(uid);
    let ranges = u32::MAX / LENGTH - 1;
    let range = 1 + u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]) % ranges;
    let mapping = vec![cri::IdMapping { host_id: range * LENGTH, container_id: 0, length: LENGTH }];
    Some(cri::UserNamespace { mode: cri::NamespaceMode::Pod.into(), uids: mapping.clone(), gids: mapping })
}

/// CRI wants a user where it is given a group: the image's, or root.
pub fn complete(context: &mut cri::LinuxContainerSecurityContext, image: Option<&cri::Image>) {
    if context.run_as_group.is_none() || context.run_as_user.is_some() {
        return;
    }
    match image {
        Some(cri::Image { uid: Some(uid), .. }) => context.run_as_user = Some(*uid),
        Some(image) if !image.username.is_empty() => context.run_as_username.clone_from(&image.username),
        _ => context.run_as_user = Some(cri::Int64Value { value: 0 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_users_of_its_own_when_it_asks_for_them() {
        let spec = |host_users| PodSpec { host_users, ..Default::default() };
        assert_eq!(namespace(&spec(None), "a"), None);
        assert_eq!(namespace(&spec(Some(true)), "a"), None);
        let own = namespace(&spec(Some(false)), "a").unwrap();
        assert_eq!(own, namespace(&spec(Some(false)), "a").unwrap());
        assert_ne!(own, namespace(&spec(Some(false)), "b").unwrap());
        for n in 0..1000 {
            let own = namespace(&spec(Some(false)), &n.to_string()).unwrap();
            let mapping = &own.uids[0];
            assert!(own.uids == own.gids && mapping.host_id >= LENGTH);
            assert!(mapping.host_id.checked_add(mapping.length).is_some());
        }
    }

    #[test]
    fn a_group_has_a_user() {
        let number = |value| Some(cri::Int64Value { value });
        let context = |user, group| cri::LinuxContainerSecurityContext {
            run_as_user: user,
            run_as_group: group,
            ..Default::default()
        };
        let completed = |mut context, image: Option<cri::Image>| {
            complete(&mut context, image.as_ref());
            (context.run_as_user.map(|user| user.value), context.run_as_username)
        };
        let named = cri::Image { username: "web".into(), ..Default::default() };
        let numbered = cri::Image { uid: number(7), ..Default::default() };
        assert_eq!(completed(context(None, number(5)), Some(named.clone())), (None, "web".into()));
        assert_eq!(completed(context(None, number(5)), Some(numbered)), (Some(7), String::new()));
        assert_eq!(completed(context(None, number(5)), None), (Some(0), String::new()));
        assert_eq!(completed(context(number(3), number(5)), Some(named.clone())), (Some(3), String::new()));
        assert_eq!(completed(context(None, None), Some(named)), (None, String::new()));
    }
}
