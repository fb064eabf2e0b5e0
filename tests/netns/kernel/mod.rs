//! The kernel's port against the real kernel, checked with `ip -j`.

mod fib;
mod link;
mod monitor;
mod route;
mod rule;

use tunneld::{
    kernel::Kernel,
    model::{
        observed::{Observed, Scope},
        ports::{Applied, Operation, Port},
    },
};

use crate::harness::Namespace;

/// A namespace with the links `wg0` and `wg1` (TUN, with our alias, up) and their addresses 10.0.N.1/24 and
/// fd00:N::1/64, made by somebody else.
fn world() -> Namespace {
    let namespace = Namespace::new();
    for number in 0..2 {
        let device = format!("wg{number}");
        namespace.ip(&format!("tuntap add dev {device} mode tun"));
        namespace.ip(&format!("link set {device} alias tunneld up"));
        namespace.ip(&format!("addr add 10.0.{number}.1/24 dev {device}"));
        namespace.ip(&format!("addr add fd00:{number}::1/64 dev {device} nodad"));
    }
    namespace
}

fn apply(namespace: &Namespace, operations: &[Operation]) -> Applied {
    namespace.block_on(|| async { Kernel::connect().unwrap().apply(operations).await })
}

fn apply_all(namespace: &Namespace, operations: &[Operation]) {
    let applied = apply(namespace, operations);
    assert_eq!(applied.failure, None);
    assert_eq!(applied.done, operations.len());
}

fn observe(namespace: &Namespace, scope: &Scope) -> Observed {
    namespace.block_on(|| async {
        let mut observed = Observed::default();
        Kernel::connect().unwrap().observe(scope, &mut observed).await.unwrap();
        observed
    })
}
