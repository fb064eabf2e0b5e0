//! Prometheus metrics: a pure function of the status at scrape time, plus the few instruments that only
//! the running loop can keep. Names that dashboards already know are kept (`wireguard_*` as in
//! prometheus_wireguard_exporter); the rest starts with `tunneld_`.

mod format;
mod instruments;
mod snapshot;
#[cfg(test)]
mod tests;

use prometheus_client::{encoding::text, registry::Registry};

use self::snapshot::Snapshot;
pub use self::{
    format::{OPENMETRICS, TEXT, wants_openmetrics},
    instruments::Instruments,
};
use crate::model::status::Status;

/// Writes all metrics; `now` is seconds since 1970. The second value is the content type.
///
/// # Errors
/// Never in practice: writing to a string cannot fail.
pub fn encode(
    status: Status,
    instruments: &Instruments,
    now: u64,
    allowed_ips: bool,
    openmetrics: bool,
) -> Result<(String, &'static str), std::fmt::Error> {
    let mut registry = Registry::default();
    instruments.register(&mut registry);
    registry.register_collector(Box::new(Snapshot {
        status,
        now,
        allowed_ips,
    }));
    let mut written = String::new();
    text::encode(&mut written, &registry)?;
    Ok(if openmetrics {
        (written, OPENMETRICS)
    } else {
        (format::as_text(&written), TEXT)
    })
}
