//! As much of JSON Schema and OpenAPI as our document uses; anything else in it fails the test, so that
//! nothing goes unchecked in silence.

use crate::harness::Answer;
use serde_json::{Map, Value};

const KNOWN: &[&str] = &[
    "$ref",
    "allOf",
    "oneOf",
    "type",
    "properties",
    "required",
    "items",
    "enum",
    "description",
    "additionalProperties",
    "minimum",
    "maximum",
    "format",
    "default",
    "const",
];

/// Holds an answer against what the document says of its operation.
#[track_caller]
pub(crate) fn check_answer(document: &Value, method: &str, path: &str, answer: &Answer) {
    let path = path.split('?').next().unwrap();
    let Some(operation) = operation(document, method, path) else {
        assert!(
            matches!(answer.status.as_u16(), 404 | 405),
            "{method} {path} is served, but not in the document"
        );
        return;
    };
    let status = answer.status.as_u16().to_string();
    let response = &operation["responses"][&status];
    assert!(response.is_object(), "{method} {path} answers {status}, which is not in the document");
    let Some(content) = response.get("content") else {
        assert_eq!(answer.body, "", "{method} {path} {status} has a body");
        return;
    };
    let kind = answer.headers["content-type"].to_str().unwrap().split(';').next().unwrap();
    let schema = &content[kind]["schema"];
    assert!(!schema.is_null(), "{method} {path} {status} answers {kind}");
    if let Err(why) = validate(document, schema, &answer.body, "body") {
        panic!("{method} {path} {status}: {why}\n{}", answer.body);
    }
}

/// The operation whose pattern the path fits.
pub(crate) fn operation<'d>(document: &'d Value, method: &str, path: &str) -> Option<&'d Value> {
    let fits = |pattern: &str| {
        let (mut a, mut b) = (pattern.split('/'), path.split('/'));
        loop {
            match (a.next(), b.next()) {
                (None, None) => return true,
                (Some(part), Some(name)) if part == name || part.starts_with('{') => {}
                _ => return false,
            }
        }
    };
    let paths = document["paths"].as_object().unwrap();
    let (_, item) = paths.iter().find(|(pattern, _)| fits(pattern))?;
    item.get(method.to_lowercase())
}

pub(crate) fn validate(
    document: &Value,
    schema: &Value,
    value: &Value,
    at: &str,
) -> Result<(), String> {
    let schema = schema.as_object().ok_or_else(|| format!("{at}: the schema is no object"))?;
    if let Some(unknown) = schema.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        return Err(format!("{at}: the schema holds {unknown}, which this test does not know"));
    }
    if let Some(reference) = schema.get("$ref") {
        let pointer = reference.as_str().unwrap().trim_start_matches('#');
        let found = document.pointer(pointer).ok_or_else(|| format!("{at}: dangling {pointer}"))?;
        return validate(document, found, value, at);
    }
    if let Some(all) = schema.get("allOf") {
        for part in all.as_array().unwrap() {
            validate(document, part, value, at)?;
        }
    }
    if let Some(one) = schema.get("oneOf") {
        let fits = |part: &&Value| validate(document, part, value, at).is_ok();
        let count = one.as_array().unwrap().iter().filter(fits).count();
        if count != 1 {
            return Err(format!("{at}: fits {count} of oneOf"));
        }
    }
    check_type(schema, value, at)?;
    if let Some(names) = schema.get("enum")
        && !names.as_array().unwrap().contains(value)
    {
        return Err(format!("{at}: {value} is none of {names}"));
    }
    for (bound, is_outside) in [("minimum", -1.0), ("maximum", 1.0)] {
        if let (Some(bound), Some(number)) = (schema.get(bound), value.as_f64())
            && (number - bound.as_f64().unwrap()) * is_outside > 0.0
        {
            return Err(format!("{at}: {number} is outside"));
        }
    }
    match value {
        Value::Object(fields) => check_fields(document, schema, fields, at),
        Value::Array(items) => items.iter().enumerate().try_for_each(|(n, item)| {
            schema
                .get("items")
                .map_or(Ok(()), |it| validate(document, it, item, &format!("{at}[{n}]")))
        }),
        _ => Ok(()),
    }
}

fn check_type(schema: &Map<String, Value>, value: &Value, at: &str) -> Result<(), String> {
    let Some(kind) = schema.get("type") else { return Ok(()) };
    let is = |kind: &Value| match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        _ => false,
    };
    let fits = kind.as_array().map_or_else(|| is(kind), |kinds| kinds.iter().any(is));
    if fits { Ok(()) } else { Err(format!("{at}: {value} is no {kind}")) }
}

fn check_fields(
    document: &Value,
    schema: &Map<String, Value>,
    fields: &Map<String, Value>,
    at: &str,
) -> Result<(), String> {
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        if !fields.contains_key(name.as_str().unwrap()) {
            return Err(format!("{at}: {name} is missing"));
        }
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, value) in fields {
        match properties.and_then(|all| all.get(name)) {
            Some(property) => validate(document, property, value, &format!("{at}.{name}"))?,
            None if schema.get("additionalProperties") == Some(&Value::Bool(false)) => {
                return Err(format!("{at}: {name} is not in the schema"));
            }
            None => {}
        }
    }
    Ok(())
}
