//! What CRI has no word for: virtual machines, their templates, and the host.

use anyhow::Result;
use clap::Subcommand;
use hypernetes_hyperd_api::{InfoRequest, ListTemplatesRequest, ListVmsRequest, Template, Vm};
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    connection::Clients,
    cri,
    output::{self, Format, Row},
    units,
};

#[derive(Subcommand)]
pub enum Vms {
    /// List the virtual machines
    #[command(visible_alias = "list")]
    Ls {
        /// Ids only.
        #[arg(long, short)]
        quiet: bool,
    },
}

#[derive(Serialize)]
struct VmRow {
    id: String,
    namespace: String,
    pod: String,
    tenant: String,
    state: String,
    pid: i32,
    cpus: u32,
    memory_bytes: u64,
    resident_bytes: u64,
    disks: u32,
    disk_slots: u32,
    ips: Vec<String>,
    tap: String,
    netns: String,
    kernel: String,
    agent: String,
    /// Unix time, ns.
    created_at: i64,
}

impl From<Vm> for VmRow {
    fn from(vm: Vm) -> Self {
        Self {
            id: vm.sandbox_id,
            namespace: vm.pod_namespace,
            pod: vm.pod_name,
            tenant: vm.tenant,
            state: vm.state,
            pid: vm.pid,
            cpus: vm.cpus,
            memory_bytes: vm.memory_bytes,
            resident_bytes: vm.resident_bytes,
            disks: vm.disks,
            disk_slots: vm.disk_slots,
            ips: vm.ips,
            tap: vm.tap,
            netns: vm.netns,
            kernel: vm.kernel_release,
            agent: vm.agent_version,
            created_at: vm.created_at,
        }
    }
}

impl Row for VmRow {
    const COLUMNS: &'static [&'static str] =
        &["VM", "POD", "TENANT", "STATE", "AGE", "CPUS", "MEMORY", "RESIDENT", "DISKS", "IP", "PID"];

    fn cells(&self) -> Vec<String> {
        vec![
            units::short_id(&self.id),
            format!("{}/{}", self.namespace, self.pod),
            self.tenant.clone(),
            self.state.clone(),
            units::age(self.created_at, Timestamp::now()),
            self.cpus.to_string(),
            units::bytes(self.memory_bytes),
            units::bytes(self.resident_bytes),
            format!("{}/{}", self.disks, self.disk_slots),
            self.ips.join(","),
            self.pid.to_string(),
        ]
    }
}

impl Vms {
    pub async fn run(self, clients: &Clients, format: Format) -> Result<()> {
        let Self::Ls { quiet } = self;
        let vms = clients.hyperd.clone().list_vms(ListVmsRequest {}).await?.into_inner().vms;
        let rows: Vec<VmRow> = vms.into_iter().map(VmRow::from).collect();
        if quiet {
            rows.iter().for_each(|row| println!("{}", row.id));
            return Ok(());
        }
        output::print(format, &rows)
    }
}

#[derive(Subcommand)]
pub enum Templates {
    /// List the templates, the one used last first
    #[command(visible_alias = "list")]
    Ls,
}

#[derive(Serialize)]
struct TemplateRow {
    tenant: String,
    cpus: u32,
    memory_bytes: u64,
    disk_slots: u32,
    network: bool,
    bytes: u64,
    copies: u64,
}

impl From<Template> for TemplateRow {
    fn from(template: Template) -> Self {
        Self {
            tenant: template.tenant,
            cpus: template.cpus,
            memory_bytes: template.memory_bytes,
            disk_slots: template.disk_slots,
            network: template.network,
            bytes: template.bytes,
            copies: template.copies,
        }
    }
}

impl Row for TemplateRow {
    const COLUMNS: &'static [&'static str] = &["TENANT", "CPUS", "MEMORY", "DISKS", "NETWORK", "TAKES", "COPIES"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.tenant.clone(),
            self.cpus.to_string(),
            units::bytes(self.memory_bytes),
            self.disk_slots.to_string(),
            if self.network { "yes" } else { "no" }.into(),
            units::bytes(self.bytes),
            self.copies.to_string(),
        ]
    }
}

impl Templates {
    pub async fn run(self, clients: &Clients, format: Format) -> Result<()> {
        let Self::Ls = self;
        let templates = clients.hyperd.clone().list_templates(ListTemplatesRequest {}).await?.into_inner().templates;
        output::print(format, &templates.into_iter().map(TemplateRow::from).collect::<Vec<_>>())
    }
}

/// Show what runs VMs here, and whether it is ready
#[derive(clap::Args)]
pub struct Info {}

#[derive(Serialize)]
struct Fact {
    name: String,
    value: String,
}

impl Row for Fact {
    const COLUMNS: &'static [&'static str] = &["WHAT", "IS"];

    fn cells(&self) -> Vec<String> {
        vec![self.name.clone(), self.value.clone()]
    }
}

impl Info {
    pub async fn run(self, clients: &Clients, format: Format) -> Result<()> {
        let mut runtime = clients.runtime.clone();
        let version = runtime.version(cri::VersionRequest::default()).await?.into_inner();
        let status = runtime.status(cri::StatusRequest { verbose: false }).await?.into_inner().status;
        let info = clients.hyperd.clone().info(InfoRequest {}).await?.into_inner();
        let resident: u64 = info.machines.iter().map(|machine| machine.resident_bytes).sum();
        let mut facts = vec![
            ("runtime".to_owned(), format!("{} {}", version.runtime_name, version.runtime_version)),
            ("CRI".to_owned(), version.runtime_api_version),
            ("VMM".to_owned(), info.vmm),
            ("accelerator".to_owned(), format!("{} ({})", info.accelerator, info.accelerator_reason)),
            ("guest kernel".to_owned(), info.kernel),
            ("VMs".to_owned(), format!("{}, {} resident", info.machines.len(), units::bytes(resident))),
        ];
        for condition in status.into_iter().flat_map(|status| status.conditions) {
            let value = if condition.status { "yes".to_owned() } else { format!("no: {}", condition.message) };
            facts.push((condition.r#type, value));
        }
        let facts: Vec<Fact> = facts.into_iter().map(|(name, value)| Fact { name, value }).collect();
        output::print(format, &facts)
    }
}
