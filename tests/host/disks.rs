//! The store on disks that are full or read-only.

use std::{fs, io::Write, path::Path};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use tunneld::store::{Opened, StoreErrorClass};

use crate::store::{apply, document, interface, key, live_number, open};

/// Runs `test` in a mount namespace with a tmpfs of so many KiB at the path it gets.
fn with_small_disk(kibibytes: u64, test: impl FnOnce(&Path) + Send) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let run = || {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let size = format!("size={kibibytes}k");
        mount(
            Some("tmpfs"),
            path,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(size.as_str()),
        )
        .unwrap();
        test(path);
        umount2(path, MntFlags::MNT_DETACH).unwrap();
    };
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap();
}

/// Takes all the space that is left.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    while file.write_all(&[1]).is_ok() {}
}

#[test]
fn a_full_disk_is_said_and_passes() {
    with_small_disk(16 << 10, |disk| {
        let directory = disk.join("state");
        let (store, _) = open(&directory).unwrap();
        store.keep_private_key(&interface(), &key()).unwrap();
        apply(&store, document(1)).unwrap();
        let filling = disk.join("filling");
        fill(&filling);
        let error = apply(&store, document(2)).unwrap_err();
        assert_eq!(error.class, StoreErrorClass::Full, "{error}");
        assert!(store.trouble().contains("free some space"), "{}", store.trouble());
        assert_eq!(live_number(&store), 1);
        assert!(store.revision(1).unwrap().document == document(1));
        drop(store);

        // A start on the full disk.
        let (store, opened) = open(&directory).unwrap();
        assert!(matches!(opened, Opened::Existing | Opened::Degraded(_)), "{opened}");
        assert_eq!(live_number(&store), 1);
        assert_eq!(store.private_key(&interface()), Some(key()));
        assert_eq!(apply(&store, document(2)).unwrap_err().class, StoreErrorClass::Full);

        fs::remove_file(filling).unwrap();
        assert_eq!(apply(&store, document(2)).unwrap(), 2);
        assert_eq!(store.trouble(), "");
        drop(store);
        assert_eq!(live_number(&open(&directory).unwrap().0), 2);
    });
}

#[test]
fn a_disk_that_never_has_room_is_full_from_the_start() {
    with_small_disk(2 << 10, |disk| {
        let error = open(&disk.join("state")).map(drop).unwrap_err();
        assert_eq!(error.class, StoreErrorClass::Full, "{error}");
        assert!(!disk.join("state/database").exists());
    });
}

/// Makes the disk read-only, or writable again, for whoever opens it by its name from now on. It is a mount
/// of its own: one that is still being written through cannot become read-only.
fn set_read_only(disk: &Path, read_only: bool) {
    let none = None::<&str>;
    if !read_only {
        umount2(disk, MntFlags::MNT_DETACH).unwrap();
        return;
    }
    mount(Some(disk), disk, none, MsFlags::MS_BIND, none).unwrap();
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(none, disk, none, flags, none).unwrap();
}

#[test]
fn a_read_only_disk_serves_the_export_and_recovers() {
    with_small_disk(32 << 10, |disk| {
        let directory = disk.join("state");
        let (store, _) = open(&directory).unwrap();
        store.keep_private_key(&interface(), &key()).unwrap();
        apply(&store, document(1)).unwrap();
        drop(store);
        set_read_only(disk, true);
        let (store, opened) = open(&directory).unwrap();
        let Opened::Degraded(error) = opened else {
            panic!("{opened}");
        };
        assert_eq!(error.class, StoreErrorClass::ReadOnly, "{error}");
        assert_eq!(live_number(&store), 1);
        assert_eq!(store.private_key(&interface()), Some(key()));
        let error = apply(&store, document(2)).unwrap_err();
        assert_eq!(error.class, StoreErrorClass::ReadOnly, "{error}");
        set_read_only(disk, false);
        assert_eq!(apply(&store, document(2)).unwrap(), 2);
        assert_eq!(store.trouble(), "");
        assert!(store.revision(1).unwrap().document == document(1));
    });
}

#[test]
fn a_read_only_disk_without_a_store_is_an_error() {
    with_small_disk(8 << 10, |disk| {
        set_read_only(disk, true);
        let error = open(&disk.join("state")).map(drop).unwrap_err();
        assert_eq!(error.class, StoreErrorClass::ReadOnly, "{error}");
    });
}
