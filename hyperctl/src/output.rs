//! Lists, as a table for people or as JSON for programs.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Table,
    Json,
}

/// One line of a list.
pub trait Row: Serialize {
    const COLUMNS: &'static [&'static str];

    /// One for each column.
    fn cells(&self) -> Vec<String>;
}

pub fn print<R: Row>(format: Format, rows: &[R]) -> Result<()> {
    let text = match format {
        Format::Table => table(rows),
        Format::Json => serde_json::to_string_pretty(rows)? + "\n",
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// Columns as wide as what is in them.
pub fn table<R: Row>(rows: &[R]) -> String {
    let mut lines = vec![R::COLUMNS.iter().map(|title| (*title).to_owned()).collect::<Vec<_>>()];
    lines.extend(rows.iter().map(|row| row.cells().iter().map(|cell| printable(cell)).collect()));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..R::COLUMNS.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let padded: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text += padded.join("   ").trim_end();
        text.push('\n');
    }
    text
}

/// What comes from images and pods does not steer the terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Line(&'static str, u32);

    impl Row for Line {
        const COLUMNS: &'static [&'static str] = &["NAME", "N"];

        fn cells(&self) -> Vec<String> {
            vec![self.0.into(), self.1.to_string()]
        }
    }

    #[test]
    fn columns_line_up_and_steer_nothing() {
        let text = table(&[Line("a-long-name", 1), Line("\x1b[2J", 22)]);
        assert_eq!(text, "NAME          N\na-long-name   1\n?[2J          22\n");
        assert_eq!(table::<Line>(&[]), "NAME   N\n");
    }
}
