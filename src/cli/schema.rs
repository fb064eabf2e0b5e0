//! `tunneld schema`: the document's JSON schema.

use clap::Args;

use super::print_json;
use crate::model::{check, service::Failure};

/// Print the JSON schema of the document, for editors and validators
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tunneld schema > tunneld.schema.json")]
pub(super) struct Arguments {}

pub(super) fn run(_: &Arguments) -> Result<(), Failure> {
    print_json(&check::schema())
}
