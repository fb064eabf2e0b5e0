//! One machine of the demo: a network namespace with its cables, then a daemon or the far host.

use std::{
    io::{self, BufRead, Read, Write},
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    process::Command,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use super::{
    failed, net,
    site::{BULK_PORT, LEFT, RIGHT, Site},
};
use crate::{
    cli::runtime,
    model::service::{Failure, FailureKind},
};

/// Makes the namespace, says so, waits until the stage has put the cables in, and goes on as the machine.
pub(super) fn run(name: &str) -> Result<(), Failure> {
    isolate().map_err(|error| failed("make a network namespace")(error.into()))?;
    let mut out = io::stdout().lock();
    out.write_all(b"ready\n")
        .and_then(|()| out.flush())
        .map_err(failed("speak to the stage"))?;
    io::stdin()
        .lock()
        .read_line(&mut String::new())
        .map_err(failed("listen to the stage"))?;
    let address = |text: &str| text.parse::<Ipv4Addr>().unwrap_or(Ipv4Addr::LOCALHOST);
    match name {
        "left" => daemon(LEFT, &[("uplink", address("192.0.2.1"))]),
        "right" => daemon(
            RIGHT,
            &[("uplink", address("192.0.2.2")), ("lan", address("20.20.20.1"))],
        ),
        _ => host(),
    }
}

/// A network namespace, and a directory of WireGuard sockets that is this machine's alone: that
/// directory is not per network namespace.
fn isolate() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    mount(
        Some("tmpfs"),
        "/run/wireguard",
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=700"),
    )
}

fn daemon(site: Site, links: &[(&str, Ipv4Addr)]) -> Result<(), Failure> {
    configure(async |handle| {
        net::up(handle, "lo", None).await?;
        for (name, address) in links {
            net::up(handle, name, Some((*address, 24))).await?;
        }
        Ok(())
    })?;
    let directory = site.directory();
    let error = Command::new("/proc/self/exe")
        .arg("run")
        .arg("--state-dir")
        .arg(directory.join("state"))
        .arg("--runtime-dir")
        .arg(&directory)
        .exec();
    Err(failed("start the daemon")(error))
}

/// The host behind the far appliance: reads a transfer to its end and answers how much it was.
fn host() -> Result<(), Failure> {
    configure(async |handle| {
        net::up(handle, "lo", None).await?;
        net::up(handle, "lan", Some((Ipv4Addr::new(20, 20, 20, 20), 24))).await?;
        net::default_route(handle, Ipv4Addr::new(20, 20, 20, 1)).await
    })?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, BULK_PORT)).map_err(failed("listen on the host"))?;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let (mut stream, _) = listener.accept().map_err(failed("accept on the host"))?;
        let mut total: u64 = 0;
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            total += read as u64;
        }
        // The near end sees a lost answer as a failed transfer.
        stream.write_all(&total.to_be_bytes()).ok();
    }
}

fn configure(work: impl AsyncFnOnce(&rtnetlink::Handle) -> Result<(), rtnetlink::Error>) -> Result<(), Failure> {
    runtime()?.block_on(async {
        let handle = net::connect().map_err(failed("open netlink"))?;
        work(&handle).await.map_err(|error| {
            Failure::new(
                FailureKind::Internal,
                format!("cannot configure a machine of the demo: {error}"),
            )
        })
    })
}
