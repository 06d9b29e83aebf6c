//! The answer of a router to unsolicited packets, in one word.

use std::time::Duration;

use p2p_core::sim::nat::{NatConfig, Unsolicited};
use p2p_core::sim::packet::IcmpKind;

use super::Refusal;
use super::file::unknown_word;

const WORDS: [&str; 6] = ["silence", "rst", "icmp", "own-rst", "rst-after-6s", "icmp-after-6s"];
/// The least time before a SYN is answered, so that the one from inside can still come (RFC 5382, REQ-4).
const AFTER: Duration = Duration::from_secs(6);

/// The answer to an unsolicited SYN.
#[derive(Clone, Copy, Debug)]
pub(super) struct Syn {
    unsolicited: Unsolicited,
    /// True when no firewall stands in the way, so that the router itself answers, as any host does.
    is_own: bool,
}

impl Syn {
    pub(super) fn parse(word: &str) -> Result<Self, String> {
        let unsolicited = match word {
            "silence" => Unsolicited::Silence,
            "rst" | "own-rst" => Unsolicited::Reset,
            "icmp" => Unsolicited::Icmp(IcmpKind::Prohibited),
            "rst-after-6s" => Unsolicited::ResetAfter { after: AFTER },
            "icmp-after-6s" => Unsolicited::IcmpAfter { kind: IcmpKind::PortUnreachable, after: AFTER },
            other => return Err(unknown_word("answer to a SYN", other, WORDS.into_iter())),
        };
        Ok(Self { unsolicited, is_own: word == "own-rst" })
    }

    pub(super) fn apply(self, config: NatConfig) -> NatConfig {
        let mut config = config.with_unsolicited(self.unsolicited);
        if self.is_own {
            config.udp.unsolicited = Some(IcmpKind::PortUnreachable);
        }
        config
    }

    /// Returns the same answer for a real Linux, which answers at once or never.
    pub(super) fn refusal(self) -> Option<Refusal> {
        match self.unsolicited {
            Unsolicited::Silence => Some(Refusal::Silence),
            Unsolicited::Reset if self.is_own => Some(Refusal::Own),
            Unsolicited::Reset => Some(Refusal::Reset),
            Unsolicited::Icmp(_) => Some(Refusal::Icmp),
            Unsolicited::ResetAfter { .. } | Unsolicited::IcmpAfter { .. } => None,
        }
    }
}
