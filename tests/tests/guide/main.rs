//! The guide says what is true: each command of its pages is run, and prints what the page says.
//!
//! `console` blocks are run, in order, in one shell a page, where [`Has`] says; of what they print `…` may stand for something. Other
//! blocks are for the eye: what another host is needed for, and files.
//!
//! What a page's commands print, when one writes it: `scripts/test-e2e.sh 'binary(guide)'`, with NEXTEST_SUCCESS_OUTPUT=immediate.

mod page;
mod place;
mod shell;

use std::path::{Path, PathBuf};

use place::{Has, Place};
use shell::Shell;

/// A test for each page, and what its reader has.
macro_rules! pages {
    ($($test:ident: $has:ident, $file:literal;)*) => {
        $(#[test]
        fn $test() {
            run($file, Has::$has);
        })*
        const PAGES: &[&str] = &[$($file),*];
    };
}

pages! {
    first_pod: Tenant, "tenant/first-pod.md";
    workloads: Tenant, "tenant/workloads.md";
    custom_resources: Tenant, "tenant/custom-resources.md";
    volumes: Tenant, "tenant/volumes.md";
    networks: Tenant, "tenant/networks.md";
    access: Tenant, "tenant/access.md";
    limits: Tenant, "tenant/limits.md";
    admission: Tenant, "tenant/admission.md";
    budgets: Tenant, "tenant/budgets.md";
    audit: Tenant, "tenant/audit.md";
    install: Programs, "operator/install.md";
    tenants: Server, "operator/tenants.md";
    nodes: Server, "operator/nodes.md";
    certificates: Server, "operator/certificates.md";
    backup: Programs, "operator/backup.md";
    encryption: Programs, "operator/encryption.md";
    store: Etcd, "operator/store.md";
    servers: Etcd, "operator/servers.md";
    operators_audit: Server, "operator/audit.md";
    metrics: Server, "operator/metrics.md";
    troubleshooting: Installation, "operator/troubleshooting.md";
    attack: Installation, "operator/attack.md";
}

fn guide() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/guide")).canonicalize().expect("docs/guide")
}

fn read(file: &str) -> String {
    std::fs::read_to_string(guide().join(file)).unwrap_or_else(|e| panic!("docs/guide/{file}: {e}"))
}

/// Runs all of a page, and then says what was not as it says.
fn run(file: &str, has: Has) {
    let commands = page::commands(&read(file));
    let place = Place::make(has);
    let mut shell = Shell::start(&place.directory, &place.environment);
    let mut wrong = Vec::new();
    for command in commands {
        let at = format!("docs/guide/{file}:{}", command.line);
        println!("{at}\n$ {}", command.text);
        let began = std::time::Instant::now();
        let printed = place.shown(shell.run(&place.directory, &command.text));
        println!("{printed}({} ms)\n", began.elapsed().as_millis());
        if !page::is_as_said(&command.expected, &printed) {
            wrong.push(format!("{at}\n$ {}\nthe page says\n{}\nbut it is\n{printed}", command.text, command.expected));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_page_is_run_and_reached() {
    let index = read("README.md");
    let mut files = Vec::new();
    for audience in ["tenant", "operator"] {
        for entry in std::fs::read_dir(guide().join(audience)).unwrap() {
            files.push(format!("{audience}/{}", entry.unwrap().file_name().into_string().unwrap()));
        }
    }
    files.sort();
    let mut pages = PAGES.to_vec();
    pages.sort_unstable();
    assert_eq!(files, pages, "the pages, and those that `pages!` here names");
    for page in pages {
        assert!(index.contains(&format!("({page})")), "docs/guide/README.md has no link to {page}");
    }
}

#[test]
fn every_page_is_of_one_form() {
    for file in PAGES {
        let text = read(file);
        let (title, rest) = text.split_once("\n\n").unwrap();
        assert!(title.starts_with("# "), "{file}: {title}");
        assert!(rest.starts_with("*For "), "{file} begins with whom it is for");
        let last = text.lines().rfind(|line| line.starts_with("## "));
        assert_eq!(last, Some("## What can go wrong"), "{file} ends with it");
        for block in page::blocks(&text) {
            let known = ["console", "sh", "yaml", "text", "ini"].contains(&block.language);
            assert!(known, "{file}: a block of {:?}", block.language);
        }
    }
}

#[test]
fn links_lead_somewhere() {
    for file in PAGES.iter().chain(&["README.md"]) {
        let text = read(file);
        let directory = guide().join(file).parent().unwrap().to_owned();
        let mut links = 0;
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap();
            let there = path.starts_with("https://") || directory.join(path).exists();
            assert!(there, "{file}: {target} leads nowhere");
            links += 1;
        }
        assert!(links > 0, "{file} leads nowhere");
    }
}
