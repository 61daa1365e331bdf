//! The program that hyperd starts VMMs with.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    process::ExitCode,
};

use nix::libc;

use super::{Jail, clone, inside};

const NAMESPACES: libc::c_int =
    libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// `hypernetes-vmm --root DIR --uid N --gid N [--join FILE]… [--group DIR] [--device FILE]… [--original LIBRARY] -- PROGRAM
/// [ARGUMENT]…`: says the VMM's pid and ends. For hyperd, not for people.
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
    let namespaces = if jail.original.is_some() { NAMESPACES & !libc::CLONE_NEWPID } else { NAMESPACES };
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
    let (join, devices) = (Vec::new(), Vec::new());
    let mut jail = Jail { root: Default::default(), uid: 0, gid: 0, join, group: None, devices, original: None };
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
            Some("--device") => jail.devices.push(value.into()),
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
            devices: vec!["/dev/kvm".into()],
            original: Some("/lib.so".into()),
        };
        let mut line = jail.arguments();
        line.extend(["/usr/bin/vmm".into(), "--uid".into()]);
        let (heard, rest) = parse(&mut line.into_iter()).unwrap();
        assert_eq!(heard, jail);
        assert_eq!(rest, ["/usr/bin/vmm", "--uid"]);
        for wrong in ["--uid 0 --gid 1 --root / -- x", "--uid 1 --gid 1 -- x", "--uid", "--uid 1", "--what 1 -- x"] {
            assert!(parse(&mut wrong.split(' ').map(OsString::from)).is_err(), "{wrong}");
        }
    }
}
