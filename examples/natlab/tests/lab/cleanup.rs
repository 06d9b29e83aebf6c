//! Tests that nothing is left of a lab, in whatever way it ends, and that an impossible one is never begun.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Running, can_run, eventually, lab, natlab};

/// Returns the names of the namespaces of a lab.
fn namespaces(id: &str) -> Vec<PathBuf> {
    let prefix = format!("p2plab-{id}-");
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    ours.map(|entry| entry.path()).collect()
}

fn record(id: &str) -> PathBuf {
    PathBuf::from(format!("/run/natlab/{id}.json"))
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Starts `natlab run` with a command that prints its pid and the lab's id, and then stays.
fn start() -> (Child, u32, String) {
    let mut command = natlab();
    command.args(["run", "homes", "--host", "b", "--", "sh", "-c"]);
    command.arg("echo $$ $NATLAB_LAB; exec sleep 1000");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let (pid, id) = line.trim().split_once(' ').expect("a pid and an id");
    (child, pid.parse().unwrap(), id.to_owned())
}

fn end(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

#[test]
fn clean_removes_what_a_killed_lab_leaves() {
    if !can_run() {
        return;
    }
    let (child, inside, id) = start();
    let mut child = Running(child);
    assert_eq!(namespaces(&id).len(), 3);
    end(&child.0, Signal::SIGKILL);
    child.0.wait().unwrap();
    assert!(is_alive(inside), "nobody has told it yet");

    let output = natlab().args(["clean", "--json"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(namespaces(&id), Vec::<PathBuf>::new());
    assert!(!record(&id).exists());
    eventually("what ran in it has ended", || (!is_alive(inside)).then_some(()));
}

#[test]
fn clean_leaves_running_labs_alone() {
    if !can_run() {
        return;
    }
    let lab = lab("homes");
    let output = natlab().arg("clean").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(namespaces(lab.id()).len(), 3);
    assert!(record(lab.id()).exists());
}

#[test]
fn an_interrupted_lab_takes_everything_with_it() {
    if !can_run() {
        return;
    }
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (child, inside, id) = start();
        let mut child = Running(child);
        end(&child.0, signal);
        let status = child.0.wait().unwrap();
        assert_eq!(status.code(), Some(128 + signal as i32), "{:?}", status.signal());
        assert_eq!(namespaces(&id), Vec::<PathBuf>::new());
        assert!(!record(&id).exists());
        assert!(!is_alive(inside));
    }
}

#[test]
fn a_dropped_lab_takes_everything_with_it() {
    if !can_run() {
        return;
    }
    let lab = lab("upnp");
    let id = lab.id().to_owned();
    // There are three hosts and a Linux router.
    assert_eq!(namespaces(&id).len(), 4);
    let sleeper = lab.host("a").unwrap().command("sleep").unwrap().arg("1000").spawn().unwrap();
    let sleeper = Running(sleeper);
    drop(lab);
    assert_eq!(namespaces(&id), Vec::<PathBuf>::new());
    assert!(!record(&id).exists());
    assert!(!record(&id).with_extension("d").exists());
    assert!(!is_alive(sleeper.0.id()));
}

#[test]
fn a_panic_takes_the_lab_with_it() {
    if !can_run() {
        return;
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let lab = lab("homes");
        sender.send(lab.id().to_owned()).unwrap();
        panic!("on purpose");
    });
    assert!(thread.join().is_err());
    assert_eq!(namespaces(&receiver.recv().unwrap()), Vec::<PathBuf>::new());
}

#[test]
fn an_impossible_scenario_is_one_error_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.toml");
    fs::write(&file, "[host.a]\nnet = \"internet\"\n\n[host.b]\nnte = \"internet\"\n").unwrap();
    let mut child = natlab();
    child.arg("run").arg(&file).args(["--", "true"]).stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let pid = child.id();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!child.wait().unwrap().success());
    let expected = format!("natlab: {}, line 5: unknown key `nte`: did you mean `net`?\n", file.display());
    assert_eq!(said, expected);
    assert_eq!(namespaces(&format!("{pid}x0")), Vec::<PathBuf>::new());
}

#[test]
fn a_missing_program_is_an_error_and_nothing_is_left() {
    if !can_run() {
        return;
    }
    let output = natlab().args(["run", "homes", "--", "/no/such/program"]).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("starting `/no/such/program`"), "{said}");
    // Its pid is not known any more, but no lab of a dead process may be there.
    for lab in natlab::running().unwrap() {
        assert!(is_alive(lab.pid), "{lab:?}");
    }
}
