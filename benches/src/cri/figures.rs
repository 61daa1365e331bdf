//! Durations by what took them.

use std::{collections::BTreeMap, fmt, time::Duration};

/// In the order in which they happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    RunPodSandbox,
    CreateContainer,
    StartContainer,
    /// The three before it together.
    ToRunning,
    ExecTrue,
    StopPodSandbox,
    RemovePodSandbox,
}

#[derive(Debug, Default)]
pub struct Figures(BTreeMap<Step, Vec<Duration>>);

impl Figures {
    pub fn add(&mut self, step: Step, took: Duration) {
        self.0.entry(step).or_default().push(took);
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {:<18}{:>9}{:>9}{:>9}{:>9}", "ms", "p50", "p90", "p99", "max")?;
        for (step, durations) in &self.0 {
            let mut sorted = durations.clone();
            sorted.sort_unstable();
            // The nearest rank: of thirty, the 99th percentile is the largest.
            let at =
                |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).saturating_sub(1)].as_secs_f64() * 1e3;
            let name = format!("{step:?}");
            writeln!(f, "  {name:<18}{:>9.1}{:>9.1}{:>9.1}{:>9.1}", at(50), at(90), at(99), at(100))?;
        }
        Ok(())
    }
}
