//! One value of a document: from TOML to type, with a mistake recorded where it does not fit.
//!
//! A reader returns `None` only after it recorded why.

use std::ops::RangeInclusive;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeInteger, DeValue};

use super::{At, Document, Located, Table};
use crate::nearest::nearest;
use crate::note::shown;

/// A value that is to be read.
#[derive(Clone, Debug)]
pub struct Value<'d> {
    document: &'d Document<'d>,
    subject: String,
    path: String,
    node: &'d Spanned<DeValue<'d>>,
}

impl<'d> Value<'d> {
    pub(super) fn new(
        document: &'d Document<'d>,
        subject: String,
        path: String,
        node: &'d Spanned<DeValue<'d>>,
    ) -> Self {
        Self { document, subject, path, node }
    }

    /// Where it stands.
    pub fn at(&self) -> At {
        At::of(&self.node.span())
    }

    /// The value with the place where it stands.
    pub fn located<T>(&self, read: impl FnOnce(&Self) -> Option<T>) -> Option<Located<T>> {
        let at = self.at();
        read(self).map(|value| Located { value, at })
    }

    /// A string.
    pub fn text(&self) -> Option<String> {
        let text = self.node.get_ref().as_str();
        if text.is_none() {
            self.wrong_type("a string", "put it in quotes");
        }
        text.map(str::to_owned)
    }

    /// A string that must not be empty.
    pub fn filled(&self) -> Option<String> {
        let text = self.text()?;
        if text.trim().is_empty() {
            self.wrong("is empty", "write a value or leave the key out");
            return None;
        }
        Some(text)
    }

    /// `true` or `false`.
    pub fn boolean(&self) -> Option<bool> {
        let boolean = self.node.get_ref().as_bool();
        if boolean.is_none() {
            self.wrong_type("true or false", "write `true` or `false`, without quotes");
        }
        boolean
    }

    /// A whole number within `range`.
    pub fn integer(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let limits = format!("write a whole number from {} to {}", range.start(), range.end());
        let Some(integer) = self.node.get_ref().as_integer() else {
            self.wrong_type("a number", limits);
            return None;
        };
        let number = number(integer).filter(|it| range.contains(it));
        if number.is_none() {
            self.wrong(format!("`{}` is out of range", shown(&integer.to_string())), limits);
        }
        number
    }

    /// A port, 1 to 65535.
    pub fn port(&self) -> Option<u16> {
        self.integer(1..=u64::from(u16::MAX)).and_then(|it| u16::try_from(it).ok())
    }

    /// A string that parses as `T`. `what` and `example` name it: "is not `what`".
    pub fn parsed<T: FromStr>(&self, what: &str, example: &str) -> Option<T> {
        let text = self.text()?;
        let parsed = text.trim().parse().ok();
        if parsed.is_none() {
            self.wrong(
                format!("`{}` is not {what}", shown(&text)),
                format!("write e.g. `{example}`"),
            );
        }
        parsed
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meant)| *meant);
        if found.is_none() {
            let all: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            let remedy = match nearest(&text, words.iter().map(|(word, _)| *word)) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("write {}", all.join(" or ")),
            };
            self.wrong(format!("`{}` is none of {}", shown(&text), all.join(", ")), remedy);
        }
        found
    }

    /// A list; what `read` finds wrong in it is left out.
    pub fn list<T>(&self, read: impl FnMut(&Self) -> Option<T>) -> Option<Vec<T>> {
        let items = self.array();
        if items.is_none() {
            self.wrong_type("a list", "put it in brackets: `[..]`");
        }
        Some(items?.iter().filter_map(read).collect())
    }

    /// A list, or one value for a list of one.
    pub fn one_or_list<T>(&self, mut read: impl FnMut(&Self) -> Option<T>) -> Option<Vec<T>> {
        if self.is_list() { self.list(read) } else { read(self).map(|it| vec![it]) }
    }

    /// A table whose keys the user chooses.
    pub fn map<T>(&self, read: impl Fn(&Self) -> Option<T>) -> Option<Vec<(Located<String>, T)>> {
        let table = self.table();
        if table.is_none() {
            self.wrong_type("a table", "write it as `{ KEY = VALUE }`");
        }
        let entries = table?;
        Some(entries.entries().filter_map(|(key, value)| Some((key, read(&value)?))).collect())
    }

    /// The values of a list.
    pub fn array(&self) -> Option<Vec<Self>> {
        let items = self.node.get_ref().as_array()?;
        let item = |value| Self::new(self.document, self.subject.clone(), self.path.clone(), value);
        Some(items.iter().map(item).collect())
    }

    /// The table that the value is.
    pub fn table(&self) -> Option<Table<'d>> {
        let entries = self.node.get_ref().as_table()?;
        Some(Table {
            document: self.document,
            subject: self.subject.clone(),
            path: format!("{}.", self.path),
            at: self.at(),
            entries,
        })
    }

    /// Whether it is a list.
    pub fn is_list(&self) -> bool {
        self.node.get_ref().is_array()
    }

    /// A string, number or switch as text, as Docker's own files allow it for labels.
    pub fn scalar(&self) -> Option<String> {
        match self.node.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(integer) => Some(integer.to_string()),
            DeValue::Float(float) => Some(float.to_string()),
            DeValue::Boolean(boolean) => Some(boolean.to_string()),
            DeValue::Datetime(datetime) => Some(datetime.to_string()),
            DeValue::Array(_) | DeValue::Table(_) => None,
        }
    }

    /// Records that the value is wrong.
    pub fn wrong(&self, text: impl Into<String>, remedy: impl Into<String>) {
        self.document.fault(self.at(), self.subject.clone(), shown(&self.path), text, remedy);
    }

    /// Records that the value has the wrong type.
    pub fn wrong_type(&self, wanted: &str, remedy: impl Into<String>) {
        let found = match self.node.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.wrong(format!("is {found} and should be {wanted}"), remedy);
    }
}

fn number(integer: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}
