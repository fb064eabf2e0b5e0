//! The finding of errors in a document: every one at once, with its place.
