//! Captures: one file for each device, of raw IP packets with nanosecond stamps.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

/// The magic number of nanosecond stamps (draft-ietf-opsawg-pcap, section 4).
const MAGIC: u32 = 0xa1b2_3c4d;
const LINKTYPE_RAW: u32 = 101;
/// The most bytes kept of a packet: a whole one.
const SNAP: u32 = 65_535;

/// The captures of all devices of a lab.
#[derive(Debug)]
pub(crate) struct Captures {
    files: Vec<BufWriter<File>>,
}

impl Captures {
    /// Makes a file in `folder` for each device.
    pub(crate) fn new<'a>(folder: &Path, devices: impl Iterator<Item = &'a str>) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut files = Vec::new();
        for device in devices {
            let path = folder.join(format!("{}.pcap", device.replace('/', "-")));
            let mut file = BufWriter::new(File::create(path)?);
            file.write_all(&MAGIC.to_le_bytes())?;
            file.write_all(&[2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
            file.write_all(&SNAP.to_le_bytes())?;
            file.write_all(&LINKTYPE_RAW.to_le_bytes())?;
            files.push(file);
        }
        Ok(Self { files })
    }

    /// Writes a packet that passes a device now.
    pub(crate) fn write(&mut self, device: usize, packet: &[u8]) -> io::Result<()> {
        let Some(file) = self.files.get_mut(device) else {
            return Ok(());
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let length = u32::try_from(packet.len()).unwrap_or(SNAP).min(SNAP);
        // 32 bits of seconds last until 2106.
        file.write_all(&(now.as_secs() as u32).to_le_bytes())?;
        file.write_all(&now.subsec_nanos().to_le_bytes())?;
        file.write_all(&length.to_le_bytes())?;
        file.write_all(&length.to_le_bytes())?;
        file.write_all(&packet[..length as usize])
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.files.iter_mut().try_for_each(Write::flush)
    }
}

/// Returns source and destination of each IPv4 packet in a capture, in order. It ends at a packet that was not
/// written whole.
pub(crate) fn ends(capture: &[u8]) -> impl Iterator<Item = (IpAddr, IpAddr)> {
    let mut rest = capture.get(24..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length: [u8; 4] = rest.get(8..12)?.try_into().ok()?;
        let length = usize::try_from(u32::from_le_bytes(length)).ok()?;
        let packet = rest.get(16..16 + length)?;
        rest = &rest[16 + length..];
        Some(packet)
    })
    .filter(|packet| packet.len() >= 20 && packet[0] >> 4 == 4)
    .map(|packet| {
        let ip = |at: usize| IpAddr::from([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
        (ip(12), ip(16))
    })
}
