//! What can be asked of a server, by name: `create@8`.

mod collection;
mod objects;
mod rights;
mod tenants;
mod watch;

use std::{fmt, str::FromStr, time::Duration};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::{load::Sample, stage::Stage};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Kind {
    Create,
    Get,
    Update,
    Patch,
    Delete,
    List,
    Pages,
    Watch,
    Tenants,
    Rights,
}

/// A kind of load and its size: clients, objects, watchers, tenants, or roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    pub kind: Kind,
    pub size: usize,
}

const NAMES: [(Kind, &str); 10] = [
    (Kind::Create, "create"),
    (Kind::Get, "get"),
    (Kind::Update, "update"),
    (Kind::Patch, "patch"),
    (Kind::Delete, "delete"),
    (Kind::List, "list"),
    (Kind::Pages, "pages"),
    (Kind::Watch, "watch"),
    (Kind::Tenants, "tenants"),
    (Kind::Rights, "rights"),
];

/// What both a tenant's credential and any other server can be asked for.
pub const USUAL: &str = "create@1,create@8,create@64,create@256,get@8,get@64,update@8,patch@8,delete@8,list@2000,list@10000,\
                         pages@10000,watch@1,watch@100,watch@1000";

impl FromStr for Workload {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, size) = text.split_once('@').context("NAME@SIZE is wanted")?;
        let Some((kind, _)) = NAMES.iter().find(|(_, known)| *known == name) else {
            bail!("{name:?} is none of {}", NAMES.map(|(_, name)| name).join(", "));
        };
        let size = size.parse()?;
        if size == 0 {
            bail!("{text}: nothing would be asked for");
        }
        Ok(Self { kind: *kind, size })
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(kind, _)| *kind == self.kind).map_or("", |(_, name)| name);
        write!(f, "{name}@{}", self.size)
    }
}

/// How long, and what else is said once for all workloads.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub lasts: Duration,
    /// Clients of lists, and of loads whose size is something else.
    pub list_clients: usize,
    pub clients: usize,
    /// A watched namespace's.
    pub writes_per_second: u32,
    /// What deletion finds.
    pub delete_objects: usize,
}

impl Workload {
    /// What is needed for all runs of it. Removed by [`Workload::clean`].
    pub async fn prepare(self, stage: &Stage) -> Result<()> {
        let namespace = stage.namespace(&self.to_string());
        match self.kind {
            Kind::Create | Kind::Delete => stage.fill(&namespace, 0).await,
            Kind::Get | Kind::Update | Kind::Patch => stage.fill(&namespace, objects::STANDING).await,
            Kind::Watch => stage.fill(&namespace, watch::OBJECTS).await,
            Kind::List | Kind::Pages => stage.fill(&namespace, self.size).await,
            Kind::Tenants => tenants::make(stage, self.size).await,
            Kind::Rights => {
                stage.fill(&namespace, objects::STANDING).await?;
                rights::make(stage, self.size).await
            }
        }
    }

    pub async fn run(self, stage: &Stage, settings: &Settings) -> Result<Sample> {
        let namespace = stage.namespace(&self.to_string());
        let Self { kind, size } = self;
        match kind {
            Kind::Create => {
                let sample = objects::create(stage, &namespace, size, settings.lasts).await?;
                stage.empty(&namespace).await?;
                Ok(sample)
            }
            Kind::Get => objects::get(stage, &namespace, size, settings.lasts).await,
            Kind::Update => objects::update(stage, &namespace, size, settings.lasts).await,
            Kind::Patch => objects::patch(stage, &namespace, size, settings.lasts).await,
            Kind::Delete => {
                stage.add(&namespace, settings.delete_objects).await?;
                let sample = objects::delete(stage, &namespace, size, settings).await?;
                stage.empty(&namespace).await?;
                Ok(sample)
            }
            Kind::List => collection::list(stage, &namespace, size, settings).await,
            Kind::Pages => collection::pages(stage, &namespace, size, settings).await,
            Kind::Watch => watch::run(stage, &namespace, size, settings).await,
            Kind::Tenants => tenants::run(stage, size, settings).await,
            Kind::Rights => objects::get(stage, &namespace, settings.clients, settings.lasts).await,
        }
    }

    pub async fn clean(self, stage: &Stage) -> Result<()> {
        match self.kind {
            Kind::Tenants => tenants::remove(stage, self.size).await,
            Kind::Rights => {
                rights::remove(stage, self.size).await?;
                stage.remove(&stage.namespace(&self.to_string())).await
            }
            _ => stage.remove(&stage.namespace(&self.to_string())).await,
        }
    }
}
