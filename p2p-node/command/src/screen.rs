//! Lines for people and programs. Unlike `println!`, none of this panics when nobody reads. Nothing that goes out here can act
//! on a terminal or begin a line of its own, whoever wrote it: see [`p2p_core::text`].

use std::fmt::{self, Display};
use std::io::{ErrorKind, Write};

use p2p_core::text::shown;
use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

use crate::ended::Ended;

/// Prints a line on standard output, at once.
pub(crate) fn line(text: impl Display) -> anyhow::Result<()> {
    write_out(&format!("{}\n", shown(&text.to_string())))
}

/// Prints lines that have their line ends already.
pub(crate) fn text(text: impl Display) -> anyhow::Result<()> {
    write_out(&lines(&text.to_string()))
}

/// The text with its own ends of lines, and nothing else that acts.
fn lines(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| match line.strip_suffix('\n') {
            Some(line) => format!("{}\n", shown(line)),
            None => shown(line).into_owned(),
        })
        .collect()
}

fn write_out(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Ended::Unread.into()),
        done => Ok(done?),
    }
}

/// Prints a line on standard error. If that is closed, there is nobody to tell.
pub(crate) fn note(text: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{}", lines(&text.to_string()));
}

/// Writes the fields of what is logged. A program's own colours are left to it: they are in none of the fields.
pub(crate) fn log_fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    debug_fn(|out: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug| {
        // What is logged stays one line.
        let text = format!("{value:?}").replace('\n', " | ");
        match field.name() {
            "message" => write!(out, "{}", shown(&text)),
            name => write!(out, "{name}={}", shown(&text)),
        }
    })
    .delimited(" ")
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nothing_that_is_logged_acts_or_begins_a_line() {
        let paper = Paper::default();
        let ours = paper.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).fmt_fields(log_fields());
        tracing::subscriber::with_default(log.with_writer(move || ours.clone()).finish(), || {
            let hostile = "\x1b[2J\nERROR forged";
            let _span = tracing::error_span!("of", who = %hostile).entered();
            tracing::error!(why = %hostile, "{hostile}");
        });
        let told = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
        assert_eq!(told.matches("forged").count(), 3, "{told:?}");
        assert!(!told.trim_end().chars().any(char::is_control), "{told:?}");
    }

    #[test]
    fn a_text_of_ours_keeps_its_lines_and_nothing_else_that_acts() {
        assert_eq!(lines("one\n\x1b[2Jtwo\n"), "one\n\u{fffd}[2Jtwo\n");
    }
}
