//! WireGuard devices through generic netlink (`uapi/linux/wireguard.h`). The kernel announces nothing about
//! peers: reading is the only way to see a change.

mod message;

use std::fmt::Debug;

use netlink_packet_core::{DecodeError, NetlinkSerializable, ParseableParametrized};
use netlink_packet_generic::{
    GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_packet_wireguard::{WireguardAttribute, WireguardCmd, WireguardMessage};
use netlink_sys::protocols::NETLINK_GENERIC;
use nix::errno::Errno;

use super::{
    attributes::{attributes, find},
    socket::{Attributes, NetlinkError, Socket},
};
use crate::model::{
    ports::{ErrorClass, ObserveError, OperationError},
    types::InterfaceName,
    wireguard::{Device, DeviceChange},
};

/// The kernel's WireGuard in the network namespace of the thread that connected.
pub struct Wireguard {
    socket: Socket,
    /// The number that the kernel gave the family `wireguard`.
    family: u16,
}

impl Wireguard {
    /// Finds the family; asking for it also loads the module.
    ///
    /// # Errors
    /// [`ErrorClass::Unsupported`] when this kernel has no WireGuard, else the kernel's.
    pub async fn connect() -> Result<Self, ObserveError> {
        const WHAT: &str = "the kernel's WireGuard";
        let mut socket = Socket::connect(NETLINK_GENERIC).map_err(|error| error.observe(WHAT))?;
        match family(&mut socket).await {
            Ok(family) => Ok(Self { socket, family }),
            Err(error) if error.errno() == Some(Errno::ENOENT) => Err(ObserveError {
                what: WHAT.into(),
                reason: "this kernel has no WireGuard (no generic netlink family of that name)".into(),
                class: ErrorClass::Unsupported,
            }),
            Err(error) => Err(error.observe(WHAT)),
        }
    }

    /// Reads a device; `None` when no interface has the name, or one of another kind.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn get(&mut self, name: &InterfaceName) -> Result<Option<Device>, ObserveError> {
        match self.dump(name).await {
            Ok(device) => Ok(Some(device)),
            Err(error) if matches!(error.errno(), Some(Errno::ENODEV | Errno::EOPNOTSUPP)) => Ok(None),
            Err(error) => Err(error.observe(format!("WireGuard device {name}"))),
        }
    }

    async fn dump(&mut self, name: &InterfaceName) -> Result<Device, NetlinkError> {
        let attributes = vec![WireguardAttribute::IfName(name.as_str().to_owned())];
        let request = self.message(WireguardCmd::GetDevice, attributes);
        let read = self.socket.dump(request, Reading::merge).await;
        self.socket.forget();
        read?.finish()
    }

    /// Changes a device, in as many messages as it takes. They are carried out one after the other: after a
    /// failure those before it stay.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn set(&mut self, name: &InterfaceName, change: &DeviceChange) -> Result<(), OperationError> {
        for attributes in message::fragments(name, change) {
            let message = self.message(WireguardCmd::SetDevice, attributes);
            let sent = self
                .socket
                .request::<_, GenlMessage<WireguardMessage>>(message, 0)
                .await;
            sent.map_err(|error| error.operation(format!("configure WireGuard device {name}")))?;
        }
        Ok(())
    }

    fn message(&self, cmd: WireguardCmd, attributes: Vec<WireguardAttribute>) -> Cleared {
        Cleared(framed(WireguardMessage { cmd, attributes }, self.family))
    }
}

/// A message that clears its keys when it is dropped.
#[derive(Clone)]
struct Cleared(GenlMessage<WireguardMessage>);

impl Drop for Cleared {
    fn drop(&mut self) {
        message::clear(&mut self.0.payload.attributes);
    }
}

impl NetlinkSerializable for Cleared {
    fn message_type(&self) -> u16 {
        NetlinkSerializable::message_type(&self.0)
    }

    fn buffer_len(&self) -> usize {
        NetlinkSerializable::buffer_len(&self.0)
    }

    fn serialize(&self, buffer: &mut [u8]) {
        NetlinkSerializable::serialize(&self.0, buffer);
    }
}

impl Debug for Wireguard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wireguard")
            .field("family", &self.family)
            .finish_non_exhaustive()
    }
}

/// What was read so far of a device.
#[derive(Default)]
pub(super) struct Reading {
    device: Device,
    failure: Option<DecodeError>,
}

impl Reading {
    /// Adds what one more message shows.
    pub(super) fn merge(&mut self, kind: u16, payload: &[u8]) {
        let merged = parse(kind, payload).and_then(|mut attributes| {
            let merged = message::merge(&mut self.device, &attributes);
            message::clear(&mut attributes);
            merged
        });
        if let Err(error) = merged {
            self.failure = Some(error);
        }
    }

    /// The device, if every message could be read.
    pub(super) fn finish(self) -> Result<Device, NetlinkError> {
        match self.failure {
            Some(error) => Err(NetlinkError::Decode(error.to_string())),
            None => Ok(self.device),
        }
    }
}

fn framed(message: WireguardMessage, family: u16) -> GenlMessage<WireguardMessage> {
    let mut framed = GenlMessage::from_payload(message);
    framed.set_resolved_family_id(family);
    framed
}

/// `struct genlmsghdr`.
const GENL_HEADER: usize = 4;

/// The attributes of one message that answers a reading.
fn parse(kind: u16, payload: &[u8]) -> Result<Vec<WireguardAttribute>, DecodeError> {
    if payload.get(GENL_HEADER..).is_some_and(has_empty_mask) {
        return Err(DecodeError::from("the length of an allowed IP has no byte"));
    }
    GenlMessage::<WireguardMessage>::parse_with_param(payload, kind).map(|message| message.payload.attributes)
}

/// Whether a prefix length among the allowed IPs has no byte, at which netlink-packet-wireguard 0.5 panics.
fn has_empty_mask(device: &[u8]) -> bool {
    /// `WGDEVICE_A_PEERS`, `WGPEER_A_ALLOWEDIPS` and `WGALLOWEDIP_A_CIDR_MASK` in `uapi/linux/wireguard.h`.
    const PEERS: u16 = 8;
    const ALLOWED_IPS: u16 = 9;
    const CIDR_MASK: u16 = 3;
    let peers = attributes(device).filter(|(kind, _)| *kind == PEERS);
    let peers = peers.flat_map(|(_, peers)| attributes(peers));
    let allowed = peers
        .flat_map(|(_, peer)| attributes(peer))
        .filter(|(kind, _)| *kind == ALLOWED_IPS);
    let allowed = allowed.flat_map(|(_, allowed)| attributes(allowed));
    let mut parts = allowed.flat_map(|(_, allowed)| attributes(allowed));
    parts.any(|(kind, value)| kind == CIDR_MASK && value.is_empty())
}

/// Asks the controller of generic netlink for the family's number.
async fn family(socket: &mut Socket) -> Result<u16, NetlinkError> {
    let request = GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName("wireguard".into())],
    });
    let answers: Vec<Attributes> = socket.request(request, 0).await?;
    let number = answers.iter().find_map(|answer| family_number(&answer.0));
    number.ok_or_else(|| NetlinkError::Decode("the family has no number".into()))
}

/// The number among a family's attributes, and nothing else of them: netlink-packet-generic 0.5 panics at policies
/// that are cut short.
pub(super) fn family_number(family: &[u8]) -> Option<u16> {
    /// `CTRL_ATTR_FAMILY_ID` in `uapi/linux/genetlink.h`.
    const FAMILY_ID: u16 = 1;
    find(family, FAMILY_ID)?.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_length_without_a_byte_is_an_error() {
        // A device with a peer with an allowed IP, from the inside out.
        let nested = |kind: u16, value: &[u8]| {
            let length = u16::try_from(value.len() + 4).unwrap();
            [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
        };
        for (mask, read) in [(&[24, 0, 0, 0][..], true), (&[], false)] {
            let mask = [&[if read { 5 } else { 4 }, 0, 3, 0][..], mask].concat();
            let device = [0, 9, 0, 8]
                .into_iter()
                .fold(mask, |inner, kind| nested(kind | 1 << 15, &inner));
            let parsed = parse(0x1c, &[&[0, 1, 0, 0][..], &device].concat());
            assert_eq!(parsed.is_ok(), read, "{parsed:?}");
        }
    }

    #[test]
    fn a_familys_number_is_found_and_nothing_else_is_looked_at() {
        let number = [6, 0, 1, 0, 0x1c, 0, 0, 0];
        // CTRL_ATTR_POLICY with a policy whose own attribute ends within its header.
        let policy = [14, 0, 8, 0, 10, 0, 0, 0, 6, 0, 0, 0, 1, 2, 0, 0];
        let attributes = [&policy[..], &number[..]].concat();
        assert_eq!(family_number(&attributes), Some(0x1c));
        assert_eq!(family_number(&attributes[..20]), None, "cut short");
        assert_eq!(family_number(&policy), None);
    }
}
