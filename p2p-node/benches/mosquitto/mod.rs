//! A mosquitto of our own on loopback, where it is installed. Several benches share it.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

/// A running mosquitto, which ends when this is dropped.
pub(crate) struct Mosquitto {
    process: Child,
    _config: tempfile::NamedTempFile,
    /// The port on 127.0.0.1 that it listens on. It may need a moment before it does.
    pub(crate) port: u16,
}

impl Mosquitto {
    /// Starts one for anybody, with `TCP_NODELAY` or without; `None` when this machine has none.
    pub(crate) fn start(nodelay: bool) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        let config = tempfile::NamedTempFile::new().ok()?;
        let lines = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\nset_tcp_nodelay {nodelay}\n\
             max_queued_messages 0\n"
        );
        std::fs::write(config.path(), lines).ok()?;
        let start = |program: &str| {
            let mut command = Command::new(program);
            let command = command.arg("-c").arg(config.path());
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
        };
        let process = start("mosquitto").or_else(|| start("/usr/sbin/mosquitto"))?;
        Some(Self { process, _config: config, port })
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
