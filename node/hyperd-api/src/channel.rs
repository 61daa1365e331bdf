//! Kubernetes' WebSocket subprotocols of exec and attach: their names, and the first byte of each message.

pub const V4: &str = "v4.channel.k8s.io";
/// With it a client can close its standard input.
pub const V5: &str = "v5.channel.k8s.io";
pub const STDIN: u8 = 0;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
/// A `Status`, which says how it ended.
pub const ERROR: u8 = 3;
pub const RESIZE: u8 = 4;
pub const CLOSE: u8 = 255;
