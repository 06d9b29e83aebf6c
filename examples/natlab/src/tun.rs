//! TUN devices: interfaces inside a namespace whose packets this process holds.
//!
//! The only unsafe code here is two `ioctl`s. A crate that wraps them would bring a hundred others along.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

/// The length of the `virtio_net_hdr` in front of every packet.
pub(crate) const HEADER: usize = 10;
/// The flag of a checksum field that holds only the sum of the pseudo-header (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
pub(crate) const NEEDS_CSUM: u8 = 1;

const TUN_F_CSUM: u64 = 0x01;
const TUN_F_TSO4: u64 = 0x02;
const TUN_F_TSO6: u64 = 0x04;

/// Our end of a device. Closing it removes the interface.
pub(crate) struct Tun {
    file: File,
}

#[expect(unsafe_code, reason = "an ioctl has no safe form; each call is argued for where it is made")]
mod ioctl {
    nix::ioctl_write_ptr_bad!(tun_set_iff, libc::TUNSETIFF, libc::ifreq);
    nix::ioctl_write_int_bad!(tun_set_offload, libc::TUNSETOFFLOAD);

    /// Attaches `file`, an open `/dev/net/tun`, to a new interface.
    pub(super) fn attach(file: &std::fs::File, name: &str, flags: libc::c_int) -> std::io::Result<()> {
        use std::os::fd::AsRawFd;
        // SAFETY: `ifreq` is plain data of which all-zero bytes are a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if name.len() >= request.ifr_name.len() {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: the descriptor is open, and TUNSETIFF reads one `ifreq` with a terminated name.
        unsafe { tun_set_iff(file.as_raw_fd(), &request) }?;
        Ok(())
    }

    /// Tells the kernel the offloads that the holder of `file` understands.
    pub(super) fn offload(file: &std::fs::File, flags: u64) -> std::io::Result<()> {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is an attached TUN, and the argument is a number, not a pointer.
        unsafe { tun_set_offload(file.as_raw_fd(), flags as libc::c_int) }?;
        Ok(())
    }
}

impl Tun {
    /// Makes the interface `name` in the calling thread's network namespace.
    ///
    /// With `offload`, the kernel hands over TCP segments of up to 64 kB with unfinished checksums.
    pub(crate) fn new(name: &str, offload: bool) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")?;
        ioctl::attach(&file, name, libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR)?;
        if offload {
            ioctl::offload(&file, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)?;
        }
        Ok(Self { file })
    }

    /// Reads the next packet, behind its header; `WouldBlock` when there is none.
    pub(crate) fn recv(&self, into: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(into)
    }

    /// Hands one packet with its header to the kernel.
    pub(crate) fn send(&self, packet: &[u8]) -> io::Result<()> {
        (&self.file).write(packet).map(|_| ())
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl std::fmt::Debug for Tun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tun({})", self.file.as_raw_fd())
    }
}
