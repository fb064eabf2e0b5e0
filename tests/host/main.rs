//! Tests that need no namespace: the store and the control socket.

mod control;
