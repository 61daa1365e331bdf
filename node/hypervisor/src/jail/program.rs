//! The program that hyperd starts VMMs with.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    process::ExitCode,
};

use nix::{
    libc,
    sched::{CloneFlags, setns},
};

use super::{Bind, Jail, View, clone, inside};

const NAMESPACES: libc::c_int = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// `hypernetes-vmm --root DIR --uid N --gid N [OPTION VALUE]… -- PROGRAM [ARGUMENT]…`: says the VMM's pid and ends. For
/// hyperd, not for people. The options are the fields of [`Jail`] and [`View`].
pub fn main() -> ExitCode {
    match start(std::env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("locking the VMM in: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(mut words: impl Iterator<Item = OsString>) -> io::Result<()> {
    let (jail, line) = parse(&mut words)?;
    for file in &jail.join {
        // 0: the writer. A single thread is moved without waiting for others.
        fs::write(file, "0").map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", file.display())))?;
    }
    let open = |path| File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(path);
    let group = jail.group.as_ref().map(open).transpose()?;
    let mut namespaces = NAMESPACES;
    if jail.original.is_some() {
        namespaces &= !libc::CLONE_NEWPID;
    }
    match &jail.view.netns {
        Some(path) => setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?,
        None => namespaces |= libc::CLONE_NEWNET,
    }
    match clone::into_namespaces(namespaces, group.as_ref())? {
        0 => {
            let Err(error) = inside::enter(&jail, &line);
            eprintln!("locking the VMM in: {error}");
            std::process::exit(1)
        }
        pid => writeln!(io::stdout(), "{pid}"),
    }
}

fn parse(words: &mut impl Iterator<Item = OsString>) -> io::Result<(Jail, Vec<OsString>)> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
    let (join, view) = (Vec::new(), View::default());
    let mut jail = Jail { root: Default::default(), uid: 0, gid: 0, join, group: None, view, original: None };
    while let Some(word) = words.next() {
        if word == "--" {
            // Never as root, whatever was forgotten.
            let complete = !jail.root.as_os_str().is_empty() && jail.uid != 0 && jail.gid != 0;
            return complete
                .then(|| (jail, words.collect()))
                .ok_or_else(|| wrong("--root, --uid and --gid are needed"));
        }
        let value = words.next().ok_or_else(|| wrong("a value is missing"))?;
        let number = || value.to_str().and_then(|n| n.parse().ok()).ok_or_else(|| wrong("that is not a number"));
        match word.to_str() {
            Some("--root") => jail.root = value.into(),
            Some("--uid") => jail.uid = number()?,
            Some("--gid") => jail.gid = number()?,
            Some("--join") => jail.join.push(value.into()),
            Some("--group") => jail.group = Some(value.into()),
            Some("--device") => jail.view.devices.push(value.into()),
            Some("--supplementary") => jail.view.groups.push(number()?),
            Some("--place") => jail.view.places.push(value.into()),
            Some("--netns") => jail.view.netns = Some(value.into()),
            Some("--output") => jail.view.output = Some(number()?.cast_signed()),
            Some(word @ ("--bind" | "--bind-writable")) => {
                let at = words.next().filter(|word| word == "--at").and_then(|_| words.next());
                let target = at.ok_or_else(|| wrong("--at is missing behind a bind"))?.into();
                jail.view.binds.push(Bind { source: value.into(), target, writable: word == "--bind-writable" });
            }
            Some("--original") => jail.original = Some(value.into()),
            _ => return Err(wrong("an unknown option")),
        }
    }
    Err(wrong("there is no program to run"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hyperd_says_is_what_the_program_hears() {
        let jail = Jail {
            root: "/r".into(),
            uid: 7,
            gid: 8,
            join: vec!["/cg/memory/x/tasks".into(), "/cg/cpu/x/tasks".into()],
            group: Some("/cg/x".into()),
            view: View {
                devices: vec!["/dev/kvm".into()],
                binds: vec![
                    Bind { source: "/opt/vmm".into(), target: "/vmm".into(), writable: false },
                    Bind { source: "/x/run".into(), target: "/run".into(), writable: true },
                ],
                groups: vec![9],
                places: vec!["/disk0".into(), "/disk1".into()],
                netns: Some("/run/netns/x".into()),
                output: Some(3),
            },
            original: Some("/lib.so".into()),
        };
        let mut line = jail.arguments();
        line.extend(["/usr/bin/vmm".into(), "--uid".into()]);
        let (heard, rest) = parse(&mut line.into_iter()).unwrap();
        assert_eq!(heard, jail);
        assert_eq!(rest, ["/usr/bin/vmm", "--uid"]);
        for wrong in [
            "--uid 0 --gid 1 --root / -- x",
            "--uid 1 --gid 1 -- x",
            "--uid",
            "--uid 1",
            "--what 1 -- x",
            "--bind /a /b -- x",
        ] {
            assert!(parse(&mut wrong.split(' ').map(OsString::from)).is_err(), "{wrong}");
        }
    }
}
