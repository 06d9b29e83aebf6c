//! The worked example of the README, run as it stands.

use std::os::unix::fs::symlink;
use std::process::Command;

use crate::support::can_run;

#[test]
fn the_worked_example_works() {
    if !can_run() {
        return;
    }
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once("```sh example\n").expect("an example");
    let (script, rest) = rest.split_once("```").expect("its end");
    let (_, rest) = rest.split_once("```text output\n").expect("what it prints");
    let (expected, _) = rest.split_once("```").expect("the end of that");
    let (_, rest) = readme.split_once("```toml two-homes.toml\n").expect("a scenario");
    let (scenario, _) = rest.split_once("```").expect("its end");

    let folder = tempfile::tempdir().unwrap();
    symlink(env!("CARGO_BIN_EXE_natlab"), folder.path().join("natlab")).unwrap();
    std::fs::write(folder.path().join("two-homes.toml"), scenario).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let output =
        Command::new("sh").arg("-ec").arg(script).env("PATH", path).current_dir(&folder).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}
