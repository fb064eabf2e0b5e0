//! The little that the port has to do to an engine's link itself, by way of rtnetlink.

use std::{io, time::Duration};

use futures_util::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::{
    Handle, LinkUnspec,
    packet_route::link::{LinkAttribute, LinkMessage},
};
use tokio::time::timeout;

use super::error::EngineError;
use crate::model::types::InterfaceName;

/// How long the kernel may take: only somebody holding its lock makes it take any.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sets the link's MTU.
pub(super) async fn set_mtu(name: &InterfaceName, mtu: u32) -> Result<(), EngineError> {
    let attempt = format!("set the MTU of link {name} to {mtu}");
    with(attempt, async |handle| {
        let (index, has) = find(&handle, name).await?;
        if has == Some(mtu) {
            return Ok(());
        }
        let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
        handle.link().set(message).execute().await
    })
    .await
}

/// Deletes the link; one that is gone already is no error.
pub(super) async fn delete(name: &InterfaceName) -> Result<(), EngineError> {
    let deleted = with(format!("delete link {name}"), async |handle| {
        let (index, _) = find(&handle, name).await?;
        handle.link().del(index).execute().await
    });
    match deleted.await {
        Err(error) if error.source.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(()),
        result => result,
    }
}

async fn find(handle: &Handle, name: &InterfaceName) -> Result<(u32, Option<u32>), rtnetlink::Error> {
    let mut links = handle.link().get().match_name(name.to_string()).execute();
    let link: LinkMessage = links.try_next().await?.unwrap_or_default();
    let mtu = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    Ok((link.header.index, mtu))
}

/// Runs one exchange with rtnetlink on a socket of its own.
async fn with<T>(
    attempt: String,
    exchange: impl AsyncFnOnce(Handle) -> Result<T, rtnetlink::Error>,
) -> Result<T, EngineError> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|error| EngineError::new(attempt.clone(), error))?;
    let exchanged = async {
        tokio::select! {
            result = exchange(handle) => result.map_err(words),
            () = connection => Err(io::Error::other("the kernel closed the connection")),
        }
    };
    let result = timeout(PATIENCE, exchanged).await;
    result
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|error| EngineError::new(attempt, error))
}

fn words(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => io::Error::from_raw_os_error(-message.raw_code()),
        other => io::Error::other(other),
    }
}
