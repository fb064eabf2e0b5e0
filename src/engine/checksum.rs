//! The Internet checksum (RFC 1071), summed in this machine's byte order and turned round at the end.

/// A running one's complement sum.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum(u64);

impl Sum {
    /// Adds bytes, which start at an even offset of what is summed.
    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        // Four bytes at a time into 64 bits: no carry is lost before 16 GiB, and compilers vectorise it.
        let mut chunks = bytes.chunks_exact(4);
        let mut sum = 0_u64;
        for chunk in &mut chunks {
            sum += u64::from(chunk.first_chunk().map_or(0, |word| u32::from_ne_bytes(*word)));
        }
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(chunks.remainder()) {
            *to = *from;
        }
        self.0 += sum + u64::from(u32::from_ne_bytes(last));
        self
    }

    /// Adds a number in host order as the 32 bits it has on the wire.
    pub(super) fn number(mut self, value: u32) -> Self {
        self.0 += u64::from(value.to_be());
        self
    }

    /// The sum as it stands in a packet before it is inverted, in host order.
    pub(super) fn partial(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::from_be(sum as u16)
    }

    /// The checksum, in host order.
    pub(super) fn checksum(self) -> u16 {
        !self.partial()
    }

    /// Whether what was summed, its checksum included, is intact.
    pub(super) fn is_valid(self) -> bool {
        self.partial() == 0xffff
    }
}

/// The sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1): addresses, protocol, length.
pub(super) fn pseudo_header(addresses: &[u8], protocol: u8, length: usize) -> Sum {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    Sum::default()
        .bytes(addresses)
        .number(u32::from(protocol))
        .number(length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().bytes(&bytes).partial(), 0xddf2);
    }

    proptest! {
        #[test]
        fn equals_the_plain_definition(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(Sum::default().bytes(&bytes).checksum(), naive(&bytes));
        }

        #[test]
        fn parts_add_up(a in proptest::collection::vec(any::<u16>(), 0..40), b in any::<u32>()) {
            let a: Vec<u8> = a.iter().flat_map(|word| word.to_be_bytes()).collect();
            let whole = [&a[..], &b.to_be_bytes()].concat();
            prop_assert_eq!(Sum::default().bytes(&a).number(b).checksum(), naive(&whole));
        }
    }
}
