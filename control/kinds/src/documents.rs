//! Documents about what there is: made once, when they are first asked for, and known by what is in them.

use std::{collections::HashMap, fmt::Write, sync::Arc};

use bytes::Bytes;
use hypernetes_schema::openapi::swagger::{self, Part};
use parking_lot::RwLock;
use ring::digest;

/// A text of whatever language.
#[derive(Debug, Clone)]
pub struct Document {
    pub bytes: Bytes,
    /// Of the bytes, in capitals, as upstream writes it: clients keep a document by it.
    pub hash: Arc<str>,
}

impl Document {
    pub fn new(bytes: Vec<u8>) -> Self {
        let bytes = Bytes::from(bytes);
        Self { hash: hash(std::slice::from_ref(&bytes)), bytes }
    }
}

fn hash(pieces: &[Bytes]) -> Arc<str> {
    let mut context = digest::Context::new(&digest::SHA512);
    pieces.iter().for_each(|piece| context.update(piece));
    let mut hash = String::with_capacity(128);
    for byte in context.finish().as_ref() {
        // Writing to a String does not fail.
        let _ = write!(hash, "{byte:02X}");
    }
    hash.into()
}

/// The OpenAPI v2 document of a view, in pieces: one that has more than another shares its pieces.
pub struct Swagger {
    part: Part,
    pub json: Vec<Bytes>,
    pub protobuf: Vec<Bytes>,
    pub hash: Arc<str>,
}

impl Swagger {
    /// Of documents of version 3, behind what another view's tells.
    pub(crate) fn new(documents: &[Document], base: Option<&Self>) -> Self {
        let documents = documents.iter().map(|document| &document.bytes[..]);
        let part = Part::of(documents, base.map(|base| &base.part));
        let parts: Vec<&Part> = base.map(|base| &base.part).into_iter().chain([&part]).collect();
        let (json, protobuf) = (swagger::json(&parts), swagger::protobuf(&parts));
        Self { hash: hash(&json), json, protobuf, part }
    }
}

/// Those that have been made, by name.
#[derive(Default)]
pub(crate) struct Documents(RwLock<HashMap<String, Document>>);

impl Documents {
    pub fn get_or_make(&self, name: &str, make: impl FnOnce() -> Vec<u8>) -> Document {
        if let Some(made) = self.0.read().get(name) {
            return made.clone();
        }
        let made = Document::new(make());
        self.0.write().entry(name.to_owned()).or_insert(made).clone()
    }
}
