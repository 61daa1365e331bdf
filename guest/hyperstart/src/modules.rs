//! Kernel modules on demand: the kernel runs this program as its `modprobe` once hyperd has sent modules.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use crate::files;

/// The file set that hyperd sends them in.
pub const SET: &str = "modules";
/// How the kernel calls it: `modprobe -q -- NAME` (`kernel/module/kmod.c`).
pub const QUIETLY: &str = "-q";

/// From now on the kernel asks for what it misses.
pub fn serve() -> io::Result<()> {
    fs::write("/proc/sys/kernel/modprobe", "/proc/1/exe")
}

/// Loads the module that the kernel has asked for, by its name or an alias.
pub fn modprobe(arguments: impl Iterator<Item = String>) -> ExitCode {
    let Some(wanted) = arguments.last() else { return ExitCode::FAILURE };
    let Some(directory) = files::directory(SET) else { return ExitCode::FAILURE };
    let index = fs::read_to_string(directory.join("index")).unwrap_or_default();
    let order = order(&index, &wanted);
    let loaded = order.iter().try_for_each(|name| load(&directory, name));
    if loaded.is_ok() && !order.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn load(directory: &Path, name: &str) -> io::Result<()> {
    let file = fs::File::open(directory.join(PathBuf::from(format!("{name}.ko"))))?;
    match nix::kmod::finit_module(&file, c"", nix::kmod::ModuleInitFlags::empty()) {
        Ok(()) | Err(nix::Error::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

struct Line<'a> {
    name: &'a str,
    depends: Vec<&'a str>,
    aliases: Vec<&'a str>,
}

fn lines(index: &str) -> impl Iterator<Item = Line<'_>> {
    index.lines().filter_map(|line| {
        let mut words = line.split(' ').filter(|word| !word.is_empty());
        let (name, depends) = (words.next()?, words.next()?);
        let depends = depends.split(',').filter(|name| *name != "-").collect();
        Some(Line { name, depends, aliases: words.collect() })
    })
}

/// Modules to load, each behind what it depends on; none when nothing has the name.
fn order(index: &str, wanted: &str) -> Vec<String> {
    let plain = wanted.replace('-', "_");
    let found = lines(index).find(|line| line.name == plain || line.aliases.iter().any(|alias| fits(alias, wanted)));
    let (mut order, mut under_way) = (Vec::new(), HashSet::new());
    if let Some(line) = found {
        add(index, line.name, &mut order, &mut under_way);
    }
    order
}

fn add(index: &str, name: &str, order: &mut Vec<String>, under_way: &mut HashSet<String>) {
    let name = name.replace('-', "_");
    let Some(line) = lines(index).find(|line| line.name == name) else { return };
    // Each once, and no circle for ever.
    if under_way.insert(name.clone()) {
        line.depends.iter().for_each(|name| add(index, name, order, under_way));
        order.push(name);
    }
}

/// Whether a name fits an alias, in which `*` stands for anything.
fn fits(alias: &str, name: &str) -> bool {
    match alias.split_once('*') {
        None => alias == name,
        Some((start, rest)) => name
            .strip_prefix(start)
            .is_some_and(|left| (0..=left.len()).any(|at| left.get(at..).is_some_and(|tail| fits(rest, tail)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_aliases_are_found() {
        let index = "bridge stp,llc rtnl-link-bridge\nstp llc \nllc - \nloop loop block-major-7-* a*b*c\n";
        assert_eq!(order(index, "rtnl-link-bridge"), ["llc", "stp", "bridge"]);
        assert_eq!(order(index, "stp"), ["llc", "stp"]);
        assert_eq!(order(index, "block-major-7-3"), ["loop"]);
        assert_eq!(order(index, "axxbyc"), ["loop"]);
        assert!(order(index, "nothing").is_empty() && order("", "x").is_empty());
    }
}
