//! From the document to what it means.

use super::{desired::Desired, document::Document, problem::Problem};

/// What the document means, with defaults filled in and references resolved.
///
/// # Errors
/// Everything in it that contradicts itself.
pub fn resolve(_document: &Document) -> Result<Desired, Vec<Problem>> {
    Ok(Desired::default())
}
