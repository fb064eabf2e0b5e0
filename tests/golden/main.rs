//! Document and observed world in, plan out, as files.

mod documents;
#[cfg(test)]
mod plan;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod scene;
