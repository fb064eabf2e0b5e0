//! Keys in core dumps and in memory: there are none where none should be, and a test that could not find them would
//! not count.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
};

use tunneld::model::types::Secret;

use crate::{
    appliance::{Appliance, Side},
    harness::{Namespace, executable},
};

/// Where cores are written.
const CORES: &str = "/run/cores";

/// Has root's debugger write a core, which obeys the same filter as the kernel; the memory in it. The registers are
/// another matter: they may hold whatever was copied last.
fn memory_in_core_of(namespace: &Namespace, pid: &str) -> Vec<u8> {
    const NOTE: u32 = 4;
    namespace.run(["gcore", "-o", &format!("{CORES}/debugged"), pid]);
    let mut core = namespace.enter(|| fs::read(format!("{CORES}/debugged.{pid}")).unwrap());
    namespace.run(["rm", &format!("{CORES}/debugged.{pid}")]);
    assert!(core.starts_with(b"\x7fELF"), "{} bytes that are no core", core.len());
    // elf(5), of a 64-bit machine: the program headers and what they say of each segment.
    let number = |at: usize, length: usize| {
        let bytes = core[at..at + length].iter().rev();
        bytes.fold(0, |sum: usize, byte| sum << 8 | usize::from(*byte))
    };
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    let headers = (0..count).map(|header| table + header * size);
    let notes = headers.filter(|at| number(*at, 4) == NOTE as usize);
    let notes: Vec<_> = notes.map(|at| (number(at + 8, 8), number(at + 32, 8))).collect();
    assert!(!notes.is_empty(), "registers are in notes");
    for (start, length) in notes {
        core[start..start + length].fill(0);
    }
    core
}

/// Has the kernel end a process as after a crash. Whether it wrote a core, as it does for others, to a file.
fn crashes_with_a_core(namespace: &Namespace, pid: &str) -> bool {
    namespace.run(["kill", "-ABRT", pid]);
    namespace.until("it has ended", || {
        let there = namespace.try_run(["test", "-e", &format!("/proc/{pid}")]);
        !there.status.success()
    });
    let found = namespace.run(["find", CORES, "-type", "f", "-print", "-delete"]);
    !found.is_empty()
}

/// Checks that another program's crash leaves a core, unless this machine hands cores to a program.
fn others_dump(namespace: &Namespace) {
    let mut other = namespace.spawn(["env", "-C", CORES, "prlimit", "--core=unlimited", "sleep", "1000"]);
    let pid = || namespace.try_run(["pgrep", "-x", "sleep"]).stdout;
    namespace.until("it runs", || !pid().is_empty());
    let dumped = crashes_with_a_core(namespace, String::from_utf8(pid()).unwrap().trim());
    other.wait().unwrap();
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    assert_eq!(dumped, !pattern.starts_with(['|', '/']), "{pattern}");
}

/// The words that start a program so that it may dump its core.
fn dumping() -> String {
    format!("env -C {CORES} prlimit --core=unlimited {}", executable())
}

/// Whether a key is in there: its bytes, as base64 or in hexadecimal digits.
fn holds(memory: &[u8], key: &str) -> bool {
    const PAGE: usize = 4096;
    let bytes = *Secret::from_base64(key).unwrap().expose();
    let hexadecimal: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    // The last character stands for four bits alone.
    let text = &key.as_bytes()[..42];
    let forms = [&bytes[..], text, hexadecimal.as_bytes()];
    // Most pages were never written.
    let pages: Vec<_> = memory.chunks(PAGE).collect();
    let blank = |page: &[u8]| page == &[0; PAGE][..page.len()];
    let written = pages
        .chunk_by(|one, next| blank(one) == blank(next))
        .filter(|run| !blank(run[0]));
    written.map(<[_]>::concat).any(|run| {
        let starts = run
            .iter()
            .enumerate()
            .filter(|(_, byte)| forms.iter().any(|form| form[0] == **byte));
        starts
            .into_iter()
            .any(|(at, _)| forms.iter().any(|form| run[at..].starts_with(form)))
    })
}

/// What a process would leave out without us (`core(5)`).
fn filter_as_usual(namespace: &Namespace, pid: &str) {
    namespace.run(["sh", "-c", &format!("echo 0x33 > /proc/{pid}/coredump_filter")]);
}

#[test]
fn the_daemon_s_core_holds_no_key_and_would() {
    let appliance = Appliance::idle();
    appliance.namespace.run(["mkdir", CORES]);
    others_dump(&appliance.namespace);
    let (private, public) = appliance.key("/run/wg0.key");
    let preshared = appliance.namespace.run(["wg", "genpsk"]).trim().to_owned();
    appliance.write("/run/psk", &preshared);
    // It is its own peer's key that matters here, and any will do.
    let document = Side::left(&public.replace(&public[..2], "aa")).document() + "preshared-key-file = \"/run/psk\"\n";
    for usual in [false, true] {
        appliance.start(&dumping());
        appliance.apply(&document);
        let pid = appliance.status()["pid"].to_string();
        if usual {
            filter_as_usual(&appliance.namespace, &pid);
        }
        let memory = memory_in_core_of(&appliance.namespace, &pid);
        for key in [&private, &preshared] {
            assert_eq!(holds(&memory, key), usual, "in a core of {} bytes", memory.len());
        }
        assert!(!crashes_with_a_core(&appliance.namespace, &pid));
    }
}

#[test]
fn an_engine_s_core_holds_no_key_and_would() {
    let namespace = Namespace::new();
    namespace.run(["mkdir", CORES]);
    others_dump(&namespace);
    let private = namespace
        .run(["sh", "-c", "umask 077; wg genkey | tee /run/key"])
        .trim()
        .to_owned();
    for usual in [false, true] {
        let line = format!("exec {} engine wg0 --foreground", dumping());
        let mut engine = namespace.spawn(["sh", "-c", &line]);
        namespace.until("the engine answers", || {
            namespace.try_run(["wg", "show", "wg0"]).status.success()
        });
        namespace.run(["wg", "set", "wg0", "private-key", "/run/key"]);
        let pid = namespace
            .run(["pgrep", "-f", "[e]ngine wg0 --foreground"])
            .trim()
            .to_owned();
        if usual {
            filter_as_usual(&namespace, &pid);
        }
        let memory = memory_in_core_of(&namespace, &pid);
        assert_eq!(holds(&memory, &private), usual, "in a core of {} bytes", memory.len());
        assert!(!crashes_with_a_core(&namespace, &pid));
        engine.wait().unwrap();
    }
}

/// Whether a key is in a process's memory.
fn remembers(namespace: &Namespace, pid: &str, key: &str) -> bool {
    namespace.enter(|| {
        let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let ranges = maps.lines().filter(|line| line.contains(" rw")).map(|line| {
            let (range, _) = line.split_once(' ').unwrap();
            let (start, end) = range.split_once('-').unwrap();
            [start, end].map(|address| u64::from_str_radix(address, 16).unwrap())
        });
        // What is mapped and was never touched has no page, and reads as zeroes.
        ranges.into_iter().any(|[start, end]| {
            let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
            memory.read_exact_at(&mut bytes, start).is_ok() && holds(&bytes, key)
        })
    })
}

#[test]
fn a_daemon_forgets_the_keys_of_a_tunnel_that_is_gone() {
    let appliance = Appliance::new();
    let (private, public) = appliance.key("/run/wg0.key");
    let preshared = appliance.namespace.run(["wg", "genpsk"]).trim().to_owned();
    appliance.write("/run/psk", &preshared);
    let document = Side::left(&public.replace(&public[..2], "aa")).document() + "preshared-key-file = \"/run/psk\"\n";
    appliance.apply(&document);
    let pid = appliance.status()["pid"].to_string();
    let remembered = || [&private, &preshared].map(|key| remembers(&appliance.namespace, &pid, key));
    assert_eq!(remembered(), [true; 2], "while it needs them");
    appliance.apply("version = 1\n");
    appliance
        .namespace
        .until("no copy is left behind", || remembered() == [false; 2]);
}
