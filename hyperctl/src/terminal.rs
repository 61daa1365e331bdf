//! The terminal that we run in.

use std::io::IsTerminal;

use anyhow::{Result, bail};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Raw mode: every key goes to the container. Ends when it is dropped.
pub struct Raw(Termios);

impl Raw {
    pub fn enter() -> Result<Self> {
        if !std::io::stdin().is_terminal() {
            bail!("the input is not a terminal: leave -t out");
        }
        let before = tcgetattr(std::io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Columns and rows; none when the output is no terminal.
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(std::io::stdout()).or_else(|_| tcgetwinsize(std::io::stdin())).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}
