//! The record of a disk's writes, in the format of the kernel's dm-log-writes, as QEMU's `blklogwrites` writes it
//! (the kernel's `Documentation/admin-guide/device-mapper/log-writes.rst`): a head with magic, version, number of
//! entries and sector size, then for each entry a sector that says where and what, and its data.

const MAGIC: u64 = 0x6a73_6677_7368_72;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
/// What an entry's place is counted in.
const SECTOR: u64 = 512;

/// What happened to the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A write; one that is durable by itself if the disk was told so.
    Write { at: u64, data: Vec<u8>, durable: bool },
    /// Every write before is durable.
    Flush,
}

/// Reads the record.
pub(crate) fn parse(log: &[u8]) -> Vec<Entry> {
    let number = |at: usize| u64::from_le_bytes(log[at..at + 8].try_into().unwrap());
    assert_eq!((number(0), number(8)), (MAGIC, VERSION), "a log of writes");
    let size = u32::from_le_bytes(log[24..28].try_into().unwrap()) as usize;
    let (mut entries, mut at) = (Vec::new(), size);
    for _ in 0..number(16) {
        let [sector, sectors, flags] = [0, 8, 16].map(|field| number(at + field));
        assert_eq!(flags & DISCARD, 0, "nothing is discarded");
        at += size;
        if flags & FLUSH != 0 {
            entries.push(Entry::Flush);
        }
        let bytes = (sectors * SECTOR) as usize;
        if bytes > 0 {
            let data = log[at..at + bytes].to_vec();
            let durable = flags & FUA != 0;
            entries.push(Entry::Write {
                at: sector * SECTOR,
                data,
                durable,
            });
        }
        at += bytes.next_multiple_of(size);
    }
    entries
}

#[test]
fn a_log_is_read_as_it_was_written() {
    let sector = |numbers: &[u64]| {
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        bytes.resize(512, 0);
        bytes
    };
    let mut log = sector(&[MAGIC, VERSION, 3, SECTOR]);
    log.extend(sector(&[7, 2, 0]));
    log.extend([5; 1024]);
    log.extend(sector(&[0, 0, FLUSH]));
    log.extend(sector(&[9, 1, FUA]));
    log.extend([6; 512]);
    let write = |sector, data: &[u8], durable| Entry::Write {
        at: sector * SECTOR,
        data: data.to_vec(),
        durable,
    };
    let entries = [write(7, &[5; 1024], false), Entry::Flush, write(9, &[6; 512], true)];
    assert_eq!(parse(&log), entries);
}
