//! Tests that an ordinary user can make a lab in a user namespace.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::support::can_run;

/// A script that runs in a mount namespace of its own. It makes a TUN device that everybody may use, as on most
/// machines, and then a lab by a user who is not root. After the lab is killed, `clean` ends the processes in it.
const SCRIPT: &str = r#"
mknod -m 666 tun c 10 200
mount --bind tun /dev/net/tun
user="setpriv --reuid=65534 --regid=65534 --clear-groups env -u XDG_RUNTIME_DIR TMPDIR=$PWD"
$user ./natlab run 'homes?rtt=4ms' -- sh -c 'ping -c 1 45.1.1.1 >/dev/null && ./natlab exec s -- hostname -I'
$user ./natlab run homes -- sleep 1000 &
until $user ./natlab list | grep -q 'a b s'; do sleep 0.05; done
lab=$($user ./natlab list | sed 's/.* pid \([0-9]*\):.*/\1/')
kill -9 "$lab"
wait || true
$user ./natlab clean
ls natlab-65534
"#;

#[test]
fn an_ordinary_user_can_make_a_lab() {
    if !can_run() || !nix::unistd::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let everybody = fs::Permissions::from_mode(0o777);
    fs::set_permissions(folder.path(), everybody.clone()).unwrap();
    let program = folder.path().join("natlab");
    fs::copy(env!("CARGO_BIN_EXE_natlab"), &program).unwrap();
    fs::set_permissions(&program, everybody).unwrap();
    let mut script = Command::new("unshare");
    script.args(["-m", "sh", "-euc", SCRIPT]).current_dir(folder.path());
    let output = script.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    let expected = "45.1.1.1 45.1.1.2 2a0f::1:2 2a0f::1:1 \nremoved 1 labs, 0 namespaces, 1 processes\n";
    assert_eq!(said, expected, "{output:?}");
}
