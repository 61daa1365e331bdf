//! In what form and language an answer is wanted.

use hypernetes_api::ApiError;
use hypernetes_kinds::IncludeObject;
use hypernetes_schema::protobuf::encode;

use crate::{
    Call,
    accept::{self, Language, Offer},
};

/// In what form an answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Object,
    Table(IncludeObject),
    /// `PartialObjectMetadata`.
    Metadata,
}

/// What is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    One,
    List,
    Watch,
}

/// How an answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub form: Form,
    pub language: Language,
}

impl Wanted {
    /// # Errors
    /// `NotAcceptable` for what cannot be had, `BadRequest` for a query that says something that is not known.
    pub fn of(call: &Call, reading: Reading) -> Result<Self, ApiError> {
        let offer = Offer {
            protobuf: encode::is_known(&call.served.ty),
            watch: reading == Reading::Watch,
            watchable: reading != Reading::One,
            transforms: true,
        };
        let (language, transform) = accept::negotiate(call.accept(), &offer)?;
        let form = match transform.kind {
            "Table" => {
                let text = call.query.get("includeObject");
                let include = IncludeObject::parse(text)
                    .ok_or_else(|| ApiError::bad_request(format!("includeObject: {text:?} is not known")))?;
                Form::Table(include)
            }
            "PartialObjectMetadata" | "PartialObjectMetadataList" => Form::Metadata,
            _ => Form::Object,
        };
        Ok(Self { form, language })
    }
}
