//! The file of `--report`.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;

use crate::screen;

/// A file for reports, if one is wanted.
pub(crate) struct Reports(Option<(PathBuf, File)>);

impl Reports {
    /// Opens the file before anything else happens.
    pub(crate) fn create(path: Option<&PathBuf>) -> anyhow::Result<Self> {
        let open = |path: &PathBuf| {
            let file = File::create(path)
                .with_context(|| format!("cannot write the report to {}", path.display()))?;
            anyhow::Ok((path.clone(), file))
        };
        Ok(Self(path.map(open).transpose()?))
    }

    /// Adds one report. A full disk causes a message, and stops nothing.
    pub(crate) fn add(&mut self, report: &str) {
        if let Some((path, file)) = &mut self.0
            && let Err(error) = writeln!(file, "{report}")
        {
            screen::note(format_args!("cannot write the report to {}: {error}", path.display()));
        }
    }
}
