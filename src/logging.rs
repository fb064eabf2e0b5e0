//! Logs: journald with structured fields, standard error otherwise.
