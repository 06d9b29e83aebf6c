//! The secret key of a node, in a file.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use p2p_actors::StartError;
use p2p_core::Seed;
use p2p_core::peer::Identity;
use zeroize::Zeroizing;

use super::Key;
use crate::error::BindError;

/// The most bytes of a key file, which is one short line.
const MOST_BYTES: u64 = 1_024;

pub(super) fn load(key: Key) -> Result<Identity, BindError> {
    match key {
        Key::Given(identity) => Ok(identity),
        Key::Ephemeral => fresh(),
        Key::File(path) => load_file(&path),
    }
}

fn fresh() -> Result<Identity, BindError> {
    let mut entropy = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *entropy).map_err(|error| StartError::Entropy(std::io::Error::other(error)))?;
    Ok(Identity::generate(&mut Seed::new(*entropy)))
}

/// Reads a key file, and makes it when there is none.
pub(crate) fn load_file(path: &Path) -> Result<Identity, BindError> {
    match File::open(path) {
        Ok(file) => read(path, file),
        Err(error) if error.kind() == ErrorKind::NotFound => create(path),
        Err(error) => Err(wrong(path, error)),
    }
}

fn read(path: &Path, file: File) -> Result<Identity, BindError> {
    check_permissions(path, &file)?;
    let mut text = Zeroizing::new(String::new());
    file.take(MOST_BYTES).read_to_string(&mut text).map_err(|error| wrong(path, error))?;
    text.trim().parse().map_err(|error| wrong(path, error))
}

/// Writes a new key to a file next to its place, and then links it there. So there is never half a key. An old key is
/// never overwritten, and no symbolic link that leads nowhere is followed.
fn create(path: &Path) -> Result<Identity, BindError> {
    let identity = fresh()?;
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", identity.id().short()));
    let draft = Path::new(&draft);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(draft).map_err(|error| wrong(path, error))?;
    let written = file
        .write_all(Zeroizing::new(format!("{}\n", *Zeroizing::new(identity.to_text()))).as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::hard_link(draft, path));
    fs::remove_file(draft).map_err(|error| wrong(path, error))?;
    match written {
        Ok(()) => Ok(identity),
        // Another process made the file in the meantime, so its key is the one.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => match File::open(path) {
            Ok(file) => read(path, file),
            Err(error) => {
                Err(wrong(path, format!("it is there and cannot be opened ({error}): is it a broken link?")))
            }
        },
        Err(error) => Err(wrong(path, error)),
    }
}

#[cfg(unix)]
fn check_permissions(path: &Path, file: &File) -> Result<(), BindError> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = file.metadata().map_err(|error| wrong(path, error))?;
    if !metadata.is_file() {
        return Err(wrong(path, "that is no file"));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let reason = format!("others can read or change it (mode {mode:03o}): run chmod 600 on it");
    Err(BindError::KeyFile { path: path.to_owned(), reason })
}

#[cfg(not(unix))]
fn check_permissions(_: &Path, _: &File) -> Result<(), BindError> {
    Ok(())
}

fn wrong(path: &Path, reason: impl ToString) -> BindError {
    BindError::KeyFile { path: path.to_owned(), reason: reason.to_string() }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let first = load_file(&path).unwrap();
        assert_eq!(load_file(&path).unwrap().id(), first.id());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_that_leads_nowhere_is_an_error_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        let error = load_file(&path).unwrap_err().to_string();
        assert!(error.contains("broken link"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = load_file(&folder.path().join("no/such/folder/key")).unwrap_err().to_string();
        assert!(error.contains("No such file or directory"), "{error}");
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_mend() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        load_file(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = load_file(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_damaged_key_is_refused_and_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        load_file(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap().replace('a', "b").replacen('q', "z", 1);
        fs::write(&path, &text[..text.len() - 3]).unwrap();
        assert!(load_file(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), &text[..text.len() - 3]);
    }
}
