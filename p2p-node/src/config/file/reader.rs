//! The values of a file, with their places in it.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::error::{ConfigError, ConfigFault};

/// The longest time to wait for brokers that makes sense, in seconds.
const LONGEST_WAIT: f64 = 3_600.0;

pub(super) type Result<T, E = ConfigError> = std::result::Result<T, E>;

/// The text that is read, and the folder that its paths start from.
pub(super) struct Reader<'t> {
    pub(super) text: &'t str,
    pub(super) folder: &'t Path,
}

pub(super) type Value<'t> = Spanned<DeValue<'t>>;

impl<'t> Reader<'t> {
    pub(super) fn line(&self, offset: usize) -> usize {
        let before = self.text.get(..offset).unwrap_or(self.text);
        before.bytes().filter(|byte| *byte == b'\n').count() + 1
    }

    pub(super) fn at(&self, value: &Value<'t>, fault: ConfigFault) -> ConfigError {
        ConfigError { file: None, line: Some(self.line(value.span().start)), fault }
    }

    pub(super) fn wrong(&self, key: &'static str, value: &Value<'t>, wanted: &str) -> ConfigError {
        let found = match value.get_ref() {
            DeValue::String(text) => format!("{text:?}"),
            DeValue::Integer(number) => number.as_str().to_owned(),
            DeValue::Float(number) => number.as_str().to_owned(),
            DeValue::Boolean(truth) => truth.to_string(),
            other => format!("a value of type {}", other.type_str()),
        };
        self.at(value, ConfigFault::Value { key, found, wanted: wanted.to_owned() })
    }

    /// Returns the known key that was found, or an error with the nearest one.
    pub(super) fn key(&self, found: &Spanned<Cow<'t, str>>, known: &[&'static str]) -> Result<&'static str> {
        let key = found.get_ref();
        known.iter().find(|known| *known == key).copied().ok_or_else(|| ConfigError {
            file: None,
            line: Some(self.line(found.span().start)),
            fault: ConfigFault::UnknownKey { key: key.to_string(), hint: hint(key, known) },
        })
    }

    pub(super) fn string<'v>(
        &self,
        key: &'static str,
        value: &'v Value<'t>,
        wanted: &str,
    ) -> Result<&'v str> {
        match value.get_ref().as_str().filter(|text| !text.is_empty()) {
            Some(text) => Ok(text),
            None => Err(self.wrong(key, value, wanted)),
        }
    }

    /// Returns a text that no error repeats.
    pub(super) fn secret(&self, value: &Value<'t>) -> Result<String> {
        value.get_ref().as_str().map(str::to_owned).ok_or_else(|| {
            let (found, wanted) = ("…".to_owned(), "a text in quotes".to_owned());
            self.at(value, ConfigFault::Value { key: "password", found, wanted })
        })
    }

    pub(super) fn path(&self, key: &'static str, value: &Value<'t>) -> Result<PathBuf> {
        Ok(self.folder.join(self.string(key, value, "the path of a file")?))
    }

    pub(super) fn truth(&self, key: &'static str, value: &Value<'t>) -> Result<bool> {
        value.get_ref().as_bool().ok_or_else(|| self.wrong(key, value, "true or false"))
    }

    pub(super) fn number(&self, key: &'static str, value: &Value<'t>, least: u16, most: u16) -> Result<u16> {
        let number = value
            .get_ref()
            .as_integer()
            .and_then(|number| u16::from_str_radix(number.as_str(), number.radix()).ok())
            .filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| self.wrong(key, value, &format!("a number from {least} to {most}")))
    }

    pub(super) fn seconds(&self, key: &'static str, value: &Value<'t>) -> Result<Duration> {
        let number = match value.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse::<f64>().ok(),
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            _ => None,
        };
        match number.filter(|seconds| (0.0..=LONGEST_WAIT).contains(seconds)) {
            Some(seconds) => Ok(Duration::from_secs_f64(seconds)),
            None => Err(self.wrong(
                key,
                value,
                &format!("a number of seconds from 0 to {LONGEST_WAIT}, such as 0.5"),
            )),
        }
    }

    pub(super) fn list<'v>(
        &self,
        key: &'static str,
        value: &'v Value<'t>,
        wanted: &str,
    ) -> Result<&'v [Value<'t>]> {
        match value.get_ref() {
            DeValue::Array(values) => Ok(values),
            _ => Err(self.wrong(key, value, wanted)),
        }
    }

    pub(super) fn some<T>(&self, key: &'static str, value: &Value<'t>, list: Vec<T>) -> Result<Vec<T>> {
        if list.is_empty() {
            return Err(self.wrong(key, value, "at least one; leave the key out for all"));
        }
        Ok(list)
    }

    pub(super) fn one<T, E: fmt::Display>(
        &self,
        key: &'static str,
        value: &Value<'t>,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<T> {
        let text = self.string(key, value, "a text in quotes")?;
        parse(text).map_err(|wanted| self.wrong(key, value, &wanted.to_string()))
    }

    /// Reads a URL. Its fault is told without repeating a URL that may hold a password.
    pub(super) fn url<T, E: fmt::Display>(
        &self,
        key: &'static str,
        value: &Value<'t>,
        wanted: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<T> {
        let text = self.string(key, value, wanted)?;
        parse(text).map_err(|wanted| {
            let found = if text.contains('@') { "…".to_owned() } else { format!("{text:?}") };
            self.at(value, ConfigFault::Value { key, found, wanted: wanted.to_string() })
        })
    }

    pub(super) fn parsed<T, E: fmt::Display>(
        &self,
        key: &'static str,
        value: &Value<'t>,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Vec<T>> {
        let values = self.list(key, value, "a list of texts")?;
        values.iter().map(|value| self.one(key, value, &parse)).collect()
    }
}

/// Names the key that was probably meant.
fn hint(key: &str, known: &[&'static str]) -> String {
    let alike = |known: &&'static str| strsim::damerau_levenshtein(key, known);
    let nearest = known.iter().copied().min_by_key(alike).filter(|nearest| alike(nearest) <= 3);
    match nearest {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("there are {}", known.join(", ")),
    }
}
