//! The process of a container, put together from CRI's configuration and the image's, by the rules that CRI and
//! Docker share.

use std::collections::BTreeSet;

use hypernetes_guest_protocol::v1;
use hypernetes_image::ImageConfig;
use k8s_cri::v1 as cri;

use crate::{
    error::{Error, Result},
    seccomp,
};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What Docker, and so every CRI runtime, gives a container that asks for nothing.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// All of Linux 6.1, in the order of their numbers (`linux/capability.h`).
const ALL_CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The container's first process.
pub(crate) fn container(config: &cri::ContainerConfig, image: &ImageConfig, hostname: &str) -> Result<v1::Process> {
    let default_context = cri::LinuxContainerSecurityContext::default();
    let context = config.linux.as_ref().and_then(|l| l.security_context.as_ref()).unwrap_or(&default_context);
    let (capabilities, ambient_capabilities) = capabilities(context)?;
    let seccomp = seccomp::filters(context, &capabilities)?;
    let (env, raw_env) = environment(config, image, hostname)?;
    let adjustment = config.linux.as_ref().and_then(|l| l.resources.as_ref()).map_or(0, |r| r.oom_score_adj);
    if !(-1000..=1000).contains(&adjustment) {
        return Err(Error::InvalidArgument(format!("oom_score_adj {adjustment} is not between -1000 and 1000")));
    }
    let cwd = [config.working_dir.as_str(), image.working_dir.as_str(), "/"].into_iter().find(|d| !d.is_empty());
    Ok(v1::Process {
        args: arguments(config, image)?,
        env,
        raw_env,
        cwd: cwd.unwrap_or("/").into(),
        tty: config.tty,
        stdin: config.stdin,
        user: Some(user(context, image)?),
        capabilities,
        ambient_capabilities,
        no_new_privileges: context.no_new_privs && !context.privileged,
        privileged: context.privileged,
        seccomp,
        oom_score_adj: i32::try_from(adjustment).ok(),
        ..Default::default()
    })
}

/// A further process in a container: the container's own, with another command.
pub(crate) fn exec(first: &v1::Process, command: Vec<String>, tty: bool, stdin: bool) -> Result<v1::Process> {
    if command.is_empty() {
        return Err(Error::InvalidArgument("no command to run".into()));
    }
    Ok(v1::Process { args: command, tty, stdin, ..first.clone() })
}

/// CRI's `command` replaces the image's entrypoint and its command; `args` replaces the command only.
fn arguments(config: &cri::ContainerConfig, image: &ImageConfig) -> Result<Vec<String>> {
    let command = if config.command.is_empty() { &image.entrypoint } else { &config.command };
    let args = if config.args.is_empty() && config.command.is_empty() { &image.cmd } else { &config.args };
    let arguments: Vec<String> = command.iter().chain(args).cloned().collect();
    if arguments.first().is_none_or(String::is_empty) {
        return Err(Error::InvalidArgument("no command specified, neither by the container nor by its image".into()));
    }
    if arguments.iter().any(|a| a.contains('\0')) {
        return Err(Error::InvalidArgument("an argument holds a zero byte".into()));
    }
    Ok(arguments)
}

/// Later settings win: defaults, image, container. What is not UTF-8 comes second.
///
/// # Errors
/// `InvalidArgument` for what cannot be in an environment.
fn environment(
    config: &cri::ContainerConfig,
    image: &ImageConfig,
    hostname: &str,
) -> Result<(Vec<String>, Vec<Vec<u8>>)> {
    let name_of = |setting: &[u8]| setting.split(|b| *b == b'=').next().unwrap_or_default().to_owned();
    let mut env = vec![DEFAULT_PATH.as_bytes().to_vec(), format!("HOSTNAME={hostname}").into_bytes()];
    if config.tty {
        env.push(b"TERM=xterm".to_vec());
    }
    let mut own = Vec::new();
    for setting in &config.envs {
        if setting.key.is_empty() || setting.key.contains(['=', '\0']) || setting.value.contains(&0) {
            let key: String = setting.key.chars().take(100).collect();
            return Err(Error::InvalidArgument(format!("the environment variable {key:?} is not possible")));
        }
        own.push([setting.key.as_bytes(), b"=", &setting.value].concat());
    }
    // An image's author may have written anything.
    let of_image = image.env.iter().filter(|e| !e.contains('\0') && !e.starts_with('='));
    for setting in of_image.map(|e| e.clone().into_bytes()).chain(own) {
        let name = name_of(&setting);
        match env.iter_mut().find(|present| name_of(present) == name) {
            Some(present) => *present = setting,
            None => env.push(setting),
        }
    }
    let (mut text, mut raw) = (Vec::new(), Vec::new());
    for setting in env {
        match String::from_utf8(setting) {
            Ok(setting) => text.push(setting),
            Err(error) => raw.push(error.into_bytes()),
        }
    }
    Ok((text, raw))
}

fn user(context: &cri::LinuxContainerSecurityContext, image: &ImageConfig) -> Result<v1::User> {
    let id = |what: &str, value: i64| {
        u32::try_from(value).map_err(|_| Error::InvalidArgument(format!("{what} {value} is out of range")))
    };
    let strict = cri::SupplementalGroupsPolicy::Strict;
    let mut user = v1::User { strict_groups: context.supplemental_groups_policy() == strict, ..Default::default() };
    if let Some(uid) = &context.run_as_user {
        user.uid = Some(id("runAsUser", uid.value)?);
    } else if context.run_as_username.is_empty() {
        user.name = image.user.clone();
    } else {
        user.name = context.run_as_username.clone();
    }
    if let Some(gid) = &context.run_as_group {
        if context.run_as_user.is_none() && user.name.is_empty() {
            return Err(Error::InvalidArgument("runAsGroup is set, but no user to run as".into()));
        }
        user.gid = Some(id("runAsGroup", gid.value)?);
    }
    for gid in &context.supplemental_groups {
        user.additional_gids.push(id("supplementalGroups", *gid)?);
    }
    Ok(user)
}

/// The capabilities of a container: bounding, permitted and effective ones, and ambient ones.
fn capabilities(context: &cri::LinuxContainerSecurityContext) -> Result<(Vec<String>, Vec<String>)> {
    if context.privileged {
        return Ok((names(&ALL_CAPABILITIES), Vec::new()));
    }
    let none = cri::Capability::default();
    let wanted = context.capabilities.as_ref().unwrap_or(&none);
    let (add, drop) = (parse(&wanted.add_capabilities)?, parse(&wanted.drop_capabilities)?);
    let ambient = parse(&wanted.add_ambient_capabilities)?;
    let mut set: BTreeSet<&str> = if add.all {
        ALL_CAPABILITIES.into()
    } else if drop.all {
        BTreeSet::new()
    } else {
        DEFAULT_CAPABILITIES.into()
    };
    set.extend(&add.names);
    set.extend(&ambient.names);
    for name in &drop.names {
        set.remove(name);
    }
    let ambient: Vec<String> = ambient.names.iter().filter(|n| set.contains(*n)).map(|n| (*n).to_owned()).collect();
    Ok((set.into_iter().map(str::to_owned).collect(), ambient))
}

struct Named {
    all: bool,
    names: Vec<&'static str>,
}

fn parse(wanted: &[String]) -> Result<Named> {
    let mut named = Named { all: false, names: Vec::new() };
    for text in wanted {
        let upper = text.to_ascii_uppercase();
        let name = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        if name == "CAP_ALL" {
            named.all = true;
            continue;
        }
        let known = ALL_CAPABILITIES.iter().find(|c| **c == name);
        named.names.push(known.ok_or_else(|| Error::InvalidArgument(format!("unknown capability {text:?}")))?);
    }
    Ok(named)
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ImageConfig {
        ImageConfig {
            entrypoint: vec!["/entry".into()],
            cmd: vec!["a".into()],
            env: vec!["A=1".into(), "PATH=/bin".into()],
            user: "web".into(),
            working_dir: "/srv".into(),
            ..Default::default()
        }
    }

    fn strings(list: &[&str]) -> Vec<String> {
        names(list)
    }

    #[test]
    fn entrypoint_and_command() {
        for (command, args, expected) in [
            (&[][..], &[][..], &["/entry", "a"][..]),
            (&[], &["b"], &["/entry", "b"]),
            (&["/c"], &[], &["/c"]),
            (&["/c"], &["b"], &["/c", "b"]),
        ] {
            let config = cri::ContainerConfig { command: strings(command), args: strings(args), ..Default::default() };
            assert_eq!(arguments(&config, &image()).unwrap(), expected);
        }
        assert!(arguments(&cri::ContainerConfig::default(), &ImageConfig::default()).is_err());
    }

    #[test]
    fn environment_and_user() {
        let config = cri::ContainerConfig {
            envs: vec![
                cri::KeyValue { key: "A".into(), value: "x=y".into() },
                cri::KeyValue { key: "B".into(), value: vec![0xff] },
            ],
            ..Default::default()
        };
        let process = container(&config, &image(), "pod-1").unwrap();
        assert_eq!(process.env, ["PATH=/bin", "HOSTNAME=pod-1", "A=x=y"]);
        assert_eq!(process.raw_env, [b"B=\xff".to_vec()]);
        for (key, value) in [("", "x"), ("A=B", "x"), ("A", "x\0y")] {
            let envs = vec![cri::KeyValue { key: key.into(), value: value.into() }];
            assert!(container(&cri::ContainerConfig { envs, ..Default::default() }, &image(), "").is_err(), "{key}");
        }
        assert_eq!(process.user.unwrap().name, "web");
        assert_eq!(process.cwd, "/srv");
        let context = cri::LinuxContainerSecurityContext {
            run_as_user: Some(cri::Int64Value { value: 1000 }),
            run_as_group: Some(cri::Int64Value { value: -1 }),
            ..Default::default()
        };
        assert!(user(&context, &image()).is_err());
        let group_alone = cri::LinuxContainerSecurityContext {
            run_as_group: Some(cri::Int64Value { value: 1 }),
            ..Default::default()
        };
        assert!(user(&group_alone, &ImageConfig::default()).is_err());
        let strict = cri::LinuxContainerSecurityContext { supplemental_groups_policy: 1, ..Default::default() };
        assert!(user(&strict, &image()).unwrap().strict_groups);
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        let with = |add: &[&str], drop: &[&str]| {
            capabilities(&cri::LinuxContainerSecurityContext {
                capabilities: Some(cri::Capability {
                    add_capabilities: strings(add),
                    drop_capabilities: strings(drop),
                    add_ambient_capabilities: vec![],
                }),
                ..Default::default()
            })
        };
        assert_eq!(with(&[], &[]).unwrap().0.len(), 14);
        assert_eq!(with(&["NET_ADMIN"], &["ALL"]).unwrap().0, ["CAP_NET_ADMIN"]);
        assert_eq!(with(&["ALL"], &["cap_sys_admin"]).unwrap().0.len(), 40);
        assert!(with(&["NO_SUCH"], &[]).is_err());
    }
}
