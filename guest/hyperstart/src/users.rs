//! Users by name, from the container's own `/etc/passwd` and `/etc/group`.

use std::path::Path;

use hypernetes_guest_protocol::v1;

use crate::rootfs::Root;

/// These files are the image's; a longer one is read as far as this.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

/// Resolves a user as the OCI image-spec says: `user`, `uid`, `user:group`, `uid:gid`; numbers need no entry.
pub fn resolve(root: &Root, user: &v1::User) -> Result<Credentials, String> {
    let read = |path: &str| {
        let bytes = root.read_tail(Path::new(path), MAX_BYTES).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    resolve_in(&read("/etc/passwd"), &read("/etc/group"), user)
}

fn resolve_in(passwd: &str, group: &str, user: &v1::User) -> Result<Credentials, String> {
    let (name, group_name) = match user.name.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user.name.as_str(), None),
    };
    let rows = |text: &str| -> Vec<Vec<String>> {
        text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect()
    };
    let (users, groups) = (rows(passwd), rows(group));
    let number = |row: &[String], index: usize| row.get(index).and_then(|v| v.parse::<u32>().ok());
    let entry = match user.uid {
        Some(uid) => users.iter().find(|row| number(row, 2) == Some(uid)),
        None => users.iter().find(|row| !name.is_empty() && (row[0] == name || number(row, 2) == name.parse().ok())),
    };
    let uid = match (user.uid, entry) {
        (Some(uid), _) => uid,
        (None, Some(row)) => number(row, 2).ok_or_else(|| format!("the user {name:?} has no uid"))?,
        (None, None) if name.is_empty() => 0,
        (None, None) => {
            name.parse().map_err(|_| format!("unable to find user {name}: no matching entries in passwd file"))?
        }
    };
    let gid = match (user.gid, group_name) {
        (Some(gid), _) => gid,
        (None, Some(wanted)) => groups
            .iter()
            .find(|row| row[0] == wanted)
            .and_then(|row| number(row, 2))
            .or_else(|| wanted.parse().ok())
            .ok_or_else(|| format!("unable to find group {wanted}: no matching entries in group file"))?,
        (None, None) => entry.and_then(|row| number(row, 3)).unwrap_or(0),
    };
    let own_name = entry.map_or("", |row| row[0].as_str());
    let mut all = user.additional_gids.clone();
    // The primary group is one of the supplementary ones, as everywhere.
    all.push(gid);
    for row in groups.iter().filter(|_| !user.strict_groups) {
        let member =
            row.get(3).is_some_and(|members| !own_name.is_empty() && members.split(',').any(|m| m == own_name));
        if let Some(gid) = number(row, 2).filter(|_| member) {
            all.push(gid);
        }
    }
    all.sort_unstable();
    all.dedup();
    let home = entry.and_then(|row| row.get(5)).filter(|home| !home.is_empty());
    Ok(Credentials { uid, gid, groups: all, home: home.cloned().unwrap_or_else(|| "/".into()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001::/srv:/bin/sh\nbroken\n";
    const GROUP: &str = "root:x:0:\nweb:x:1001:\nlog:x:4:web,other\n";

    fn user(name: &str) -> v1::User {
        v1::User { name: name.into(), ..Default::default() }
    }

    #[test]
    fn names_and_numbers() {
        let ids = |u: &v1::User| resolve_in(PASSWD, GROUP, u).map(|c| (c.uid, c.gid, c.groups));
        assert_eq!(ids(&user("")), Ok((0, 0, vec![0])));
        assert_eq!(ids(&user("web")), Ok((1000, 1001, vec![4, 1001])));
        let strict = v1::User { strict_groups: true, ..user("web") };
        assert_eq!(ids(&strict), Ok((1000, 1001, vec![1001])));
        assert_eq!(ids(&user("web:log")), Ok((1000, 4, vec![4])));
        assert_eq!(ids(&user("1000")), Ok((1000, 1001, vec![4, 1001])));
        assert_eq!(ids(&user("77:88")), Ok((77, 88, vec![88])));
        assert!(ids(&user("nobody-here")).is_err());
        assert!(ids(&user("web:no-group")).is_err());
        let numbers = v1::User { uid: Some(5), gid: Some(6), additional_gids: vec![9, 7, 9], ..user("web") };
        assert_eq!(ids(&numbers), Ok((5, 6, vec![6, 7, 9])));
    }
}
