//! What was tried, and what happened.

use super::stage::Answer;

/// The outcomes of one area's attempts; each is printed when it is known, what held in one line.
#[derive(Default)]
pub struct Findings {
    held: usize,
    succeeded: usize,
    not_carried_out: usize,
}

impl Findings {
    /// The attempt came to nothing.
    pub fn held(&mut self, what: &str, happened: impl std::fmt::Display) {
        self.held += 1;
        println!("    held      {what}: {happened}");
    }

    /// The attempt succeeded.
    pub fn succeeded_at(&mut self, what: &str, happened: impl std::fmt::Display) {
        self.succeeded += 1;
        println!("    SUCCEEDED {what}: {happened}");
    }

    /// What was needed for the attempt could not be had.
    pub fn could_not(&mut self, what: &str, why: impl std::fmt::Display) {
        self.not_carried_out += 1;
        println!("    not tried {what}: {why}");
    }

    pub fn judge(&mut self, what: &str, held: bool, happened: impl std::fmt::Display) {
        if held { self.held(what, happened) } else { self.succeeded_at(what, happened) }
    }

    /// It held if the answer has one of the codes.
    pub fn refused(&mut self, what: &str, answer: &Answer, codes: &[u16]) {
        self.judge(what, codes.contains(&answer.code), answer);
    }

    pub fn succeeded(&self) -> usize {
        self.succeeded
    }

    pub fn not_carried_out(&self) -> usize {
        self.not_carried_out
    }
}

impl std::fmt::Display for Findings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} attempts held, {} succeeded", self.held, self.succeeded)?;
        if self.not_carried_out > 0 {
            write!(f, ", {} could not be made", self.not_carried_out)?;
        }
        Ok(())
    }
}
