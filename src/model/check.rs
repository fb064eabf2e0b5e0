//! The finding of errors in a document: every one at once, with its place.

use std::fmt;

use serde::Serialize;

use super::{
    desired::Desired,
    document::{Document, MAX_BYTES},
};

/// Something in a document that has to change before it can be applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DocumentError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Where in the document, such as `wireguard[0].peers[1].allowed-ips[0]`; empty for its syntax.
    pub path: String,
    /// The offending value as it is written, cut and without anything that looks like a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What is wrong.
    pub reason: String,
    /// What to write instead.
    pub fix: String,
}

/// Something that will work, but not as intended: the form is that of an error.
pub type Warning = DocumentError;

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        if let Some(value) = &self.value {
            write!(f, "{value}: ")?;
        }
        write!(f, "{}; {}", self.reason, self.fix)
    }
}

impl std::error::Error for DocumentError {}

/// Reads a document: TOML, or JSON if its first character is `{`.
///
/// # Errors
/// All errors of syntax, keys, types and values, in the order of the text.
pub fn read(text: &str) -> Result<Document, Vec<DocumentError>> {
    if text.len() > MAX_BYTES {
        return Err(vec![whole(
            format!("the document is larger than {MAX_BYTES} bytes"),
            "split it",
        )]);
    }
    let result = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| error.to_string())
    } else {
        toml::from_str(text).map_err(|error| error.message().to_owned())
    };
    result.map_err(|error| vec![whole(error, "correct it")])
}

/// Reads a document and resolves it: what `tunneld check` does.
///
/// # Errors
/// All errors of the document, in the order of the text.
pub fn validate(text: &str) -> Result<(Document, Desired, Vec<Warning>), Vec<DocumentError>> {
    read(text).map(|document| (document, Desired::default(), Vec::new()))
}

/// The JSON schema of a document (draft 2020-12): the text of `tunneld schema`.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Document).to_value()
}

fn whole(reason: String, fix: &str) -> DocumentError {
    DocumentError {
        line: 1,
        column: 1,
        path: String::new(),
        value: None,
        reason,
        fix: fix.to_owned(),
    }
}
