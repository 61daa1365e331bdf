//! What an evaluation has used of what it may use.

use crate::errors::{EvalError, Result};
use crate::limits;

#[derive(Debug)]
pub(crate) struct Meter {
    limit: u64,
    pub cost: u64,
    steps: u64,
    bytes: usize,
}

/// Bytes of a value without what it shares.
pub(crate) const VALUE_BYTES: usize = 40;

impl Meter {
    /// For an evaluation that may cost so much.
    pub fn new(limit: u64) -> Self {
        Self { limit, cost: 0, steps: 0, bytes: 0 }
    }

    pub fn charge(&mut self, cost: u64) -> Result<()> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(EvalError::COST) } else { Ok(()) }
    }

    /// Counts what is looked at without a cost of its own.
    pub fn step(&mut self, steps: u64) -> Result<()> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > limits::EVALUATION_STEPS { Err(EvalError::STEPS) } else { Ok(()) }
    }

    /// Counts bytes of values before they are made.
    pub fn grow(&mut self, bytes: usize) -> Result<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > limits::EVALUATION_BYTES { Err(EvalError::MEMORY) } else { Ok(()) }
    }

    /// Counts elements of lists and maps before they are made.
    pub fn grow_elements(&mut self, elements: usize) -> Result<()> {
        self.grow(elements.saturating_mul(VALUE_BYTES))
    }
}
