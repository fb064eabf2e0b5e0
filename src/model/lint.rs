//! What will work, but not as intended.

use super::{document::Document, problem::Problem};

/// Warnings about a document that resolves.
pub fn lint(_document: &Document) -> Vec<Problem> {
    Vec::new()
}
