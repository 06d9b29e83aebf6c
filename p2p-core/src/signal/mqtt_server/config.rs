//! What a server may be told.

use std::time::Duration;

use crate::rate::Rate;
use crate::signal::link::Login;

/// What a server may be told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The user name and password every client must give. Default: none is asked for.
    pub login: Option<Login>,
    /// Messages that one client may publish. More are refused with reason 0x97 in MQTT 5, and dropped in 3.1.1, where there
    /// are no words for it. Default: 20 a second, 200 at once; a call takes about five.
    pub publishes: Rate,
    /// Messages that all clients of one source may publish. Default: 100 a second, 1,000 at once.
    pub source_publishes: Rate,
    /// The longest keep-alive, also for clients that name none: who is silent for half as long again is gone. Default:
    /// 2 min.
    pub keep_alive: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            login: None,
            publishes: Rate { per_second: 20, burst: 200 },
            source_publishes: Rate { per_second: 100, burst: 1_000 },
            keep_alive: Duration::from_secs(120),
        }
    }
}
