//! What stands in for a required value that is missing or wrong: nobody writes it, and no two are alike, so that it
//! conflicts with nothing while everything around it is judged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    super::types::{InterfaceName, Prefix, PublicKey},
    shape::{Kind, PUBLIC_KEY},
    tree::Value,
};

/// Something in a value's place.
pub(super) struct StandIn {
    pub(super) value: Value<'static>,
    /// It is as good as what was meant: nothing that seems to be missing elsewhere can be what should stand here.
    pub(super) plain: bool,
}

impl StandIn {
    /// For what belongs at this offset of the text, behind `before`, where that is known. A network is of the family
    /// that its element speaks of.
    pub(super) fn find(kind: &Kind, before: Option<&str>, place: usize, ipv6: bool) -> Option<Self> {
        let text = |text: String| Value::Text(text.into());
        let (value, plain) = match kind {
            Kind::Number { least, most } => (Value::Integer(number(*least, *most, place)), least == most),
            Kind::Text {
                format: Some(format), ..
            } => match format.name {
                "interface-name" => (text(spoken_place(before, place)), true),
                PUBLIC_KEY => (text(public_key(place).to_string()), true),
                "prefix" => (text(prefix(place, ipv6).to_string()), false),
                _ => return None,
            },
            _ => return None,
        };
        Some(Self { value, plain })
    }
}

/// From the lower half: the last positions of rules are those that default routes and uplinks take.
fn number(least: i128, most: i128, place: usize) -> i128 {
    let place = i128::try_from(place).unwrap_or(0);
    least + place % ((most - least + 1) / 2).max(1)
}

fn public_key(place: usize) -> PublicKey {
    let mut bytes = [0xff; 32];
    bytes
        .iter_mut()
        .zip(place.to_be_bytes())
        .for_each(|(to, from)| *to = from);
    PublicKey::from_bytes(bytes)
}

/// One address of those that lead nowhere (RFC 1122, 3.2.1.3; RFC 6666). A document has less than 2^24 bytes.
fn prefix(place: usize, ipv6: bool) -> Prefix {
    let place = u32::try_from(place).unwrap_or(0) & 0x00ff_ffff;
    Prefix::host(if ipv6 {
        IpAddr::V6(Ipv6Addr::from((0x0100 << 112) | u128::from(place)))
    } else {
        IpAddr::V4(Ipv4Addr::from(place))
    })
}

/// `?LINE-COLUMN` of what follows `before`, if that fits a name: it may stand in another error. The place itself
/// otherwise.
fn spoken_place(before: Option<&str>, place: usize) -> String {
    let spoken = before.map(|before| {
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("?{line}-{column}")
    });
    let fitting = spoken.filter(|spoken| spoken.len() <= InterfaceName::MAX_BYTES);
    fitting.unwrap_or_else(|| format!("?{place}"))
}
