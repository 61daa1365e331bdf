//! In which language an answer is wanted, and as what: an `Accept` header, as upstream negotiates it.
//!
//! Upstream looks twice. First its router, which knows types alone and no weights, and refuses what names none of those that there are;
//! then, by weight, whoever writes the answer, who knows what can be made of it.

use hypernetes_api::{ApiError, Reason};

/// What an answer is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Language {
    #[default]
    Json,
    Yaml,
    /// Kubernetes' protobuf.
    Protobuf,
}

impl Language {
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// As what an object is wanted (`as=Table;g=meta.k8s.io;v=v1`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Transform<'a> {
    pub kind: &'a str,
    pub group: &'a str,
    pub version: &'a str,
}

impl Transform<'_> {
    /// Whether anything can be had so. Tables are not in protobuf.
    fn is_known(&self, language: Language) -> bool {
        let meta = self.group == "meta.k8s.io" && matches!(self.version, "v1" | "v1beta1");
        match self.kind {
            "" => true,
            "Table" => meta && language != Language::Protobuf,
            "PartialObjectMetadata" | "PartialObjectMetadataList" => meta,
            _ => false,
        }
    }
}

/// What there is to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Messages of its kinds are known.
    pub protobuf: bool,
    /// It goes on and on.
    pub watch: bool,
    /// It could: it is a collection.
    pub watchable: bool,
    /// Objects can be had as something else.
    pub transforms: bool,
}

impl Offer {
    /// One object, or what is none.
    pub const PLAIN: Self = Self { protobuf: true, watch: false, watchable: false, transforms: false };

    fn languages(&self) -> &'static [Language] {
        match self.protobuf {
            true => &[Language::Json, Language::Yaml, Language::Protobuf],
            false => &[Language::Json, Language::Yaml],
        }
    }

    /// All that may be asked for, as it is listed for who asked for none of it.
    fn listed(&self, streams: bool, others: bool) -> String {
        let languages = self.languages().iter().filter(|_| others).map(|one| one.media_type().to_owned());
        let streams = self.languages().iter().filter(|language| streams && **language != Language::Yaml);
        languages.chain(streams.map(|one| format!("{};stream=watch", one.media_type()))).collect::<Vec<_>>().join(", ")
    }
}

/// One of the types that an `Accept` header lists.
#[derive(Debug, Clone)]
struct Clause<'a> {
    main: &'a str,
    sub: &'a str,
    weight: f32,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (main, sub) = parts.next()?.split_once('/')?;
        let mut clause = Self { main: main.trim(), sub: sub.trim(), weight: 1.0, parameters: Vec::new() };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name.trim() {
                // A weight that is none, upstream takes for one.
                "q" => clause.weight = value.trim().parse().unwrap_or(1.0),
                name => clause.parameters.push((name, value.trim())),
            }
        }
        Some(clause)
    }

    fn is(&self, language: Language) -> bool {
        match (self.main, self.sub) {
            ("*", "*") | ("application", "*") => true,
            ("application", sub) => language.media_type().strip_prefix("application/") == Some(sub),
            _ => false,
        }
    }

    /// None: it asks for something else than there is.
    fn transform(&self, language: Language, offer: &Offer) -> Option<Transform<'a>> {
        let mut transform = Transform::default();
        for (name, value) in &self.parameters {
            match *name {
                "as" => transform.kind = value,
                "g" => transform.group = value,
                "v" => transform.version = value,
                "stream" if !value.is_empty() && (*value != "watch" || language == Language::Yaml) => return None,
                _ => {}
            }
        }
        let possible = transform.kind.is_empty() || offer.transforms && transform.is_known(language);
        possible.then_some(transform)
    }
}

/// What is to be answered. No header is as `*/*`.
///
/// # Errors
/// `NotAcceptable`, with what could be had.
pub fn negotiate<'a>(header: &'a str, offer: &Offer) -> Result<(Language, Transform<'a>), ApiError> {
    if matches!(header, "" | "*/*" | "application/json") {
        return Ok(Default::default());
    }
    let routed = header.split(',').any(|part| {
        let name = part.split(';').next().unwrap_or_default().trim();
        name == "*/*" || offer.languages().iter().any(|language| language.media_type() == name)
    });
    if !routed {
        let listed = offer.listed(offer.watchable || offer.watch, true);
        return Err(refused(format!("406: Not Acceptable\n\nAvailable representations: {listed}")));
    }
    let mut clauses: Vec<Clause<'_>> = header.split(',').filter_map(Clause::parse).collect();
    clauses.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    for clause in &clauses {
        for language in offer.languages().iter().filter(|language| clause.is(**language)) {
            if let Some(transform) = clause.transform(*language, offer) {
                // There is no end to it, and YAML has no way to say where one event ends.
                if offer.watch && *language == Language::Yaml {
                    return Err(none_of(offer));
                }
                return Ok((*language, transform));
            }
        }
    }
    Err(none_of(offer))
}

fn none_of(offer: &Offer) -> ApiError {
    refused(format!("only the following media types are accepted: {}", offer.listed(offer.watch, !offer.watch)))
}

fn refused(message: String) -> ApiError {
    ApiError::new(Reason::NotAcceptable, message)
}

/// The language in which something is said that is no object: what is best of those that are known; JSON where none is.
pub fn of_status(header: &str) -> Language {
    // Most ask for nothing else.
    if !header.contains("yaml") && !header.contains("protobuf") {
        return Language::Json;
    }
    let mut clauses: Vec<Clause<'_>> = header.split(',').filter_map(Clause::parse).collect();
    clauses.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    let languages = Offer::PLAIN.languages();
    let known = |clause: &Clause<'_>| languages.iter().copied().find(|language| clause.is(*language));
    clauses.iter().find_map(known).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What kube-apiserver 1.36.2 did: get, list and watch of namespaces.
    #[test]
    fn answers_are_upstreams() {
        const METADATA: &str = "as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        const TABLE: &str = "as=Table;g=meta.k8s.io;v=v1";
        let get = Offer { transforms: true, ..Offer::PLAIN };
        let listed = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
        let (router, writer) =
            ("406: Not Acceptable\n\nAvailable representations: ", "only the following media types are accepted: ");
        let is = |header: &str, language: Language, kind: &str| {
            let (have, transform) = negotiate(header, &get).expect(header);
            assert_eq!((have, transform.kind), (language, kind), "{header}");
        };
        for header in [
            "",
            "*/*",
            "application/json",
            "application/json;stream=watch",
            "text/html, application/json;q=0.5",
            "text/html,*/*;q=0.1",
            "application/json;q=0",
            "*/*;q=0",
            "application/json;pretty=1",
            "application/json;charset=utf-8",
        ] {
            is(header, Language::Json, "");
        }
        is("application/yaml", Language::Yaml, "");
        is("application/json;q=0.3,application/yaml;q=0.9", Language::Yaml, "");
        is("application/vnd.kubernetes.protobuf,application/json", Language::Protobuf, "");
        is(&format!("application/json;{TABLE},application/json"), Language::Json, "Table");
        is(&format!("application/yaml;{TABLE}"), Language::Yaml, "Table");
        is(&format!("application/json;{METADATA},application/json"), Language::Json, "PartialObjectMetadata");
        is(&format!("application/vnd.kubernetes.protobuf;{METADATA}"), Language::Protobuf, "PartialObjectMetadata");
        is(&format!("application/vnd.kubernetes.protobuf;{TABLE},application/json"), Language::Json, "");
        for (header, says) in [
            ("text/html", router),
            ("application/xml", router),
            ("application/*", router),
            ("application/cbor", router),
            ("application/json;as=Table;g=meta.k8s.io;v=v2", writer),
            ("application/json;as=Nope;g=meta.k8s.io;v=v1", writer),
            (&format!("application/vnd.kubernetes.protobuf;{TABLE}"), writer),
        ] {
            let error = negotiate(header, &get).expect_err(header);
            assert_eq!((error.reason, error.message), (Reason::NotAcceptable, format!("{says}{listed}")), "{header}");
        }
        let watch = Offer { watch: true, watchable: true, ..get };
        let streams = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
        for (header, says) in [
            ("text/html", format!("{router}{listed}, {streams}")),
            ("application/yaml", format!("{writer}{streams}")),
            ("application/yaml,application/json", format!("{writer}{streams}")),
        ] {
            assert_eq!(negotiate(header, &watch).expect_err(header).message, says, "{header}");
        }
        assert_eq!(
            negotiate("application/vnd.kubernetes.protobuf;stream=watch", &watch).unwrap().0,
            Language::Protobuf
        );
    }

    #[test]
    fn what_has_no_messages_is_not_had_in_them() {
        let own = Offer { protobuf: false, ..Offer::PLAIN };
        assert_eq!(negotiate("application/vnd.kubernetes.protobuf,application/json", &own).unwrap().0, Language::Json);
        assert!(negotiate("application/vnd.kubernetes.protobuf", &own).is_err());
    }

    #[test]
    fn errors_are_said_in_a_language_that_is_read() {
        assert_eq!(of_status("application/vnd.kubernetes.protobuf, application/json"), Language::Protobuf);
        assert_eq!(of_status("application/yaml"), Language::Yaml);
        assert_eq!(of_status("text/html"), Language::Json);
        assert_eq!(of_status("application/json;q=0.1,application/yaml;q=0.2"), Language::Yaml);
    }
}
