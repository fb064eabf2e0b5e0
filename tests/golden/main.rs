//! Document and observed world in, plan out, as files.

mod documents;
