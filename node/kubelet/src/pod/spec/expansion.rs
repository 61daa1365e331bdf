//! Variables in a specification's texts: `$(NAME)`.

/// Most bytes of a container's environment, and of its command: the kernel takes no more either.
pub const MAX_BYTES: usize = 2 << 20;

pub type Environment = Vec<(String, String)>;

/// `$(NAME)` becomes the variable's value, `$$(NAME)` stays `$(NAME)`; what is not known stays as it is.
pub fn expand(text: &str, env: &[(String, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    // A value of values may be larger than memory: what is longer than this is refused by whoever asked.
    while let Some(at) = rest.find('$').filter(|_| out.len() <= MAX_BYTES) {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match env.iter().find(|(have, _)| have == name) {
                Some((_, value)) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_expanded_as_kubernetes_does() {
        let env = vec![("A".to_owned(), "1".to_owned())];
        for (text, expanded) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("$", "$"),
            ("$(A", "$(A"),
            ("a$b", "a$b"),
        ] {
            assert_eq!(expand(text, &env), expanded);
        }
        let large = vec![("A".to_owned(), "x".repeat(MAX_BYTES))];
        assert!((MAX_BYTES..3 * MAX_BYTES).contains(&expand(&"$(A)".repeat(1000), &large).len()));
    }
}
