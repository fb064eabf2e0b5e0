//! The system calls that no crate wraps: the engine's only unsafe code.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use nix::libc;

use crate::model::types::InterfaceName;

/// `TUN_F_CSUM`: we take packets whose checksum is still to be completed (`linux/if_tun.h`).
pub(super) const OFFLOAD_CHECKSUM: u32 = 0x01;
/// `TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN`: we take unsegmented TCP.
pub(super) const OFFLOAD_TCP: u32 = 0x02 | 0x04 | 0x08;
/// `TUN_F_USO4 | TUN_F_USO6`: we take unsegmented UDP (kernel 6.2); the kernel wants both or neither.
pub(super) const OFFLOAD_UDP: u32 = 0x20 | 0x40;

/// Makes `tun`, an open `/dev/net/tun`, the interface `name`: IP packets, each behind a `virtio_net_hdr`.
pub(super) fn attach(tun: impl AsFd, name: &InterfaceName) -> io::Result<()> {
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let flags = libc::c_short::try_from(flags).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `ifreq` is plain old data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // A name has at most 15 bytes, so that the sixteenth stays the terminating zero.
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_str().bytes().take(15)) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives across the call and is not shared.
    let result = unsafe { libc::ioctl(tun.as_fd().as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// Says which unfinished packets we take from the interface (`TUNSETOFFLOAD`).
pub(super) fn set_offload(tun: impl AsFd, offload: u32) -> io::Result<()> {
    let argument = libc::c_ulong::from(offload);
    // SAFETY: TUNSETOFFLOAD takes its argument by value and touches none of our memory.
    let result = unsafe { libc::ioctl(tun.as_fd().as_raw_fd(), libc::TUNSETOFFLOAD, argument) };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// Sends without the don't-fragment bit, as the kernel's WireGuard does: routers may fragment what is too large.
pub(super) fn allow_fragments(socket: impl AsFd) -> io::Result<()> {
    let value: libc::c_int = libc::IP_PMTUDISC_DONT;
    let size = libc::socklen_t::try_from(size_of_val(&value)).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the option's value is one `int`, which lives across the call; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            (&raw const value).cast(),
            size,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// Gives program text and constants back that only the start or a burst of work needed; what is needed again
/// comes back from the file. It halves what an idle engine holds, and there is one for each interface.
///
/// # Errors
/// When this process' mappings cannot be read or changed.
pub fn release_text() -> io::Result<()> {
    for (start, length) in clean_file_mappings(&std::fs::read_to_string("/proc/self/smaps")?) {
        // SAFETY: the range is a whole mapping of this process, private, of a file, not writable, and without
        // a page that differs from the file's, so that each reads the same after it was dropped.
        let result = unsafe {
            libc::madvise(
                std::ptr::with_exposed_provenance_mut(start),
                length,
                libc::MADV_DONTNEED,
            )
        };
        nix::errno::Errno::result(result)?;
    }
    Ok(())
}

/// Address and length of each mapping in `proc_pid_smaps(5)` that is a file's, cannot be written, and has no
/// page of its own (relocated constants do).
fn clean_file_mappings(smaps: &str) -> Vec<(usize, usize)> {
    let mut clean = Vec::new();
    let mut mapping = None;
    for line in smaps.lines() {
        match line.strip_prefix("Anonymous:") {
            Some(size) if size.trim() == "0 kB" => clean.extend(mapping.take()),
            Some(_) => mapping = None,
            None => mapping = file_mapping(line).or(mapping),
        }
    }
    clean
}

/// Where the first line of a mapping maps a file that cannot be written: its address and length.
fn file_mapping(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_whitespace();
    let (range, permissions, inode) = (fields.next()?, fields.next()?, fields.nth(2)?);
    let (start, end) = range.split_once('-')?;
    let (start, end) = (
        usize::from_str_radix(start, 16).ok()?,
        usize::from_str_radix(end, 16).ok()?,
    );
    let fixed = matches!(permissions, "r-xp" | "r--p") && inode != "0";
    fixed.then_some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clean_pages_of_files_are_given_back() {
        let mapping = |line: &str, anonymous: u32| {
            format!("{line}\nSize:  100 kB\nRss:  100 kB\nAnonymous:  {anonymous} kB\nVmFlags: rd ex mr\n")
        };
        let text = "55d0e0a4b000-55d0e0bed000 r-xp 00048000 fe:00 1234   /usr/bin/tunneld";
        let constants = "55d0e0a00000-55d0e0a4b000 r--p 00000000 fe:00 1234   /usr/bin/tunneld";
        let given = [(0x55d0_e0a4_b000, 0x1a_2000), (0x55d0_e0a0_0000, 0x4_b000)];
        assert_eq!(clean_file_mappings(&(mapping(text, 0) + &mapping(constants, 0))), given);
        assert_eq!(clean_file_mappings(&mapping(constants, 4)), [], "relocated");
        for other in [
            "55d0e0a4b000-55d0e0bed000 rw-p 00048000 fe:00 1234   /usr/bin/tunneld",
            "7ffd3b5e1000-7ffd3b5e3000 r-xp 00000000 00:00 0      [vdso]",
            "nonsense",
            "",
        ] {
            assert_eq!(clean_file_mappings(&mapping(other, 0)), [], "{other}");
        }
    }
}
