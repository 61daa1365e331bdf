//! The figures of Kubernetes 1.36 (`k8s.io/apiserver/pkg/apis/cel/config.go`, `apiextensions-apiserver/pkg/apis/apiextensions/validation`),
//! and the bounds of this crate.

/// Cost units that one evaluation may use: upstream's `PerCallLimit`, about a tenth of a second there.
pub const PER_CALL: u64 = 1_000_000;
/// Cost units of all rules of one custom resource, or of one policy's binding: upstream's `RuntimeCELCostBudget`.
pub const RUNTIME_BUDGET: u64 = 10_000_000;
/// Cost units of all match conditions of one webhook or policy: upstream's `RuntimeCELCostBudgetMatchConditions`.
pub const MATCH_CONDITIONS_BUDGET: u64 = 2_500_000;
/// Estimated cost of one rule of a definition: upstream's `StaticEstimatedCostLimit`.
pub const ESTIMATED_PER_RULE: u64 = 10_000_000;
/// Estimated cost of all rules of a definition's version: upstream's `StaticEstimatedCRDCostLimit`.
pub const ESTIMATED_PER_DEFINITION: u64 = 100_000_000;
/// Bytes of a request, which bound what a schema leaves open: upstream's `MaxRequestSizeBytes`.
pub const REQUEST_BYTES: u64 = 3 * 1024 * 1024;
/// Bytes of a message that an expression makes: upstream's `MaxEvaluatedMessageExpressionSizeBytes`.
pub const MESSAGE_BYTES: usize = 5 * 1024;

/// Characters of a source: cel-go's `ExpressionSizeCodePointLimit`.
pub(crate) const SOURCE_CHARACTERS: usize = 100_000;
/// Parts of a source that are no spaces: twice the work of the parser for the longest source that makes sense.
pub(crate) const SOURCE_TOKENS: usize = 20_000;
/// Expressions within expressions: cel-go's `MaxRecursionDepth`.
pub(crate) const NESTING: u16 = 250;
/// Levels of the tree after macros are expanded. It bounds the stack of everything that walks a tree.
pub(crate) const TREE_DEPTH: usize = 400;
/// Nodes of the tree after macros are expanded; `optMap` copies its target.
pub(crate) const TREE_NODES: usize = 50_000;
/// Errors that one compilation reports: cel-go's default.
pub(crate) const ERRORS: usize = 100;
/// Bytes that the values made by one evaluation may take, and elements that it may look at without a cost of their own.
/// Upstream has no such bound: costs there do not see what `replace` or `+` on lists make.
pub(crate) const EVALUATION_BYTES: usize = 64 << 20;
pub(crate) const EVALUATION_STEPS: u64 = 5_000_000;
