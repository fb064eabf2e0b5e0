//! HTTP and JSON on a Unix socket: the server, and the client that the commands use.
