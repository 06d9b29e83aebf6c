//! Real processes of the `p2p` command. They end with the test.
#![allow(dead_code, reason = "not every test does everything")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::{self, JoinHandle};

use tempfile::TempDir;

/// A process under way.
pub(crate) struct Process {
    child: Child,
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: Option<BufReader<ChildStdout>>,
    pub(crate) stderr: Option<BufReader<ChildStderr>>,
}

/// How one ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Done {
    /// Checks the exit code, and what the user was told.
    #[track_caller]
    pub(crate) fn says(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for part in parts {
            assert!(self.stderr.contains(part), "{:?} lacks {part:?}", self.stderr);
        }
    }
}

/// A folder, and `p2p` in it.
pub(crate) struct Desk {
    pub(crate) folder: TempDir,
    environment: Vec<(&'static str, String)>,
    /// The program that starts `p2p`, and its words, if any.
    within: Vec<String>,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self { folder: TempDir::new().unwrap(), environment: Vec::new(), within: Vec::new() }
    }

    pub(crate) fn set(&mut self, name: &'static str, value: &str) {
        self.environment.push((name, value.to_owned()));
    }

    /// Has `p2p` started by this command, such as `ip netns exec NAME`.
    pub(crate) fn run_within(&mut self, command: &[&str]) {
        self.within = command.iter().map(ToString::to_string).collect();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.path(name).display().to_string()
    }

    pub(crate) fn start(&self, args: &[&str]) -> Process {
        Process::new(self.command(args), Stdio::piped(), Stdio::piped())
    }

    /// With standard input and output that were made before.
    pub(crate) fn start_with(
        &self,
        args: &[&str],
        stdin: impl Into<Stdio>,
        stdout: impl Into<Stdio>,
    ) -> Process {
        Process::new(self.command(args), stdin.into(), stdout.into())
    }

    fn command(&self, args: &[&str]) -> Command {
        let p2p = env!("CARGO_BIN_EXE_p2p");
        let mut command = match self.within.split_first() {
            Some((program, words)) => {
                let mut command = Command::new(program);
                command.args(words).arg(p2p);
                command
            }
            None => Command::new(p2p),
        };
        command.args(args).current_dir(self.folder.path());
        command.env_remove("P2P_CONFIG").env_remove("RUST_LOG").envs(self.environment.iter().cloned());
        command
    }

    /// Runs it to its end with this input.
    pub(crate) fn run(&self, args: &[&str], input: &[u8]) -> Done {
        self.start(args).finish(input)
    }
}

impl Process {
    fn new(mut command: Command, stdin: Stdio, stdout: Stdio) -> Self {
        command.stdin(stdin).stdout(stdout).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Self {
            stdin: child.stdin.take(),
            stdout: child.stdout.take().map(BufReader::new),
            stderr: child.stderr.take().map(BufReader::new),
            child,
        }
    }

    /// The next line of standard output.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        match next_line(self.stdout.as_mut()) {
            Some(line) => line,
            None => panic!("no line, but: {}", rest(self.stderr.take())),
        }
    }

    /// The next line of standard error.
    #[track_caller]
    pub(crate) fn note(&mut self) -> String {
        next_line(self.stderr.as_mut()).expect("a line on standard error")
    }

    /// The address of a listener whose standard output is the user's. A slow machine has it warn first that a broker has
    /// not answered yet.
    #[track_caller]
    pub(crate) fn address(&mut self) -> String {
        loop {
            let note = self.note();
            if note.starts_with("p2p1") {
                return note;
            }
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Gives it this input, then nothing more, and waits for its end.
    pub(crate) fn finish(mut self, input: &[u8]) -> Done {
        let stdout = slurp(self.stdout.take());
        let stderr = slurp(self.stderr.take());
        if let Some(mut stdin) = self.stdin.take() {
            // It may end without reading all of it.
            let _ = stdin.write_all(input);
        }
        let code = self.child.wait().unwrap().code();
        let stderr = String::from_utf8(stderr.join().unwrap()).unwrap();
        assert!(!stderr.contains("panicked"), "{stderr}");
        Done { code, stdout: stdout.join().unwrap(), stderr }
    }
}

fn next_line(from: Option<&mut impl BufRead>) -> Option<String> {
    let mut line = String::new();
    from?.read_line(&mut line).unwrap();
    line.strip_suffix('\n').map(str::to_owned)
}

/// Reads to the end on a thread, or the process would block on a full pipe.
fn slurp(from: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        if let Some(mut from) = from {
            from.read_to_end(&mut all).unwrap();
        }
        all
    })
}

fn rest(from: Option<impl Read>) -> String {
    let mut all = String::new();
    if let Some(mut from) = from {
        from.read_to_string(&mut all).unwrap();
    }
    all
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
