//! PEM blocks (RFC 7468) as upstream reads them: whatever stands around them, and with headers, which some places refuse.

use base64::{Engine, engine::general_purpose::STANDARD};

/// One block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// What stands behind `BEGIN`.
    pub label: String,
    /// It has headers (RFC 1421) before its content.
    pub headers: bool,
    pub content: Vec<u8>,
}

const BEGIN: &str = "-----BEGIN ";
const DASHES: &str = "-----";

/// The blocks of a text, in order. What is no whole block is passed over, as upstream does.
pub fn blocks(text: &[u8]) -> impl Iterator<Item = Block> + use<> {
    let text = String::from_utf8_lossy(text);
    let (mut found, mut lines) = (Vec::new(), text.lines().map(str::trim_end));
    let mut begun = lines.by_ref().find_map(label);
    while let Some(name) = begun.take() {
        let end = format!("-----END {name}-----");
        let (mut body, mut whole) = (Vec::new(), false);
        for line in lines.by_ref() {
            if line == end {
                whole = true;
                break;
            }
            begun = label(line);
            if begun.is_some() {
                break;
            }
            body.push(line.to_owned());
        }
        if whole {
            found.extend(block(name, &body));
            begun = lines.by_ref().find_map(label);
        }
    }
    found.into_iter()
}

/// A block, with its content in lines of 64.
pub fn text(label: &str, content: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in STANDARD.encode(content).as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

fn label(line: &str) -> Option<String> {
    line.strip_prefix(BEGIN)?.strip_suffix(DASHES).map(str::to_owned)
}

fn block(label: String, body: &[String]) -> Option<Block> {
    let headers = body.iter().take_while(|line| line.contains(':')).count();
    let content: String = body.iter().skip(headers).map(|line| line.trim()).collect();
    let content = STANDARD.decode(content).ok()?;
    Some(Block { label, headers: headers > 0, content })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_in_whatever_text() {
        let text = "hello\n-----BEGIN A-----\nYWJj\nZGVm\n-----END A-----\nand\r\n-----BEGIN B-----\r\nX: y\r\n\r\nYQ==\r\n-----END B-----";
        let found: Vec<_> = blocks(text.as_bytes()).map(|block| (block.label, block.headers, block.content)).collect();
        assert_eq!(found, [("A".into(), false, b"abcdef".to_vec()), ("B".into(), true, b"a".to_vec())]);
    }

    #[test]
    fn what_is_no_whole_block_is_passed_over() {
        let whole = "-----BEGIN A-----\nYWJj\n-----END A-----";
        for before in [
            "",
            "-----BEGIN A-----\n",
            "-----BEGIN A-----\nYWJj\n-----END B-----\n",
            "-----BEGIN A-----\n!\n-----END A-----\n",
        ] {
            let text = format!("{before}{whole}");
            assert_eq!(blocks(text.as_bytes()).map(|block| block.content).collect::<Vec<_>>(), [b"abc"], "{before:?}");
        }
        for none in ["", "-----BEGIN A-----", "-----BEGIN A-----\nYWJj", "-----END A-----", "\u{0}"] {
            assert_eq!(blocks(none.as_bytes()).count(), 0, "{none:?}");
        }
        assert_eq!(blocks(&[0xff, 0xfe]).count(), 0);
    }
}
