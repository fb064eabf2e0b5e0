//! What the kernel can do, asked by questions that change nothing.

use std::{
    fs::OpenOptions,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    address, link, nftables,
    socket::{NetlinkError, Socket},
};
use crate::model::observed::Capabilities;

/// How long an answer that names something as missing holds: a module may be loaded or installed meanwhile,
/// and asking may start `modprobe(8)`.
const MISSING_HOLDS: Duration = Duration::from_secs(60);

/// Modules that bring a capability: when one of them has come, the answer does not hold any longer.
const MODULES: [&str; 4] = ["wireguard", "tun", "nf_tables", "ipv6"];

/// The answers so far.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    last: Option<(Instant, [bool; MODULES.len()], Capabilities)>,
}

impl Probe {
    /// What the kernel can do; what it once could is not asked again.
    pub(crate) async fn capabilities(&mut self, socket: &mut Socket) -> Result<Capabilities, NetlinkError> {
        let modules = MODULES.map(|name| Path::new("/sys/module").join(name).exists());
        if let Some((asked, then, known)) = &self.last {
            let complete = known.wireguard && known.tun && known.nftables && known.address_protocol && known.ipv6;
            if complete || (*then == modules && asked.elapsed() < MISSING_HOLDS) {
                return Ok(*known);
            }
        }
        let known = self.last.map(|(_, _, known)| known).unwrap_or_default();
        let capabilities = Capabilities {
            wireguard: known.wireguard || link::probe_wireguard(socket).await?,
            tun: known.tun || OpenOptions::new().read(true).write(true).open("/dev/net/tun").is_ok(),
            nftables: known.nftables || nftables::probe().await,
            address_protocol: known.address_protocol || address::probe_protocol(socket).await?,
            ipv6: known.ipv6 || Path::new("/proc/sys/net/ipv6/conf/all").exists(),
        };
        self.last = Some((Instant::now(), modules, capabilities));
        Ok(capabilities)
    }
}
