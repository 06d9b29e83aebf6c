//! A mosquitto of a test's own, on loopback.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use super::binary;

/// A mosquitto of our own. It ends with the test.
pub(crate) struct Mosquitto {
    process: Child,
    binary: PathBuf,
    pub(crate) folder: TempDir,
    pub(crate) port: u16,
}

impl Mosquitto {
    /// Starts one with these lines of configuration besides the listener. `{}` stands for its folder.
    pub(crate) fn start(folder: TempDir, lines: &str) -> Option<Self> {
        let binary = binary("mosquitto")?;
        let lines = lines.replace("{}", &folder.path().display().to_string());
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let config = format!("listener {port} 127.0.0.1\nuser root\nset_tcp_nodelay true\n{lines}\n");
            fs::write(folder.path().join("mosquitto.conf"), config).unwrap();
            // Somebody else may have taken the port meanwhile: try another.
            if let Some(process) = run(&binary, folder.path()) {
                return Some(Self { process, binary, folder, port });
            }
        }
        panic!("mosquitto does not start");
    }

    pub(crate) fn plain() -> Option<Self> {
        Self::start(TempDir::new().unwrap(), "allow_anonymous true")
    }

    /// One that only lets this user in.
    pub(crate) fn with_password(user: &str, password: &str) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("passwords");
        let passwd = Command::new(binary("mosquitto_passwd")?)
            .arg("-b")
            .arg("-c")
            .arg(file)
            .args([user, password])
            .stderr(Stdio::null())
            .status();
        assert!(passwd.unwrap().success());
        Self::start(folder, "allow_anonymous false\npassword_file {}/passwords")
    }

    /// One with TLS, and the files of its folder: `right.pem` and `wrong.pem` are authorities.
    pub(crate) fn secure() -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let right = authority(folder.path(), "right");
        authority(folder.path(), "wrong");
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        let certificate = params.signed_by(&key, &right).unwrap();
        fs::write(folder.path().join("server.pem"), certificate.pem()).unwrap();
        fs::write(folder.path().join("server.key"), key.serialize_pem()).unwrap();
        fs::write(folder.path().join("empty.pem"), "nothing here").unwrap();
        let lines = "allow_anonymous true\ncertfile {}/server.pem\nkeyfile {}/server.key";
        Self::start(folder, lines)
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) fn restart(&mut self) {
        self.process = run(&self.binary, self.folder.path()).expect("mosquitto starts again");
    }

    /// Stops it from running without ending it.
    pub(crate) fn freeze(&self) {
        let frozen = Command::new("kill").args(["-STOP", &self.process.id().to_string()]).status();
        assert!(frozen.unwrap().success());
    }
}

/// Starts mosquitto and waits until it says that it runs.
fn run(binary: &Path, folder: &Path) -> Option<Child> {
    let mut process = Command::new(binary)
        .arg("-c")
        .arg(folder.join("mosquitto.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
    let said: Vec<String> = log.by_ref().take_while(|line| !line.ends_with(" running")).collect();
    // Read on, or it would block on a full pipe. The thread ends with the process.
    std::thread::spawn(move || log.for_each(drop));
    if process.try_wait().unwrap().is_some() || said.iter().any(|line| line.contains("Error")) {
        eprintln!("mosquitto: {said:?}");
        let _ = process.kill();
        process.wait().unwrap();
        return None;
    }
    Some(process)
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Writes a fresh authority as `{name}.pem` and gives it.
fn authority(folder: &Path, name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    fs::write(folder.join(name).with_extension("pem"), authority.pem()).unwrap();
    authority
}
