//! The expressions of nf_tables that our rules are made of, all on register 1 (`uapi/linux/netfilter/nf_tables.h`;
//! `nft --debug=netlink list ruleset` shows the same words).

use super::attribute::Attribute;

/// Register 1: 16 bytes, wide enough for an IPv6 address and an interface's name.
const REGISTER: u32 = 1;

/// One expression of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expression {
    /// `NFTA_EXPR_NAME`.
    pub(super) name: &'static str,
    /// `NFTA_EXPR_DATA`.
    pub(super) data: Vec<Attribute>,
}

/// An expression with attributes that are all numbers.
fn numbers(name: &'static str, numbers: &[(u16, u32)]) -> Expression {
    let data = numbers
        .iter()
        .map(|(kind, number)| Attribute::number(*kind, *number))
        .collect();
    Expression { name, data }
}

/// What `meta` reads and sets (`NFT_META_*`).
#[derive(Debug, Clone, Copy)]
pub(super) enum Meta {
    /// The packet's mark.
    Mark = 3,
    /// The name of the interface that it came in by.
    IncomingName = 6,
    /// The name of the interface that it leaves by.
    OutgoingName = 7,
    /// IPv4 or IPv6.
    Protocol = 15,
    /// TCP, UDP and so on.
    TransportProtocol = 16,
}

/// `[ meta load KEY => reg 1 ]`
pub(super) fn meta_load(key: Meta) -> Expression {
    numbers("meta", &[(2, key as u32), (1, REGISTER)])
}

/// `[ meta set mark with reg 1 ]`
pub(super) fn meta_set_mark() -> Expression {
    numbers("meta", &[(2, Meta::Mark as u32), (3, REGISTER)])
}

/// `NFT_CT_MARK`.
const CONNECTION_MARK: u32 = 3;

/// `[ ct load mark => reg 1 ]`
pub(super) fn connection_mark_load() -> Expression {
    numbers("ct", &[(2, CONNECTION_MARK), (1, REGISTER)])
}

/// `[ ct set mark with reg 1 ]`
pub(super) fn connection_mark_set() -> Expression {
    numbers("ct", &[(2, CONNECTION_MARK), (4, REGISTER)])
}

/// How `cmp` compares (`NFT_CMP_*`).
#[derive(Debug, Clone, Copy)]
pub(super) enum Is {
    /// Goes on if equal.
    Equal = 0,
    /// Goes on if different.
    Different = 1,
}

/// `[ cmp eq reg 1 BYTES ]`
pub(super) fn compare(is: Is, bytes: impl Into<Vec<u8>>) -> Expression {
    let mut compare = numbers("cmp", &[(1, REGISTER), (2, is as u32)]);
    compare
        .data
        .push(Attribute::nested(3, vec![Attribute::bytes(1, bytes)]));
    compare
}

/// Where `payload` counts from (`NFT_PAYLOAD_*_HEADER`).
#[derive(Debug, Clone, Copy)]
pub(super) enum Header {
    /// IP.
    Network = 1,
    /// TCP.
    Transport = 2,
}

/// `[ payload load LENGTHb @ HEADER + OFFSET => reg 1 ]`
pub(super) fn payload_load(header: Header, offset: u32, length: u32) -> Expression {
    numbers(
        "payload",
        &[(1, REGISTER), (2, header as u32), (3, offset), (4, length)],
    )
}

/// `[ bitwise reg 1 = ( reg 1 & MASK ) ^ 0 ]` on one byte
pub(super) fn mask_byte(mask: u8) -> Expression {
    let mut bitwise = numbers("bitwise", &[(1, REGISTER), (2, REGISTER), (3, 1)]);
    let byte = |kind, byte: u8| Attribute::nested(kind, vec![Attribute::bytes(1, [byte])]);
    bitwise.data.extend([byte(4, mask), byte(5, 0)]);
    bitwise
}

/// `[ rt load tcpmss => reg 1 ]`: the largest segment of the path, both ways, in host byte order
pub(super) fn path_segment_size_load() -> Expression {
    numbers("rt", &[(1, REGISTER), (2, 3)])
}

/// `[ byteorder reg 1 = hton(reg 1, 2, 2) ]`
pub(super) fn to_network_order() -> Expression {
    numbers("byteorder", &[(1, REGISTER), (2, REGISTER), (3, 1), (4, 2), (5, 2)])
}

/// `[ exthdr write tcpopt reg 1 => 2b @ 2 + 2 ]`: the maximum segment size option (RFC 9293 section 3.2). The
/// kernel never makes it larger.
pub(super) fn segment_size_option_set() -> Expression {
    let mut write = numbers("exthdr", &[(7, REGISTER), (3, 2), (4, 2), (6, 1)]);
    write.data.push(Attribute::bytes(2, [2]));
    write
}

/// `[ fib saddr type => reg 1 ]`: the source address's type, in host byte order as `RTN_LOCAL`
pub(super) fn source_type_load() -> Expression {
    numbers("fib", &[(1, REGISTER), (2, 3), (3, 1)])
}

/// `[ immediate reg 0 drop ]`
pub(super) fn drop_packet() -> Expression {
    let mut immediate = numbers("immediate", &[(1, 0)]);
    let verdict = Attribute::nested(2, vec![Attribute::number(1, 0)]);
    immediate.data.push(Attribute::nested(2, vec![verdict]));
    immediate
}
