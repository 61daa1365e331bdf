//! From bytes to a value that has the shape of its kind.
//!
//! One pass: the schema guides the parser, so that unknown fields are skipped without being kept,
//! duplicates are seen, and every type error has its path.

use crate::tree::{IntegerRange, Schema, Struct};
use crate::{ObjectType, Structural, limits, quantity};
use hypernetes_api::{ApiError, Reason};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;
use std::sync::Arc;

/// The `fieldValidation` query parameter. Kubernetes' default is `Warn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

impl FieldValidation {
    /// The value of the query parameter; empty is the default.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        match text {
            "" | "Warn" => Ok(Self::Warn),
            "Ignore" => Ok(Self::Ignore),
            "Strict" => Ok(Self::Strict),
            other => Err(ApiError::bad_request(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }
}

/// An object that has the shape of its kind.
#[derive(Debug, Clone)]
pub struct Decoded {
    pub object: Value,
    /// Texts for `Warning` headers (code 299), without the header's syntax.
    pub warnings: Vec<String>,
}

impl ObjectType {
    /// Parses a JSON body as this kind. `apiVersion` and `kind` are filled where absent, and must match where given;
    /// wrong types are a `BadRequest` in upstream's words; unknown and duplicate fields are errors, warnings
    /// or nothing by `mode`, and unknown fields are dropped in the latter two. `null` fields are dropped.
    pub fn decode(&self, body: &[u8], mode: FieldValidation) -> Result<Decoded, ApiError> {
        decode(self, body, mode)
    }

    /// The same checks for an object that exists as a value already, such as the outcome of a patch.
    /// Quantities and times are brought to their canonical form.
    pub fn check(&self, object: Value, mode: FieldValidation) -> Result<Decoded, ApiError> {
        check(self, object, mode)
    }
}

/// Most unknown and duplicate fields that are told of (upstream: the same bound).
const MAX_FINDINGS: usize = 100;

fn decode(ty: &ObjectType, body: &[u8], mode: FieldValidation) -> Result<Decoded, ApiError> {
    if body.len() > limits::MAX_BODY {
        return Err(ApiError::new(
            Reason::RequestEntityTooLarge,
            format!("Request entity too large: limit is {}", limits::MAX_BODY),
        ));
    }
    let mut parser = serde_json::Deserializer::from_slice(body);
    let mut context = Context::default();
    let seed = Seed { schema: Arc::clone(ty.body()), context: &mut context };
    let parsed = seed.deserialize(&mut parser).and_then(|value| parser.end().map(|()| value));
    match parsed {
        Ok(value) => finish(ty, value, context, mode),
        Err(error) => Err(refuse(ty, context, &error.to_string())),
    }
}

fn check(ty: &ObjectType, object: Value, mode: FieldValidation) -> Result<Decoded, ApiError> {
    let mut context = Context::default();
    let seed = Seed { schema: Arc::clone(ty.body()), context: &mut context };
    match seed.deserialize(object) {
        Ok(value) => finish(ty, value, context, mode),
        Err(error) => Err(refuse(ty, context, &error.to_string())),
    }
}

fn refuse(ty: &ObjectType, context: Context, parse_error: &str) -> ApiError {
    let why = context.type_error.unwrap_or_else(|| parse_error.to_owned());
    ApiError::bad_request(format!(
        "{kind} in version {:?} cannot be handled as a {kind}: {why}",
        ty.version,
        kind = ty.kind
    ))
}

fn finish(ty: &ObjectType, value: Value, context: Context, mode: FieldValidation) -> Result<Decoded, ApiError> {
    let Value::Object(mut object) = value else {
        return Err(ApiError::bad_request("the object provided is not a JSON object"));
    };
    let api_version = ty.api_version();
    let given = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (given_version, given_kind) = (given("apiVersion"), given("kind"));
    // Options of a delete may come under any group's name.
    let any_group = ty.kind == "DeleteOptions";
    if !given_kind.is_empty() && given_kind != ty.kind {
        return Err(ApiError::bad_request(format!(
            "{given_kind} in version {:?} cannot be handled as a {}: the kind in the data ({given_kind}) does not match the expected kind ({})",
            ty.version, ty.kind, ty.kind
        )));
    }
    if !given_version.is_empty() && given_version != api_version && !any_group {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({given_version}) does not match the expected API version ({api_version})"
        )));
    }
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), ty.kind.clone().into());
    let mut findings = context.findings;
    let mut object = Value::Object(object);
    if let Some(structural) = ty.structural() {
        Structural::whole_numbers(&mut object);
        structural.prune(&mut object, &mut |path| {
            if findings.len() < MAX_FINDINGS {
                findings.push(format!("unknown field {path:?}"));
            }
        });
    }
    let warnings = match mode {
        FieldValidation::Ignore => Vec::new(),
        FieldValidation::Warn => findings,
        FieldValidation::Strict if findings.is_empty() => findings,
        FieldValidation::Strict => {
            return Err(ApiError::bad_request(format!(
                "{kind} in version {:?} cannot be handled as a {kind}: strict decoding error: {}",
                ty.version,
                findings.join(", "),
                kind = ty.kind
            )));
        }
    };
    Ok(Decoded { object, warnings })
}

/// What is known while parsing: where we are, and what was found.
#[derive(Default)]
struct Context {
    path: Vec<Step>,
    findings: Vec<String>,
    type_error: Option<String>,
    /// Those that we are in, of which the innermost is named in type errors.
    structs: Vec<Arc<Schema>>,
}

enum Step {
    Field(String),
    Key(String),
    Index(usize),
}

impl Context {
    /// `spec.containers[0].name`; Go's own decoder leaves indexes out of type errors.
    fn path(&self, indexes: bool) -> String {
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Field(name) | Step::Key(name) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(name);
                }
                Step::Index(at) if indexes => text.push_str(&format!("[{at}]")),
                Step::Index(_) => {}
            }
        }
        text
    }

    fn find(&mut self, what: &str, name: &str) {
        if self.findings.len() < MAX_FINDINGS {
            self.path.push(Step::Field(name.to_owned()));
            let finding = format!("{what} field {:?}", self.path(true));
            self.path.pop();
            if !self.findings.contains(&finding) {
                self.findings.push(finding);
            }
        }
    }

    fn mismatch(&mut self, found: &str, expected: &str) {
        let path = self.path(false);
        let innermost = self.structs.last().and_then(|schema| schema.as_struct()).map(Struct::short_name);
        let target = match (innermost, path.is_empty()) {
            (_, true) | (None, _) => format!("Go value of type {expected}"),
            (Some(name), false) => format!("Go struct field {name}.{path} of type {expected}"),
        };
        self.type_error.get_or_insert(format!("json: cannot unmarshal {found} into {target}"));
    }
}

/// Go's name of what a schema wants.
fn type_name(schema: &Schema) -> String {
    match schema {
        Schema::Any => "interface {}".into(),
        Schema::String => "string".into(),
        Schema::Bytes => "[]uint8".into(),
        Schema::Time => "v1.Time".into(),
        Schema::MicroTime => "v1.MicroTime".into(),
        Schema::Boolean => "bool".into(),
        Schema::Integer(range) => range.type_name.into(),
        Schema::Number => "float64".into(),
        Schema::IntOrString => "intstr.IntOrString".into(),
        Schema::Quantity => "resource.Quantity".into(),
        Schema::Object(fields) => {
            let mut parts = fields.name.rsplitn(3, '.');
            let (kind, version) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            format!("{version}.{kind}")
        }
        Schema::Map { values, .. } => format!("map[string]{}", type_name(values)),
        Schema::List { items, .. } => format!("[]{}", type_name(items)),
        Schema::OrElse(_) | Schema::Recursive(_) => "object".into(),
    }
}

struct Seed<'c> {
    schema: Arc<Schema>,
    context: &'c mut Context,
}

impl Seed<'_> {
    fn wrong<E: serde::de::Error>(self, found: &str) -> E {
        let expected = type_name(&self.schema);
        self.context.mismatch(found, &expected);
        E::custom("wrong type")
    }

    /// A value that has the right JSON type and yet is not one of its kind.
    fn malformed<E: serde::de::Error>(self, why: &str) -> E {
        let at = self.context.path(true);
        self.context.type_error.get_or_insert(format!("{at}: {why}"));
        E::custom("malformed")
    }

    fn integer<E: serde::de::Error>(self, range: IntegerRange, number: Number) -> Result<Value, E> {
        let fits = match (number.as_i64(), number.as_u64()) {
            (Some(signed), _) if signed < 0 => signed >= range.min,
            (_, Some(unsigned)) => unsigned <= range.max,
            _ => false,
        };
        if fits { Ok(Value::Number(number)) } else { Err(self.wrong(&format!("number {number}"))) }
    }

    fn number<E: serde::de::Error>(self, number: Number) -> Result<Value, E> {
        match self.schema.as_ref() {
            Schema::Any | Schema::Number | Schema::OrElse(_) => Ok(Value::Number(number)),
            Schema::Integer(range) => {
                let range = *range;
                self.integer(range, number)
            }
            Schema::IntOrString if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {
                Ok(Value::Number(number))
            }
            Schema::Quantity => match quantity::Quantity::parse(&number.to_string()) {
                Ok(parsed) => Ok(parsed.to_string().into()),
                Err(error) => Err(self.malformed(&error.to_string())),
            },
            Schema::IntOrString => Err(self.wrong(&format!("number {number}"))),
            _ => Err(self.wrong("number")),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(mut self, deserializer: D) -> Result<Value, D::Error> {
        if self.context.path.len() > limits::MAX_DEPTH {
            return Err(self.malformed("exceeded max depth"));
        }
        self.schema = self.schema.resolve();
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&type_name(&self.schema))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        match self.schema.as_ref() {
            Schema::Any | Schema::Boolean | Schema::OrElse(_) => Ok(Value::Bool(value)),
            _ => Err(self.wrong("bool")),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.number(value.into())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.number(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        match Number::from_f64(value) {
            Some(number) => self.number(number),
            None => Err(self.wrong("number")),
        }
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        match self.schema.as_ref() {
            Schema::Any | Schema::String | Schema::IntOrString | Schema::OrElse(_) => Ok(text.into()),
            Schema::Bytes => match illegal_base64(text) {
                None => Ok(text.into()),
                // Upstream does not say where.
                Some(at) => {
                    let why = format!("illegal base64 data at input byte {at}");
                    self.context.type_error.get_or_insert(why);
                    Err(E::custom("malformed"))
                }
            },
            Schema::Time | Schema::MicroTime => {
                let micro = matches!(self.schema.as_ref(), Schema::MicroTime);
                match text.parse::<jiff::Timestamp>() {
                    Ok(time) if micro => Ok(time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string().into()),
                    Ok(time) => Ok(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into()),
                    Err(_) => Err(self.malformed(&format!("parsing time {text:?}: not RFC 3339"))),
                }
            }
            Schema::Quantity => match quantity::Quantity::parse(text) {
                Ok(parsed) => Ok(parsed.to_string().into()),
                Err(error) => Err(self.malformed(&error.to_string())),
            },
            _ => Err(self.wrong("string")),
        }
    }

    /// A text that is there already is not copied.
    fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Value, E> {
        match self.schema.as_ref() {
            Schema::Any | Schema::String | Schema::IntOrString | Schema::OrElse(_) => Ok(Value::String(text)),
            _ => self.visit_str(&text),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let items = match self.schema.as_ref() {
            Schema::Any => Arc::clone(&self.schema),
            Schema::OrElse(one) => one.resolve(),
            Schema::List { items, .. } => Arc::clone(items),
            _ => return Err(self.wrong("array")),
        };
        let mut list = Vec::new();
        loop {
            self.context.path.push(Step::Index(list.len()));
            let next = access.next_element_seed(Seed { schema: Arc::clone(&items), context: self.context })?;
            self.context.path.pop();
            match next {
                Some(Value::Null) => list.push(zero(&items)),
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let schema = match self.schema.as_ref() {
            Schema::OrElse(one) => one.resolve(),
            _ => Arc::clone(&self.schema),
        };
        match schema.as_ref() {
            Schema::Object(fields) => {
                self.context.structs.push(Arc::clone(&schema));
                let object = visit_struct(self.context, fields, &mut access)?;
                self.context.structs.pop();
                Ok(object)
            }
            Schema::Any => visit_keys(self.context, &schema, true, &mut access),
            Schema::Map { values, .. } => visit_keys(self.context, values, false, &mut access),
            _ => Err(self.wrong("object")),
        }
    }
}

fn visit_struct<'de, A: MapAccess<'de>>(
    context: &mut Context,
    fields: &Struct,
    access: &mut A,
) -> Result<Value, A::Error> {
    let mut object = Map::new();
    while let Some(name) = access.next_key::<String>()? {
        if fields.open && fields.field(&name).is_none() {
            if object.contains_key(&name) {
                context.find("duplicate", &name);
            }
            context.path.push(Step::Field(name));
            let value = access.next_value_seed(Seed { schema: Arc::default(), context })?;
            if let Some(Step::Field(name)) = context.path.pop() {
                object.insert(name, value);
            }
            continue;
        }
        let Some(field) = fields.field(&name) else {
            context.find("unknown", &name);
            access.next_value::<IgnoredAny>()?;
            continue;
        };
        if object.contains_key(&name) {
            context.find("duplicate", &name);
        }
        context.path.push(Step::Field(name));
        let value = access.next_value_seed(Seed { schema: Arc::clone(&field.schema), context })?;
        if let Some(Step::Field(name)) = context.path.pop()
            && !value.is_null()
        {
            object.insert(name, value);
        }
    }
    Ok(Value::Object(object))
}

fn visit_keys<'de, A: MapAccess<'de>>(
    context: &mut Context,
    values: &Arc<Schema>,
    keep_null: bool,
    access: &mut A,
) -> Result<Value, A::Error> {
    let mut map = Map::new();
    while let Some(name) = access.next_key::<String>()? {
        if map.contains_key(&name) {
            context.find("duplicate", &name);
        }
        context.path.push(Step::Key(name));
        let value = access.next_value_seed(Seed { schema: Arc::clone(values), context })?;
        if let Some(Step::Key(name)) = context.path.pop() {
            let value = if value.is_null() && !keep_null { zero(values) } else { value };
            map.insert(name, value);
        }
    }
    Ok(Value::Object(map))
}

/// What `null` is as a list's item or a map's value: the type's zero value, as in Go.
fn zero(schema: &Schema) -> Value {
    match schema {
        Schema::String | Schema::Bytes => "".into(),
        Schema::Boolean => false.into(),
        Schema::Integer(_) | Schema::Number | Schema::IntOrString => 0.into(),
        Schema::Quantity => "0".into(),
        Schema::Object(_) | Schema::Map { .. } => Value::Object(Map::new()),
        Schema::List { .. } => Value::Array(Vec::new()),
        Schema::Any | Schema::Time | Schema::MicroTime | Schema::OrElse(_) | Schema::Recursive(_) => Value::Null,
    }
}

/// Where a text stops being base64 (standard alphabet, padded; line breaks are let through), as Go counts.
fn illegal_base64(text: &str) -> Option<usize> {
    let (mut digits, mut padding) = (0usize, 0usize);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'\r' | b'\n' => {}
            b'=' if padding < 2 && digits % 4 >= 2 && (digits + padding) % 4 != 0 => padding += 1,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' if padding == 0 => digits += 1,
            _ => return Some(at),
        }
    }
    let whole = (digits + padding).is_multiple_of(4);
    // What is missing is missed at the beginning of its four, or at the end.
    (!whole).then_some(if padding > 0 { text.len() } else { text.len() - digits % 4 })
}
