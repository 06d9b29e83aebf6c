//! Linux itself as a router: nftables in a namespace, with a real miniupnpd where the scenario wants one.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::LabError;
use crate::interface::set;
use crate::namespace::Namespace;
use crate::scenario::Refusal;

/// The interface towards the inside, and the one towards the outside.
pub(crate) const INNER: &str = "lan0";
pub(crate) const OUTER: &str = "wan0";

/// The most time until miniupnpd answers.
const UPNP_START: Duration = Duration::from_secs(5);

/// A running router.
#[derive(Debug)]
pub(crate) struct KernelRouter {
    /// The namespace, kept so that the router lives as long as the lab.
    pub(crate) namespace: Namespace,
    upnp: Option<Child>,
}

impl KernelRouter {
    /// Turns a namespace whose two interfaces are up into a router.
    pub(crate) fn start(
        namespace: Namespace,
        is_fully_random: bool,
        refusal: Refusal,
        upnp: Option<&Path>,
    ) -> Result<Self, LabError> {
        let forwards = namespace.run(|| set("ipv4/ip_forward", "1")).and_then(|outcome| outcome);
        forwards.map_err(LabError::system("turning on forwarding in a router"))?;
        load_rules(&namespace, &rules(is_fully_random, refusal))?;
        let mut router = Self { namespace, upnp: None };
        if let Some(folder) = upnp {
            router.start_upnp(folder)?;
        }
        Ok(router)
    }

    fn start_upnp(&mut self, folder: &Path) -> Result<(), LabError> {
        let broken = |problem: String| LabError::Tool { program: "miniupnpd", problem };
        let step = || LabError::system(format!("writing miniupnpd's files to {}", folder.display()));
        fs::create_dir_all(folder).map_err(step())?;
        let (config, log, pid) =
            (folder.join("miniupnpd.conf"), folder.join("miniupnpd.log"), folder.join("pid"));
        fs::write(&config, upnp_config(&folder.join("leases"))).map_err(step())?;
        let output = fs::File::create(&log).map_err(step())?;
        let errors = output.try_clone().map_err(step())?;
        let mut command = self.namespace.command("miniupnpd".as_ref()).map_err(step())?;
        command.arg("-d").arg("-f").arg(&config).arg("-P").arg(&pid);
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn().map_err(|error| {
            broken(format!("cannot be started: {error}; on Debian it is in the package miniupnpd"))
        })?;
        let child = self.upnp.insert(child);
        let told = || fs::read_to_string(&log).unwrap_or_default();
        let until = Instant::now() + UPNP_START;
        // Its log says so when its sockets are open.
        while !told().contains("listening on") {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(broken(format!("ended at once ({status}): {}", told())));
            }
            if Instant::now() > until {
                return Err(broken(format!("does not listen after {UPNP_START:?}: {}", told())));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for KernelRouter {
    fn drop(&mut self) {
        if let Some(mut child) = self.upnp.take() {
            // The process may have ended on its own.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn load_rules(namespace: &Namespace, rules: &str) -> Result<(), LabError> {
    let broken = |problem: String| LabError::Tool { program: "nft", problem };
    let run = |mut command: Command| -> io::Result<std::process::Output> {
        let mut child = command
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(rules.as_bytes())?;
        }
        child.wait_with_output()
    };
    let output = namespace.command("nft".as_ref()).and_then(run).map_err(|error| {
        broken(format!("cannot be run: {error}; on Debian it is in the package nftables"))
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(broken(String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn rules(is_fully_random: bool, refusal: Refusal) -> String {
    let random = if is_fully_random { " fully-random" } else { "" };
    let refuse = match refusal {
        Refusal::Silence => "drop",
        Refusal::Reset => "meta l4proto tcp reject with tcp reset",
        Refusal::Icmp => "reject with icmp type admin-prohibited",
        Refusal::Own => "accept",
    };
    format!(
        "table inet natlab {{
            chain input {{
                type filter hook input priority 0; policy drop;
                iifname {{ \"lo\", \"{INNER}\" }} accept
                ct state established,related accept
                {refuse}
            }}
            chain forward {{
                type filter hook forward priority 0; policy drop;
                ct state established,related accept
                iifname \"{INNER}\" accept
                ct status dnat accept
                jump upnp_forward
            }}
            chain prerouting {{
                type nat hook prerouting priority -100; policy accept;
                jump upnp_prerouting
            }}
            chain postrouting {{
                type nat hook postrouting priority 100; policy accept;
                jump upnp_postrouting
                meta nfproto ipv4 oifname \"{OUTER}\" masquerade{random}
            }}
            chain upnp_forward {{ }}
            chain upnp_prerouting {{ }}
            chain upnp_postrouting {{ }}
        }}\n"
    )
}

/// Returns the configuration of miniupnpd. The addresses of the lab look public, because it insists on that.
fn upnp_config(leases: &Path) -> String {
    format!(
        "ext_ifname={OUTER}\n\
         listening_ip={INNER}\n\
         enable_upnp=yes\n\
         enable_natpmp=yes\n\
         secure_mode=yes\n\
         system_uptime=yes\n\
         notify_interval=60\n\
         uuid=b3c1e7a2-6d0f-4f58-9a51-2f2f0c1d7e01\n\
         lease_file={}\n\
         upnp_table_name=natlab\n\
         upnp_nat_table_name=natlab\n\
         upnp_forward_chain=upnp_forward\n\
         upnp_nat_chain=upnp_prerouting\n\
         upnp_nat_postrouting_chain=upnp_postrouting\n\
         allow 1024-65535 0.0.0.0/0 1024-65535\n\
         deny 0-65535 0.0.0.0/0 0-65535\n",
        leases.display()
    )
}
