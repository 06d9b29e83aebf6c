//! One-line forms of the usual scenarios. Each stands for a file, which `natlab show` prints.

use std::fmt::Write;
use std::time::Duration;

use p2p_core::sim::span;

use super::file::unknown_word;

/// The forms, each with its meaning.
pub const FORMS: [(&str, &str); 6] = [
    ("homes:X+Y", "hosts a and b, each in a home behind a NAT, and a public server s with two addresses"),
    ("lan:X", "hosts a and b in one home behind one NAT, and the server s"),
    ("cgn:X+Z+Y", "host a behind a home NAT X behind a carrier NAT Z, host b behind Y, and s"),
    ("two-uplinks:X+Z+Y", "host a with one interface behind X and one behind Z, host b behind Y, and s"),
    ("v6-firewall", "hosts a and b with IPv6 only, each behind a stateful firewall, and s"),
    ("upnp:Y", "host a behind Linux with a real miniupnpd, host b behind Y, and s"),
];

const KEYS: [&str; 9] = ["rtt", "jitter", "loss", "rate", "syn", "hairpin", "range", "v6", "seed"];
/// The preset of a NAT that a form leaves out.
const USUAL: &str = "port-restricted/equal";

/// Returns the scenario file that a form stands for.
pub(super) fn expand(form: &str) -> Result<String, String> {
    let (head, query) = form.split_once('?').unwrap_or((form, ""));
    let (kind, nats) = head.split_once(':').unwrap_or((head, ""));
    let nats: Vec<&str> = nats.split('+').map(str::trim).filter(|nat| !nat.is_empty()).collect();
    let mut options = Options::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("`{pair}` is no key=value"))?;
        options.set(key.trim(), value.trim())?;
    }
    let takes = |most: usize| {
        if nats.len() > most {
            Err(format!("`{kind}` takes at most {most} NATs, here are {}", nats.len()))
        } else {
            Ok(())
        }
    };
    // Only a host in a home of its own can be without a NAT.
    let shared = match kind {
        "lan" => 1,
        "cgn" | "two-uplinks" => 2,
        _ => 0,
    };
    if let Some(nat) = nats.iter().take(shared).find(|nat| matches!(**nat, "open" | "symmetric-firewall")) {
        return Err(format!("`{nat}` does not translate: a router is needed here that does"));
    }
    let nat = |index: usize| nats.get(index).copied().unwrap_or(USUAL);
    let mut file = Writer::new(&options);
    match kind {
        "homes" => {
            takes(2)?;
            file.home("a", nat(0), 0);
            file.home("b", nat(1), 1);
        }
        "lan" => {
            takes(1)?;
            file.home("a", nat(0), 0);
            file.line("[host.b]\nnet = \"home-a\"\n");
        }
        "cgn" => {
            takes(3)?;
            file.line("[net.carrier]\nv4 = \"100.64.0.0/10\"\n");
            file.router("carrier", "carrier", None, nats.get(1).copied().unwrap_or("symmetric/random"), 0);
            file.line("[net.home-a]\nv4 = \"192.168.1.0/24\"\n");
            file.router("nat-a", "home-a", Some("carrier"), nat(0), 0);
            file.line("[host.a]\nnet = \"home-a\"\n");
            file.home("b", nat(2), 1);
        }
        "two-uplinks" => {
            takes(3)?;
            for (name, index) in [("a1", 0), ("a2", 1)] {
                file.network(name, index);
                file.router(&format!("nat-{name}"), &format!("home-{name}"), None, nat(index), index);
            }
            file.line("[host.a]\ninterface = [{ net = \"home-a1\" }, { net = \"home-a2\" }]\n");
            file.home("b", nat(2), 2);
        }
        "v6-firewall" => {
            takes(0)?;
            for (name, index) in [("a", 0), ("b", 1)] {
                file.line(&format!("[net.home-{name}]\nv6 = \"2a0f:{}::/64\"\n", index + 1));
                file.router(&format!("firewall-{name}"), &format!("home-{name}"), None, "", index);
                file.line(&format!("[host.{name}]\nnet = \"home-{name}\"\n"));
            }
        }
        "upnp" => {
            takes(1)?;
            file.line("[net.home-a]\nv4 = \"192.168.1.0/24\"\n");
            let link = options.link();
            file.line(&format!(
                "[router.nat-a]\ninside = \"home-a\"\nkernel = \"masquerade\"\nupnp = true\nlink = {link}\n"
            ));
            file.line("[host.a]\nnet = \"home-a\"\n");
            file.home("b", nat(0), 1);
        }
        other => {
            let names = FORMS.iter().map(|(form, _)| form.split(':').next().unwrap_or(form));
            return Err(unknown_word("scenario", other, names));
        }
    }
    file.server();
    Ok(file.text)
}

/// The options after the question mark.
struct Options {
    rtt: Duration,
    jitter: Duration,
    loss: f64,
    rate: Option<u64>,
    /// One answer for all routers, or one for each.
    syn: Vec<String>,
    hairpin: Option<String>,
    range: Option<String>,
    v6: Option<String>,
    seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rtt: Duration::from_millis(40),
            jitter: Duration::ZERO,
            loss: 0.0,
            rate: None,
            syn: Vec::new(),
            hairpin: None,
            range: None,
            v6: None,
            seed: 0,
        }
    }
}

impl Options {
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let wrong = |what: &str| format!("{key}={value}: {what}");
        // These go into a quoted string of the file.
        if value.contains(['"', '\\', '\n']) {
            return Err(wrong("no quotes, please"));
        }
        match key {
            "rtt" => self.rtt = span::parse(value)?,
            "jitter" => self.jitter = span::parse(value)?,
            "loss" => {
                let loss = value.parse().ok().filter(|loss| (0.0..=1.0).contains(loss));
                self.loss = loss.ok_or_else(|| wrong("loss is a probability, such as 0.01"))?;
            }
            "rate" => self.rate = Some(rate(value).ok_or_else(|| wrong("bits a second, such as 100M"))?),
            "syn" => self.syn = value.split(',').map(str::to_owned).collect(),
            "hairpin" => self.hairpin = Some(value.to_owned()),
            "range" => self.range = Some(value.to_owned()),
            "v6" => self.v6 = Some(value.to_owned()),
            "seed" => self.seed = value.parse().map_err(|_| wrong("a number"))?,
            other => return Err(unknown_word("key", other, KEYS.into_iter())),
        }
        Ok(())
    }

    /// Returns the link of one cable, with a quarter of the round trip, which crosses two cables each way. Loss and
    /// jitter are shared out likewise.
    fn link(&self) -> String {
        let mut link = format!("{{ latency = \"{}\"", span::write(self.rtt / 4));
        if !self.jitter.is_zero() {
            let _ = write!(link, ", jitter = \"{}\"", span::write(self.jitter / 4));
        }
        if self.loss != 0.0 {
            // `loss` is that of a whole one-way path.
            let _ = write!(link, ", loss = {:?}", 1.0 - (1.0 - self.loss).sqrt());
        }
        if let Some(rate) = self.rate {
            let _ = write!(link, ", rate = {rate}");
        }
        link + " }"
    }
}

/// Reads a rate in bits a second: `100M`, `1.5G`, `64k` or a plain number.
fn rate(text: &str) -> Option<u64> {
    let (number, unit) = match text.chars().last()? {
        'k' => (&text[..text.len() - 1], 1e3),
        'M' => (&text[..text.len() - 1], 1e6),
        'G' => (&text[..text.len() - 1], 1e9),
        _ => (text, 1.0),
    };
    let rate = number.parse::<f64>().ok()? * unit;
    (1.0..1e15).contains(&rate).then_some(rate as u64)
}

struct Writer<'a> {
    options: &'a Options,
    text: String,
}

impl<'a> Writer<'a> {
    fn new(options: &'a Options) -> Self {
        Self { options, text: format!("seed = {}\n", options.seed) }
    }

    fn line(&mut self, text: &str) {
        self.text.push('\n');
        self.text.push_str(text);
    }

    /// Writes the network of a home, whose prefixes differ by `number`.
    fn network(&mut self, name: &str, number: usize) {
        self.line(&format!("[net.home-{name}]\nv4 = \"192.168.{}.0/24\"\n", number + 1));
        if self.options.v6.is_some() {
            let _ = writeln!(self.text, "v6 = \"2a0f:{}::/64\"", number + 1);
        }
    }

    /// Writes a host in a home of its own, behind the NAT that `nat` names.
    fn home(&mut self, name: &str, nat: &str, number: usize) {
        if nat == "open" {
            let link = self.options.link();
            return self.line(&format!("[host.{name}]\nnet = \"internet\"\nlink = {link}\n"));
        }
        if nat == "symmetric-firewall" {
            self.line(&format!("[net.home-{name}]\nv4 = \"46.0.{}.0/24\"\n", number + 1));
        } else {
            self.network(name, number);
        }
        self.router(&format!("nat-{name}"), &format!("home-{name}"), None, nat, number);
        self.line(&format!("[host.{name}]\nnet = \"home-{name}\"\n"));
    }

    fn router(&mut self, name: &str, inside: &str, outside: Option<&str>, nat: &str, number: usize) {
        self.line(&format!("[router.{name}]\ninside = \"{inside}\"\n"));
        if let Some(outside) = outside {
            let _ = writeln!(self.text, "outside = \"{outside}\"");
        } else {
            // Behind another router only the link to that one counts.
            let _ = writeln!(self.text, "link = {}", self.options.link());
        }
        let real = match nat {
            "kernel-masquerade" => Some("masquerade"),
            "kernel-fully-random" => Some("fully-random"),
            _ => None,
        };
        if let Some(real) = real {
            let _ = writeln!(self.text, "kernel = \"{real}\"");
        } else if !nat.is_empty() {
            let _ = writeln!(self.text, "preset = \"{nat}\"");
            for (key, value) in [("hairpin", &self.options.hairpin), ("range", &self.options.range)] {
                if let Some(value) = value {
                    let _ = writeln!(self.text, "{key} = \"{value}\"");
                }
            }
            if let Some(v6) = &self.options.v6 {
                let _ = writeln!(self.text, "v6 = \"{v6}\"");
            }
        }
        let syn = &self.options.syn;
        if let Some(syn) = syn.get(number).or(syn.first()) {
            let _ = writeln!(self.text, "syn = \"{syn}\"");
        }
    }

    /// Writes the public server. It has two addresses, which is one more than most have, so it can tell how a NAT
    /// maps.
    fn server(&mut self) {
        let link = self.options.link();
        self.line(&format!(
            "[host.s]\nnet = \"internet\"\naddress = [\"45.1.1.1\", \"45.1.1.2\", \"2a0f::1:1\", \"2a0f::1:2\"]\n\
             link = {link}\n"
        ));
    }
}
