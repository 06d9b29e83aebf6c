//! The register of labs that run on this machine, and the removal of what dead labs left behind.
//!
//! Every lab keeps one small file, locked for as long as its process lives. The kernel drops the lock in whatever way
//! the process ends. So a file that can be locked belongs to a lab that is gone.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, setns};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use crate::error::LabError;
use crate::namespace::{NAMES, forget, kill_inside, kill_unprivileged_inside};

/// The prefix of all names of namespaces.
const PREFIX: &str = "p2plab-";

/// The record of a running lab that other processes may read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabRecord {
    /// The id of the lab.
    pub id: String,
    /// The process that carries its packets.
    pub pid: u32,
    /// The namespaces of its hosts, by which they can be entered.
    pub hosts: BTreeMap<String, HostRecord>,
    /// True when the namespaces belong to a user namespace, which has to be entered first.
    pub is_unprivileged: bool,
}

impl LabRecord {
    /// Moves the calling thread into a host of the lab. It must be the only thread of the process when the lab
    /// belongs to a user namespace.
    ///
    /// # Errors
    /// [`LabError`] when there is no such host, the lab has ended, or the kernel refuses.
    pub fn enter(&self, host: &str) -> Result<(), LabError> {
        let record = self.hosts.get(host).ok_or_else(|| LabError::Unknown(format!("host `{host}`")))?;
        let steps = || -> io::Result<()> {
            if self.is_unprivileged && !is_ours(self.pid)? {
                let user = File::open(format!("/proc/{}/ns/user", self.pid))?;
                setns(user, CloneFlags::CLONE_NEWUSER)?;
            }
            crate::namespace::enter(&File::open(&record.namespace)?)
        };
        steps().map_err(LabError::system(format!("entering the host `{host}` of the lab {}", self.id)))
    }
}

/// Tells whether a process is in our user namespace.
fn is_ours(pid: u32) -> io::Result<bool> {
    let theirs = fs::metadata(format!("/proc/{pid}/ns/user"))?.ino();
    Ok(fs::metadata("/proc/self/ns/user")?.ino() == theirs)
}

/// The record of a host that other processes may read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// The file that stands for its network namespace.
    pub namespace: PathBuf,
    /// The number of that namespace.
    pub inode: u64,
}

/// The numbers of things that [`clean`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cleaned {
    /// The records of labs whose process is gone.
    pub labs: usize,
    /// The names of namespaces.
    pub namespaces: usize,
    /// The processes that still ran in them.
    pub processes: usize,
}

/// The record of a lab of this process, which is removed when dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    id: String,
    path: PathBuf,
    file: Flock<File>,
}

impl Claim {
    /// Claims an id that no other lab has.
    pub(crate) fn new() -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let folder = folder();
        fs::create_dir_all(&folder)?;
        loop {
            let id = format!("{}x{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let path = folder.join(format!("{id}.json"));
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            match file {
                // The file belongs to a lab of an earlier process with our number, and waits for `clean`.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (),
                Err(error) => return Err(error),
                // Between the steps a `clean` may take the file for a dead lab's. Then it is gone or locked.
                Ok(file) => match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                    Ok(file) if is_same(&file, &path) => return Ok(Self { id, path, file }),
                    Ok(_) | Err((_, Errno::EWOULDBLOCK)) => (),
                    Err((_, error)) => return Err(error.into()),
                },
            }
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Returns the folder for files of this lab, which its user has to make.
    pub(crate) fn folder(&self) -> PathBuf {
        self.path.with_extension("d")
    }

    /// Returns the name of the namespace of `host`.
    pub(crate) fn name(&self, host: &str) -> String {
        format!("{PREFIX}{}-{host}", self.id)
    }

    /// Publishes the namespaces of the hosts, by which others can enter.
    pub(crate) fn publish(&mut self, hosts: BTreeMap<String, HostRecord>) -> io::Result<()> {
        let record =
            LabRecord { id: self.id.clone(), pid: process::id(), hosts, is_unprivileged: !is_privileged() };
        let text = serde_json::to_vec_pretty(&record)?;
        self.file.write_all(&text)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("natlab: cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Tells whether an open file is still the one at `path`.
fn is_same(file: &File, path: &Path) -> bool {
    let now = fs::metadata(path).map(|now| now.ino());
    file.metadata().is_ok_and(|ours| now.is_ok_and(|now| now == ours.ino()))
}

/// Removes a record and the folder of its lab. A file that another process removed first is no error.
fn remove(record: &Path) -> io::Result<()> {
    let outcomes = [fs::remove_dir_all(record.with_extension("d")), fs::remove_file(record)];
    let fault =
        |outcome: &io::Result<()>| !matches!(outcome, Err(error) if error.kind() == io::ErrorKind::NotFound);
    outcomes.into_iter().filter(fault).collect()
}

/// Tells whether namespaces can have names here, which takes root outside a user namespace of our own.
pub(crate) fn is_privileged() -> bool {
    geteuid().is_root() && outer_user().is_none()
}

/// Returns the outside user of a user namespace with a single user.
fn outer_user() -> Option<u32> {
    let map = fs::read_to_string("/proc/self/uid_map").ok()?;
    let words: Vec<u32> = map.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match words.as_slice() {
        [0, outer, 1] => Some(*outer),
        _ => None,
    }
}

/// Returns the folder of the records: `/run/natlab` for root, and a folder of the user's own for others.
fn folder() -> PathBuf {
    if is_privileged() {
        return PathBuf::from("/run/natlab");
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) => Path::new(&folder).join("natlab"),
        None => {
            let owner = outer_user().unwrap_or_else(|| geteuid().as_raw());
            std::env::temp_dir().join(format!("natlab-{owner}"))
        }
    }
}

/// Returns the labs that run now, oldest process first.
///
/// # Errors
/// [`io::Error`] when the folder of records cannot be read.
pub fn running() -> io::Result<Vec<LabRecord>> {
    let mut labs = Vec::new();
    for (path, mut file) in records()? {
        match Flock::lock(file.try_clone()?, FlockArg::LockSharedNonblock) {
            Ok(_) => (),
            Err((_, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                file.read_to_string(&mut text)?;
                // A lab that is just starting has not published its record yet.
                if let Ok(record) = serde_json::from_str(&text) {
                    labs.push(record);
                }
            }
            Err((_, error)) => {
                return Err(io::Error::other(format!("{}: {error}", path.display())));
            }
        }
    }
    labs.sort_by_key(|lab: &LabRecord| lab.pid);
    Ok(labs)
}

/// Removes the processes, namespaces and records of labs whose process is gone.
///
/// # Errors
/// [`io::Error`] when one of them cannot be removed.
pub fn clean() -> io::Result<Cleaned> {
    let mut cleaned = Cleaned::default();
    let mut alive = Vec::new();
    for (path, mut file) in records()? {
        match Flock::lock(file.try_clone()?, FlockArg::LockExclusiveNonblock) {
            Err((_, Errno::EWOULDBLOCK)) => {
                alive.extend(path.file_stem().map(|id| id.to_string_lossy().into_owned()));
            }
            Err((_, error)) => return Err(error.into()),
            Ok(_lock) => {
                let mut text = String::new();
                file.read_to_string(&mut text)?;
                let record: LabRecord = serde_json::from_str(&text).unwrap_or_default();
                // A namespace without a name may be gone, and its number may be another's, so care is needed.
                for host in record.hosts.values().filter(|_| record.is_unprivileged) {
                    cleaned.processes += kill_unprivileged_inside(host.inode)?;
                }
                remove(&path)?;
                cleaned.labs += 1;
            }
        }
    }
    if is_privileged() {
        clean_names(&alive, &mut cleaned)?;
    }
    Ok(cleaned)
}

fn clean_names(alive: &[String], cleaned: &mut Cleaned) -> io::Result<()> {
    let entries = match fs::read_dir(NAMES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(id) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()) else {
            continue;
        };
        // A lab claims its id before it makes a namespace. It may have started since, so the folder is read again.
        if alive.iter().any(|lab| lab == id) || folder().join(format!("{id}.json")).exists() {
            continue;
        }
        // A lab that ends by itself removes its names meanwhile. A name that was never mounted on a namespace is a
        // plain file, whose number means nothing.
        match (fs::metadata(entry.path()), fs::metadata("/proc/self/ns/net")?) {
            (Err(error), _) if error.kind() == io::ErrorKind::NotFound => continue,
            (Err(error), _) => return Err(error),
            (Ok(found), own) if found.dev() == own.dev() => {
                cleaned.processes += kill_inside(&[found.ino()])?;
            }
            (Ok(_), _) => (),
        }
        forget(&entry.path())?;
        cleaned.namespaces += 1;
    }
    Ok(())
}

fn records() -> io::Result<Vec<(PathBuf, File)>> {
    let entries = match fs::read_dir(folder()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut records = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "json") {
            match File::open(&path) {
                Ok(file) => records.push((path, file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => (),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(records)
}
