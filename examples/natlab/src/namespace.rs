//! Network namespaces, which are made, entered, named and removed.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The folder in which `ip netns` looks for namespaces.
pub(crate) const NAMES: &str = "/run/netns";

/// A network namespace. Without a name it ends with the last process in it.
#[derive(Debug)]
pub(crate) struct Namespace {
    handle: File,
    name: Option<PathBuf>,
}

impl Namespace {
    /// Makes a new, empty namespace, under `/run/netns` when it has a name.
    pub(crate) fn new(name: Option<&str>) -> io::Result<Self> {
        let handle = apart(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        })??;
        let mut namespace = Self { handle, name: None };
        if let Some(name) = name {
            namespace.bind(name)?;
        }
        Ok(namespace)
    }

    /// Mounts the namespace on a file of that name, as `ip netns add` does.
    fn bind(&mut self, name: &str) -> io::Result<()> {
        share_names()?;
        let path = Path::new(NAMES).join(name);
        OpenOptions::new().write(true).create_new(true).open(&path)?;
        // From here on, dropping removes it.
        self.name = Some(path.clone());
        let source = format!("/proc/self/fd/{}", self.handle.as_raw_fd());
        mount(Some(source.as_str()), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    }

    /// Runs `job` on a thread of its own inside the namespace. Threads and processes that it starts are inside too.
    ///
    /// # Errors
    /// [`io::Error`] when the namespace may not be entered. A panic of `job` is passed on.
    pub(crate) fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> io::Result<T> {
        apart(|| {
            enter(&self.handle)?;
            Ok(job())
        })?
    }

    /// Returns a command that enters the namespace before it becomes `program`.
    pub(crate) fn command(&self, program: &OsStr) -> io::Result<Command> {
        let handle = self.handle()?;
        let mut command = Command::new(program);
        #[expect(unsafe_code, reason = "a child can only enter a namespace between fork and exec")]
        // SAFETY: between fork and exec only async-signal-safe calls are allowed. `setns` is a bare system call, and
        // the closure neither allocates nor locks.
        unsafe {
            command.pre_exec(move || enter(&handle));
        }
        Ok(command)
    }

    /// Returns another handle to the same namespace.
    pub(crate) fn handle(&self) -> io::Result<File> {
        self.handle.try_clone()
    }

    /// Returns a file by which other processes may enter the namespace, as long as this process lives.
    pub(crate) fn path(&self) -> PathBuf {
        let unnamed = || format!("/proc/{}/fd/{}", std::process::id(), self.handle.as_raw_fd()).into();
        self.name.clone().unwrap_or_else(unnamed)
    }

    /// Returns the number that stands for this namespace in `/proc/*/ns/net`.
    pub(crate) fn inode(&self) -> io::Result<u64> {
        Ok(self.handle.metadata()?.ino())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(name) = &self.name
            && let Err(error) = forget(name)
        {
            eprintln!("natlab: cannot remove {}: {error}", name.display());
        }
    }
}

/// Moves the calling thread into a network namespace.
pub(crate) fn enter(namespace: &File) -> io::Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}

/// Runs `job` on a thread of its own, so that a namespace it unshares or enters ends with it.
fn apart<T: Send>(job: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, job)?;
        match thread.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Removes a name made by [`Namespace::bind`]. A name that is gone already is no error.
pub(crate) fn forget(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        // It is not mounted, or not there, so only the file is left.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => (),
        Err(error) => return Err(error.into()),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes `/run/netns` what `ip netns` expects: a mount point whose mounts are seen by other mount namespaces.
fn share_names() -> io::Result<()> {
    fs::create_dir_all(NAMES)?;
    let share = || {
        let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
        mount(None::<&str>, NAMES, None::<&str>, flags, None::<&str>)
    };
    match share() {
        Err(Errno::EINVAL) => {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(NAMES), NAMES, None::<&str>, flags, None::<&str>)?;
            share()?;
        }
        other => other?,
    }
    Ok(())
}

/// Kills every process whose network namespace is one of `inodes`, except this one, and returns their number.
///
/// The caller owns these namespaces, so everything that runs in them was started there on purpose.
pub(crate) fn kill_inside(inodes: &[u64]) -> io::Result<usize> {
    let mut killed = 0;
    // A process may fork meanwhile. So the search is repeated until none is left, within reason.
    for _ in 0..10 {
        let inside = processes_inside(inodes)?;
        if inside.is_empty() {
            break;
        }
        for pid in &inside {
            match kill(*pid, Signal::SIGKILL) {
                Ok(()) => killed += 1,
                Err(Errno::ESRCH) => (),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(killed)
}

fn processes_inside(inodes: &[u64]) -> io::Result<Vec<Pid>> {
    let own = Pid::this();
    let mut inside = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let pid = Pid::from_raw(pid);
        let Ok(namespace) = fs::metadata(entry.path().join("ns/net")) else {
            continue;
        };
        if pid != own && inodes.contains(&namespace.ino()) && !is_zombie(pid) {
            inside.push(pid);
        }
    }
    Ok(inside)
}

/// Kills processes in a namespace without a name, and returns their number. Its number may stand for another
/// namespace by now. So only processes that we may touch, in a user namespace that is not ours, are taken for a
/// lab's.
pub(crate) fn kill_unprivileged_inside(inode: u64) -> io::Result<usize> {
    let ours = fs::metadata("/proc/self/ns/user")?.ino();
    let mut killed = 0;
    for pid in processes_inside(&[inode])? {
        let theirs = fs::metadata(format!("/proc/{pid}/ns/user")).map(|user| user.ino());
        if theirs.is_ok_and(|theirs| theirs != ours) && kill(pid, Signal::SIGKILL).is_ok() {
            killed += 1;
        }
    }
    Ok(killed)
}

/// Tells whether a process is dead but not yet waited for, as it cannot be killed again.
fn is_zombie(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| Some(stat.rsplit_once(')')?.1.trim_start().starts_with(['Z', 'X'])))
        .unwrap_or(true)
}
