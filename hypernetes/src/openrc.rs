//! `openrc` files: what the OpenStack clients read from the environment.

use std::path::Path;

pub struct Settings<'a> {
    /// Of the server, without a path.
    pub url: &'a str,
    pub ca: &'a Path,
    pub user: &'a str,
    pub password: &'a str,
    pub project: &'a str,
}

/// For `. FILE`. Passwords and names that are used here have no quotes in them.
pub fn render(settings: &Settings<'_>) -> String {
    let Settings { url, ca, user, password, project } = settings;
    let variables = [
        ("OS_IDENTITY_API_VERSION", "3".to_owned()),
        ("OS_AUTH_URL", format!("{url}/identity/v3")),
        ("OS_CACERT", ca.display().to_string()),
        ("OS_USERNAME", (*user).to_owned()),
        ("OS_PASSWORD", (*password).to_owned()),
        ("OS_USER_DOMAIN_ID", "default".to_owned()),
        ("OS_PROJECT_NAME", (*project).to_owned()),
        ("OS_PROJECT_DOMAIN_ID", "default".to_owned()),
        ("OS_REGION_NAME", "RegionOne".to_owned()),
        ("OS_INTERFACE", "public".to_owned()),
    ];
    variables.iter().map(|(name, value)| format!("export {name}='{value}'\n")).collect()
}

/// The variables that a file like [`render`]'s exports.
pub fn parse(text: &str) -> std::collections::HashMap<String, String> {
    let pair = |line: &str| {
        let (name, value) = line.trim().strip_prefix("export ")?.split_once('=')?;
        Some((name.to_owned(), value.trim_matches(['\'', '"']).to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let settings = Settings { url: "https://a:1", ca: Path::new("/c"), user: "u", password: "p", project: "x" };
        let read = parse(&format!("# comment\n{}", render(&settings)));
        assert_eq!(read["OS_AUTH_URL"], "https://a:1/identity/v3");
        assert_eq!((read["OS_PASSWORD"].as_str(), read["OS_PROJECT_NAME"].as_str()), ("p", "x"));
    }
}
