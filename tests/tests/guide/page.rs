//! A page of the guide, as a test reads it.

/// What is typed into a shell, and what the page says comes back.
#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    /// In the page, from 1 on.
    pub line: usize,
    pub text: String,
    pub expected: String,
}

/// The commands of a page's `console` blocks, in order. `$ ` begins one, `> ` goes on with it.
///
/// # Panics
/// When a block begins with something else, or does not end.
pub fn commands(text: &str) -> Vec<Command> {
    let mut commands: Vec<Command> = Vec::new();
    for block in blocks(text).into_iter().filter(|block| block.language == "console") {
        let mut of_block: Option<Command> = None;
        for (line, text) in block.lines {
            if let Some(text) = text.strip_prefix("$ ") {
                commands.extend(of_block.take());
                of_block = Some(Command { line, text: text.to_owned(), expected: String::new() });
                continue;
            }
            let command = of_block.as_mut().unwrap_or_else(|| panic!("line {line}: a console block begins with `$ `"));
            match text.strip_prefix('>').filter(|_| command.expected.is_empty()) {
                Some(more) => command.text.extend(["\n", more.strip_prefix(' ').unwrap_or(more)]),
                None => command.expected.extend([text, "\n"]),
            }
        }
        commands.extend(of_block);
    }
    commands
}

/// What stands between two fences.
pub struct Block<'a> {
    pub language: &'a str,
    pub lines: Vec<(usize, &'a str)>,
}

/// # Panics
/// When the last block does not end.
pub fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => open = Some(Block { language, lines: Vec::new() }),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.lines.push((index + 1, line)),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "the last block does not end");
    blocks
}

/// Whether what was printed is what the page says. `…` stands for something in a line; as a line of its own, for any lines.
/// How wide the spaces are is not compared: columns are as wide as what is in them.
pub fn is_as_said(expected: &str, printed: &str) -> bool {
    let words = |text: &str| -> Vec<String> {
        text.trim().lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    lines_match(&words(expected), &words(printed))
}

fn lines_match(expected: &[String], printed: &[String]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((first, rest)) if first == "…" => {
            (0..=printed.len()).any(|skipped| lines_match(rest, &printed[skipped..]))
        }
        Some((first, rest)) => {
            printed.split_first().is_some_and(|(line, more)| line_matches(first, line) && lines_match(rest, more))
        }
    }
}

fn line_matches(expected: &str, printed: &str) -> bool {
    let Some((before, rest)) = expected.split_once('…') else { return expected == printed };
    let Some(printed) = printed.strip_prefix(before) else { return false };
    let mut cuts = printed.char_indices().skip(1).map(|(at, _)| at).chain([printed.len()]);
    !printed.is_empty() && cuts.any(|at| line_matches(rest, &printed[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pages_commands_are_found_with_what_they_print() {
        let page = "text\n```console\n$ one <<END\n> a\n>\n> END\nout\n> more\n$ two\n```\n```sh\nnot this\n```\n```console\n$ three\n\nx\n```\n";
        let command = |line, text: &str, expected: &str| Command { line, text: text.into(), expected: expected.into() };
        let expected = vec![
            command(3, "one <<END\na\n\nEND", "out\n> more\n"),
            command(9, "two", ""),
            command(15, "three", "\nx\n"),
        ];
        assert_eq!(commands(page), expected);
    }

    #[test]
    fn what_varies_is_left_out_and_nothing_else() {
        let same = [
            ("", "\n"),
            ("a   b\n", "a b"),
            ("pod/web-… created", "pod/web-7f5d created"),
            ("a … b …", "a 1 2 b 3"),
            ("…\nlast", "one\ntwo\nlast"),
            ("first\n…", "first"),
            ("…s", "s s"),
        ];
        for (expected, printed) in same {
            assert!(is_as_said(expected, printed), "{expected:?} {printed:?}");
        }
        let other = [
            ("", "x"),
            ("x", ""),
            ("a", "b"),
            ("a", "a\nb"),
            ("a\nb", "a"),
            ("web-…", "web-"),
            ("a…", "ba"),
            ("…\nlast", "last\nmore"),
            ("a … c", "a b d"),
        ];
        for (expected, printed) in other {
            assert!(!is_as_said(expected, printed), "{expected:?} {printed:?}");
        }
    }
}
