//! `hypernetes attack`: plays the attackers of docs/threat-model.md against a running system, and says what happened.
//!
//! [`ATTACKS`] is the table: the claim that an attack would refute, its name, and what carries it out. Each area has a file.
//! Attackers are throwaway tenants, made at the beginning and removed at the end; the victim is another such tenant.

mod admission;
mod attacker;
mod audit;
mod controllers;
mod credentials;
mod definitions;
mod findings;
mod floods;
mod guests;
mod images;
mod measure;
mod names;
mod network;
mod nodes;
mod operators;
mod pods;
mod relay;
mod requests;
mod stage;
mod tenancy;
mod wire;
mod writes;

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use futures::future::LocalBoxFuture;

pub use self::attacker::run as attacker;
use self::{findings::Findings, stage::Stage};
use crate::Root;

/// Play the attackers against a running system, and say by claim of docs/threat-model.md what happened
///
/// It makes three tenants of its own and removes them at the end. Floods are loud: whoever else uses the system may be told to
/// come back later. Exits with 0 when everything held, 3 when an attack succeeded, 4 when none did but one could not be
/// carried out.
#[derive(clap::Args)]
pub struct Attack {
    #[command(flatten)]
    root: Root,
    /// How long each flood lasts, in seconds.
    #[arg(long, value_name = "N", default_value_t = 5)]
    seconds: u64,
    /// Measure instead what each flood costs another tenant: so many quiet windows and as many flooded ones, in turn, each of
    /// --seconds. Needs root.
    #[arg(long, value_name = "N")]
    windows: Option<usize>,
    /// Of the floods only those whose name begins so, in windows.
    #[arg(long, requires = "windows", default_value = "")]
    flood: String,
    /// What its pods run: an image that is there already, with a shell's programs.
    #[arg(long, default_value = "demo/web:1")]
    image: String,
    /// An address that hyperd has been configured to have a registry at (hosts.toml in its certs.d): a hostile one is served there.
    #[arg(long, value_name = "ADDRESS:PORT")]
    registry: Option<SocketAddr>,
    /// Attack nothing: remove the tenants that attacks have left which were killed.
    #[arg(long)]
    clear: bool,
    /// Only attacks on these claims (C1), or of these names (floods).
    only: Vec<String>,
}

/// One line of the table.
struct Line {
    /// As in docs/threat-model.md.
    claim: &'static str,
    says: &'static str,
    name: &'static str,
    run: for<'a> fn(&'a Stage, &'a mut Findings) -> LocalBoxFuture<'a, Result<()>>,
}

const ATTACKS: &[Line] = &[
    Line {
        claim: "C1",
        says: "nothing that a tenant writes becomes a path, a key, a URL or a rule",
        name: "names",
        run: |stage, findings| Box::pin(names::run(stage, findings)),
    },
    Line {
        claim: "C2",
        says: "no object stops or delays what acts for other tenants",
        name: "controllers",
        run: |stage, findings| Box::pin(controllers::run(stage, findings)),
    },
    Line {
        claim: "C3",
        says: "a write does what it says, for whom may, or is refused",
        name: "writes",
        run: |stage, findings| Box::pin(writes::run(stage, findings)),
    },
    Line {
        claim: "C4",
        says: "nobody reads or writes what is another tenant's or the operator's",
        name: "tenancy",
        run: |stage, findings| Box::pin(tenancy::run(stage, findings)),
    },
    Line {
        claim: "C4",
        says: "nobody reads or writes what is another tenant's or the operator's",
        name: "operators",
        run: |stage, findings| Box::pin(operators::run(stage, findings)),
    },
    Line {
        claim: "C4",
        says: "nobody reads or writes what is another tenant's or the operator's",
        name: "definitions",
        run: |stage, findings| Box::pin(definitions::run(stage, findings)),
    },
    Line {
        claim: "C4",
        says: "nobody reads or writes what is another tenant's or the operator's",
        name: "admission",
        run: |stage, findings| Box::pin(admission::run(stage, findings)),
    },
    Line {
        claim: "C4",
        says: "nobody reads or writes what is another tenant's or the operator's",
        name: "relay",
        run: |stage, findings| Box::pin(relay::run(stage, findings)),
    },
    Line {
        claim: "C5",
        says: "a node's credential reaches what the pods bound to it need, and no more",
        name: "nodes",
        run: |stage, findings| Box::pin(nodes::run(stage, findings)),
    },
    Line {
        claim: "C6",
        says: "nobody, known or unknown, keeps the others from being served, nor takes the server's memory",
        name: "floods",
        run: |stage, findings| Box::pin(floods::run(stage, findings)),
    },
    Line {
        claim: "C7",
        says: "what is signed for one tenant is good in no other, and ends with its tenant",
        name: "credentials",
        run: |stage, findings| Box::pin(credentials::run(stage, findings)),
    },
    Line {
        claim: "C8",
        says: "a pod sends as itself alone, and reaches its own network alone",
        name: "network",
        run: |stage, findings| Box::pin(network::run(stage, findings)),
    },
    Line {
        claim: "C9",
        says: "what a pod does in its VM holds up neither its node nor other tenants' pods",
        name: "guests",
        run: |stage, findings| Box::pin(guests::run(stage, findings)),
    },
    Line {
        claim: "C9",
        says: "what a pod does in its VM holds up neither its node nor other tenants' pods",
        name: "images",
        run: |stage, findings| Box::pin(images::run(stage, findings)),
    },
    Line {
        claim: "C10",
        says: "what a tenant does is recorded as it was, and no other tenant's record is touched",
        name: "audit",
        run: |stage, findings| Box::pin(audit::run(stage, findings)),
    },
];

const SUCCEEDED: u8 = 3;
const NOT_CARRIED_OUT: u8 = 4;

impl Attack {
    /// The exit code.
    pub async fn run(self) -> Result<u8> {
        let chosen: Vec<&Line> = ATTACKS.iter().filter(|line| self.is_chosen(line)).collect();
        anyhow::ensure!(!chosen.is_empty(), "there is no such attack: {}", self.only.join(", "));
        if self.clear {
            return stage::clear_all(&self.root).await.map(|()| 0);
        }
        let mut stop = hypernetes_daemon::stop_signal();
        let stage =
            Stage::set(&self.root, Duration::from_secs(self.seconds), self.image.clone(), self.registry).await?;
        let result = tokio::select! {
            result = self.carry_out(&stage, chosen) => result,
            _ = stop.changed() => Err(anyhow::anyhow!("stopped: what it made is removed")),
        };
        stage.clear().await?;
        result
    }

    /// The exit code.
    async fn carry_out(&self, stage: &Stage, chosen: Vec<&Line>) -> Result<u8> {
        if let Some(windows) = self.windows {
            return measure::run(stage, windows, &self.flood).await.map(|()| 0);
        }
        let mut verdict = 0;
        for line in chosen {
            println!("{}  {}", line.claim, line.says);
            let mut findings = Findings::default();
            let carried_out = (line.run)(stage, &mut findings).await;
            println!("    {}: {findings}", line.name);
            if let Err(error) = carried_out {
                println!("    could not be carried out: {error:#}");
                verdict = verdict.max(NOT_CARRIED_OUT);
            }
            if findings.succeeded() > 0 {
                verdict = SUCCEEDED;
            }
            if verdict != SUCCEEDED && findings.not_carried_out() > 0 {
                verdict = NOT_CARRIED_OUT;
            }
        }
        println!(
            "{}",
            match verdict {
                0 => "everything held",
                SUCCEEDED => "an attack SUCCEEDED",
                _ => "no attack succeeded, but not all could be carried out",
            }
        );
        Ok(verdict)
    }

    fn is_chosen(&self, line: &Line) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == line.name || only.eq_ignore_ascii_case(line.claim))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threat_model_has_every_claim_in_these_words() {
        let text = include_str!("../../../docs/threat-model.md");
        for line in ATTACKS {
            let row = format!("| {} | {} |", line.claim, line.says);
            assert!(text.contains(&row), "docs/threat-model.md has no {row:?}");
        }
    }
}
