//! The interface's packets: a TUN with a `virtio_net_hdr` before each packet, so that one read or write moves
//! a whole run of TCP or UDP segments (`Documentation/networking/tuntap.rst`, virtio 1.2 section 5.1.6).

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::fs::{Mode, OFlags};

use super::{error::EngineError, sys};
use crate::model::types::InterfaceName;

/// The header in front of every packet, `struct virtio_net_hdr`, in this machine's byte order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Prologue {
    /// Whether the checksum at `checksum_start + checksum_offset` is still only the pseudo-header's.
    pub(super) needs_checksum: bool,
    /// How the packet is to be segmented.
    pub(super) segmentation: Segmentation,
    /// Bytes of all headers up to the payload, a hint.
    pub(super) header_length: u16,
    /// Payload bytes in each segment.
    pub(super) segment_size: u16,
    /// Where the transport header starts.
    pub(super) checksum_start: u16,
    /// Where its checksum field is, from there.
    pub(super) checksum_offset: u16,
}

/// The kinds of segmentation that a TUN knows (`VIRTIO_NET_HDR_GSO_*`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Segmentation {
    /// The packet is one packet.
    #[default]
    None,
    /// TCP on IPv4.
    Tcp4,
    /// TCP on IPv6.
    Tcp6,
    /// UDP on either.
    Udp,
}

impl Prologue {
    /// Bytes of the header.
    pub(super) const SIZE: usize = 10;
    const NEEDS_CHECKSUM: u8 = 1;
    const CONGESTION: u8 = 0x80;

    /// Reads the header; `None` for a kind of segmentation that was never asked for.
    pub(super) fn parse(bytes: &[u8; Self::SIZE]) -> Option<Self> {
        let [flags, kind, h0, h1, s0, s1, c0, c1, o0, o1] = *bytes;
        let segmentation = match kind & !Self::CONGESTION {
            0 => Segmentation::None,
            1 => Segmentation::Tcp4,
            4 => Segmentation::Tcp6,
            5 => Segmentation::Udp,
            _ => return None,
        };
        Some(Self {
            needs_checksum: flags & Self::NEEDS_CHECKSUM != 0,
            segmentation,
            header_length: u16::from_ne_bytes([h0, h1]),
            segment_size: u16::from_ne_bytes([s0, s1]),
            checksum_start: u16::from_ne_bytes([c0, c1]),
            checksum_offset: u16::from_ne_bytes([o0, o1]),
        })
    }

    /// Writes the header.
    pub(super) fn encode(&self) -> [u8; Self::SIZE] {
        let kind = match self.segmentation {
            Segmentation::None => 0,
            Segmentation::Tcp4 => 1,
            Segmentation::Tcp6 => 4,
            Segmentation::Udp => 5,
        };
        let [h0, h1] = self.header_length.to_ne_bytes();
        let [s0, s1] = self.segment_size.to_ne_bytes();
        let [c0, c1] = self.checksum_start.to_ne_bytes();
        let [o0, o1] = self.checksum_offset.to_ne_bytes();
        [u8::from(self.needs_checksum), kind, h0, h1, s0, s1, c0, c1, o0, o1]
    }
}

/// An open TUN. The interface goes when this does.
#[derive(Debug)]
pub(super) struct Tun {
    file: OwnedFd,
    coalesce_tcp: AtomicBool,
    coalesce_udp: AtomicBool,
}

impl Tun {
    /// Makes the interface `name`, with segmentation offload if wanted and as far as the kernel has it.
    pub(super) fn open(name: &InterfaceName, offload: bool) -> Result<Self, EngineError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::open("/dev/net/tun", flags, Mode::empty())
            .map_err(|error| EngineError::new("open /dev/net/tun", error))?;
        sys::attach(&file, name).map_err(|error| {
            let taken = nix::net::if_::if_nametoindex(name.as_str()).is_ok();
            let hint = if taken {
                ", though a link of this name is there"
            } else {
                ""
            };
            EngineError::new(format!("make the interface {name}{hint}"), error)
        })?;
        Ok(Self::adopt(file, offload))
    }

    /// The interface behind `file`, which a predecessor made.
    pub(super) fn adopt(file: OwnedFd, offload: bool) -> Self {
        let tcp = offload && sys::set_offload(&file, sys::OFFLOAD_CHECKSUM | sys::OFFLOAD_TCP).is_ok();
        let everything = sys::OFFLOAD_CHECKSUM | sys::OFFLOAD_TCP | sys::OFFLOAD_UDP;
        let udp = tcp && sys::set_offload(&file, everything).is_ok();
        Self {
            file,
            coalesce_tcp: AtomicBool::new(tcp),
            coalesce_udp: AtomicBool::new(udp),
        }
    }

    /// A stand-in: whoever holds the other end of `file` takes runs of everything.
    #[cfg(any(test, fuzzing))]
    pub(super) fn pretended(file: OwnedFd) -> Self {
        Self {
            file,
            coalesce_tcp: AtomicBool::new(true),
            coalesce_udp: AtomicBool::new(true),
        }
    }

    /// One packet with its prologue.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.file, buffer)?)
    }

    /// Writes one packet with its prologue. When the kernel will not take a run of segments, none is
    /// tried again.
    pub(super) fn write(&self, packet: &[u8]) -> io::Result<()> {
        let result = rustix::io::write(&self.file, packet);
        let header = packet.first_chunk().and_then(Prologue::parse).unwrap_or_default();
        match (result, header.segmentation) {
            (Err(rustix::io::Errno::INVAL), Segmentation::Tcp4 | Segmentation::Tcp6) => {
                self.coalesce_tcp.store(false, Ordering::Relaxed);
            }
            (Err(rustix::io::Errno::INVAL), Segmentation::Udp) => self.coalesce_udp.store(false, Ordering::Relaxed),
            _ => (),
        }
        result.map(drop).map_err(io::Error::from)
    }

    /// Whether runs of TCP segments may be written as one packet.
    pub(super) fn coalesces_tcp(&self) -> bool {
        self.coalesce_tcp.load(Ordering::Relaxed)
    }

    /// Whether runs of UDP datagrams may be written as one packet.
    pub(super) fn coalesces_udp(&self) -> bool {
        self.coalesce_udp.load(Ordering::Relaxed)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prologue_survives_the_wire() {
        let prologue = Prologue {
            needs_checksum: true,
            segmentation: Segmentation::Tcp6,
            header_length: 60,
            segment_size: 1360,
            checksum_start: 40,
            checksum_offset: 16,
        };
        assert_eq!(Prologue::parse(&prologue.encode()), Some(prologue));
        assert_eq!(
            Prologue::parse(&[0, 3, 0, 0, 0, 0, 0, 0, 0, 0]),
            None,
            "UFO was never asked for"
        );
        let marked = Prologue::parse(&[1, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert_eq!(marked.segmentation, Segmentation::Tcp4);
    }
}
