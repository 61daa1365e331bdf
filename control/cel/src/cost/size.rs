//! Ranges of sizes and costs, which saturate.

/// A range of sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SizeEstimate {
    pub min: u64,
    pub max: u64,
}

/// A range of costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CostEstimate {
    pub min: u64,
    pub max: u64,
}

/// `x × factor`, rounded up.
pub(crate) fn scaled(x: u64, factor: f64) -> u64 {
    // The cast saturates.
    (x as f64 * factor).ceil() as u64
}

impl SizeEstimate {
    pub const UNKNOWN: Self = Self { min: 0, max: u64::MAX };

    pub fn exactly(size: u64) -> Self {
        Self { min: size, max: size }
    }

    pub fn plus(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    pub fn times(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    pub fn or(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    pub fn cost(self, factor: f64) -> CostEstimate {
        CostEstimate { min: scaled(self.min, factor), max: scaled(self.max, factor) }
    }

    pub fn cost_each(self, each: CostEstimate) -> CostEstimate {
        CostEstimate { min: self.min.saturating_mul(each.min), max: self.max.saturating_mul(each.max) }
    }
}

impl CostEstimate {
    pub fn exactly(cost: u64) -> Self {
        Self { min: cost, max: cost }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    pub(crate) fn times(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    pub(crate) fn or(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}
