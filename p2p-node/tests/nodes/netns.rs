//! Networks of a test's own: namespaces on a switch, gone when the test is.
#![allow(dead_code, reason = "not every test does everything")]

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::JoinHandle;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::lab::{binary, skip};

/// A switch in a namespace of its own, called the hub, and machines on it: namespaces whose only interface but
/// loopback is `eth0`.
pub(crate) struct Net {
    /// What its namespaces' names start with.
    name: String,
    machines: Vec<String>,
}

/// Runs a program to its end and tells whether it was happy.
fn is_done(program: &str, line: &str) -> Result<(), String> {
    let done = Command::new(program).args(line.split_whitespace()).output();
    let done = done.map_err(|error| format!("{program}: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    Err(format!("{program} {line}: {}", String::from_utf8_lossy(&done.stderr)))
}

impl Net {
    /// A hub and machines with these names and addresses (none is only link-local IPv6). `None`, and the test is
    /// skipped, where namespaces cannot be made.
    pub(crate) fn new(machines: &[(&str, &[&str])]) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        binary("ip")?;
        binary("nft")?;
        let name = format!("p2p-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let mut net = Self { name, machines: Vec::new() };
        if let Err(why) = is_done("ip", &format!("netns add {}", net.space("hub"))) {
            skip(&format!("network namespaces cannot be made ({})", why.trim()));
            return None;
        }
        net.machines.push("hub".to_owned());
        // Without a filter the bridge is ready at once; without duplicate detection so are IPv6 addresses.
        net.inside("hub", "ip link add switch type bridge stp_state 0 forward_delay 0");
        net.inside("hub", "ip link set switch up");
        net.inside("hub", "ip addr add 10.77.0.254/24 dev switch");
        for (number, (machine, addresses)) in machines.iter().enumerate() {
            net.plug_in(machine, number, addresses);
        }
        Some(net)
    }

    fn plug_in(&mut self, machine: &str, number: usize, addresses: &[&str]) {
        let space = self.space(machine);
        is_done("ip", &format!("netns add {space}")).unwrap();
        self.machines.push(machine.to_owned());
        self.inside(machine, "sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0");
        self.inside("hub", &format!("ip link add port{number} type veth peer name eth0 netns {space}"));
        self.inside("hub", &format!("ip link set port{number} master switch up"));
        self.inside(machine, "ip link set lo up");
        self.inside(machine, "ip link set eth0 up");
        for address in addresses {
            let flags = if address.contains(':') { "nodad" } else { "" };
            self.inside(machine, &format!("ip addr add {address} dev eth0 {flags}"));
        }
    }

    /// What the system calls the namespace of a machine.
    pub(crate) fn space(&self, machine: &str) -> String {
        format!("{}-{machine}", self.name)
    }

    /// Runs a command on a machine.
    pub(crate) fn inside(&self, machine: &str, line: &str) {
        is_done("ip", &format!("netns exec {} {line}", self.space(machine))).unwrap();
    }

    /// Lets nothing in on a machine that nobody there asked for, and says nothing about it.
    pub(crate) fn fire_wall(&self, machine: &str) {
        self.inside(machine, "nft add table inet wall");
        self.inside(
            machine,
            "nft add chain inet wall in { type filter hook input priority 0 ; policy drop ; }",
        );
        for rule in ["iif lo accept", "ct state established,related accept", "meta l4proto ipv6-icmp accept"]
        {
            self.inside(machine, &format!("nft add rule inet wall in {rule}"));
        }
    }

    /// Runs a story on a machine: on a thread that has moved there, with a runtime made there. Threads it starts
    /// are there too.
    pub(crate) fn on<T: Send + 'static, F: Future<Output = T>>(
        &self,
        machine: &str,
        story: impl FnOnce() -> F + Send + 'static,
    ) -> JoinHandle<T> {
        let space = File::open(Path::new("/run/netns").join(self.space(machine))).unwrap();
        std::thread::spawn(move || {
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(story())
        })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for machine in &self.machines {
            // Interfaces and rules go with their namespace; what cannot be removed now is told.
            if let Err(why) = is_done("ip", &format!("netns del {}", self.space(machine))) {
                eprintln!("{why}");
            }
        }
    }
}
