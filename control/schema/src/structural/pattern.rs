//! Patterns of definitions. A tenant may write very many: a few are kept compiled, those that are used, whoever's they are.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use regex::{Regex, RegexBuilder};

/// How large a compiled pattern may be, bytes.
pub const MAX_COMPILED: usize = 128 << 10;
/// What the matching of one may take besides, bytes.
pub const MAX_MATCHING: usize = 64 << 10;
/// So many are kept compiled at most.
const MAX_KEPT: usize = 256;

/// A pattern, compiled when it is used.
pub struct Pattern {
    text: Box<str>,
    compiled: Mutex<Weak<Regex>>,
}

/// Those that are kept compiled; the oldest goes first.
static KEPT: Mutex<VecDeque<Arc<Regex>>> = Mutex::new(VecDeque::new());

/// A pattern as definitions have it: RE2's syntax, which this crate's is but for details.
///
/// # Errors
/// In words, when it is none, or would be too large.
pub fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(MAX_COMPILED).dfa_size_limit(MAX_MATCHING).build()
}

impl Pattern {
    pub fn new(text: &str) -> Self {
        Self { text: text.into(), compiled: Mutex::default() }
    }

    /// Whether a text matches. One that cannot be compiled is matched by none.
    pub fn is_match(&self, text: &str) -> bool {
        self.compiled().is_some_and(|pattern| pattern.is_match(text))
    }

    /// It, compiled; none where that cannot be.
    pub fn compiled(&self) -> Option<Arc<Regex>> {
        let mut place = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = place.upgrade() {
            return Some(there);
        }
        let made = Arc::new(compile(&self.text).ok()?);
        *place = Arc::downgrade(&made);
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT {
            kept.pop_front();
        }
        kept.push_back(made.clone());
        Some(made)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_that_is_not_kept_any_more_is_compiled_again() {
        let pattern = Pattern::new("^a+$");
        assert!(pattern.is_match("aa") && !pattern.is_match("b"));
        for n in 0..=MAX_KEPT {
            assert!(Pattern::new(&format!("^{n}$")).is_match(&n.to_string()));
        }
        assert!(pattern.compiled.lock().unwrap().upgrade().is_none());
        assert!(pattern.is_match("aaa"));
        assert!(KEPT.lock().unwrap().len() <= MAX_KEPT);
    }

    #[test]
    fn what_would_be_large_is_none() {
        let large = r"(\pL{100}){100}";
        assert!(compile(large).is_err());
        assert!(!Pattern::new(large).is_match(""));
    }
}
