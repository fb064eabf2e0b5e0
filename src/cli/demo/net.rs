//! The few links and addresses that the demo's world is made of, before tunneld has anything to do.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection};

type Result<T> = std::result::Result<T, rtnetlink::Error>;

/// A netlink connection in the network namespace of the calling thread.
pub(super) fn connect() -> std::io::Result<Handle> {
    let (connection, handle, _) = new_connection()?;
    tokio::spawn(connection);
    Ok(handle)
}

/// One end of a cable: the process whose namespace it is in, and its name there.
pub(super) type End<'a> = (u32, &'a str);

/// A cable between two namespaces: a pair of veth links.
pub(super) async fn cable(handle: &Handle, (left, left_name): End<'_>, (right, right_name): End<'_>) -> Result<()> {
    // Made in the stage's own namespace, where nobody else is, and renamed on the way.
    let (a, b) = ("demo-a", "demo-b");
    handle.link().add(LinkVeth::new(a, b).build()).execute().await?;
    for (name, pid, new_name) in [(a, left, left_name), (b, right, right_name)] {
        let index = index(handle, name).await?;
        let moved = LinkUnspec::new_with_index(index)
            .name(new_name)
            .setns_by_pid(pid)
            .build();
        handle.link().set(moved).execute().await?;
    }
    Ok(())
}

/// Brings a link up, with an address if one is given.
pub(super) async fn up(handle: &Handle, name: &str, address: Option<(Ipv4Addr, u8)>) -> Result<()> {
    let index = index(handle, name).await?;
    handle
        .link()
        .set(LinkUnspec::new_with_index(index).up().build())
        .execute()
        .await?;
    if let Some((address, length)) = address {
        handle
            .address()
            .add(index, IpAddr::V4(address), length)
            .execute()
            .await?;
    }
    Ok(())
}

/// A default route.
pub(super) async fn default_route(handle: &Handle, gateway: Ipv4Addr) -> Result<()> {
    handle
        .route()
        .add(RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build())
        .execute()
        .await
}

async fn index(handle: &Handle, name: &str) -> Result<u32> {
    let found = handle
        .link()
        .get()
        .match_name(name.to_owned())
        .execute()
        .try_next()
        .await?;
    found
        .map(|link| link.header.index)
        .ok_or(rtnetlink::Error::RequestFailed)
}
