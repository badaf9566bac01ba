//! Reads a TOML file by a shape written in code, so that its author gets all mistakes at once, each
//! with its line and what to write instead. The world file and the configuration are read so.
//!
//! Invariants
//! - *total*: no text makes it panic; nesting is bounded by the TOML parser;
//! - *all*: a mistake in one value hides none in another;
//! - *closed*: [`Table::only`] names every key that has no meaning.
//!
//! Pure but for [`read`]. `serde` is not used, since it stops at the first mistake.

mod value;

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use value::Value;

use crate::nearest::nearest;
use crate::note::shown;

/// One mistake in a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileError {
    /// The file's path as it was given, or the variable's name.
    pub file: String,
    /// From 1; 0 where the file as a whole is meant.
    pub line: usize,
    /// On whom, e.g. `service web`; may be empty.
    pub subject: String,
    /// At which key; may be empty.
    pub place: String,
    /// What is wrong, one sentence, lower case, no full stop.
    pub text: String,
    /// What to do; may be empty.
    pub remedy: String,
    /// Whether the file could be understood at all.
    pub kind: FileErrorKind,
}

/// How far reading came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FileErrorKind {
    /// The file cannot be read, or is not TOML.
    Unreadable,
    /// It is understood, and wrong.
    Wrong,
}

impl FileError {
    /// A file that cannot be read.
    pub fn unreadable(file: &str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            subject: String::new(),
            place: String::new(),
            text: text.into(),
            remedy: remedy.into(),
            kind: FileErrorKind::Unreadable,
        }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.subject.is_empty() {
            write!(f, ": {}", self.subject)?;
        }
        if !self.place.is_empty() {
            write!(f, ": `{}`", self.place)?;
        }
        write!(f, ": {}", self.text)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for FileError {}

/// The text of the file at `path`.
pub fn read(path: &Path) -> Result<String, Vec<FileError>> {
    let fault = |text: String, remedy: &str| {
        vec![FileError::unreadable(&path.display().to_string(), text, remedy)]
    };
    let unreadable = |error: std::io::Error| {
        fault(format!("cannot be read: {error}"), "name a file that portolan may read")
    };
    let mut text = String::new();
    let mut limited = File::open(path).map_err(unreadable)?.take(MAX_FILE + 1);
    limited.read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_FILE {
        return Err(fault(
            format!("is larger than {} MiB", MAX_FILE >> 20),
            "is it the right file?",
        ));
    }
    Ok(text)
}

/// The largest file read: a world of some 100,000 tasks. More is a wrong path.
const MAX_FILE: u64 = 32 << 20;

/// A TOML document that is being read, and the mistakes found so far.
#[derive(Debug)]
pub struct Document<'t> {
    file: &'t str,
    /// Where each line begins.
    starts: Vec<usize>,
    root: Spanned<DeTable<'t>>,
    faults: RefCell<Vec<FileError>>,
}

/// A place in the text.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Ord, PartialOrd)]
pub struct At(usize);

/// A value and where it stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where.
    pub at: At,
}

impl<'t> Document<'t> {
    /// Parses `text`, which came from `file`. Where it is not TOML, all that is wrong with it.
    pub fn parse(text: &'t str, file: &'t str) -> Result<Self, Vec<FileError>> {
        let (root, syntax) = DeTable::parse_recoverable(text);
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1));
        let document = Self { file, starts: starts.collect(), root, faults: RefCell::default() };
        if syntax.is_empty() {
            return Ok(document);
        }
        let errors = syntax.iter().map(|error| FileError {
            line: error.span().map_or(0, |it| document.line(At::of(&it))),
            ..FileError::unreadable(file, format!("not TOML: {}", error.message()), "")
        });
        let mut errors: Vec<FileError> = errors.collect();
        errors.sort_by_key(|it| it.line);
        Err(errors)
    }

    /// The outermost table.
    pub fn root(&self) -> Table<'_> {
        Table {
            document: self,
            subject: String::new(),
            path: String::new(),
            at: At::default(),
            entries: self.root.get_ref(),
        }
    }

    /// Records a mistake.
    pub fn fault(
        &self,
        at: At,
        subject: impl Into<String>,
        place: impl Into<String>,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.faults.borrow_mut().push(FileError {
            file: self.file.to_owned(),
            line: self.line(at),
            subject: subject.into(),
            place: place.into(),
            text: text.into(),
            remedy: remedy.into(),
            kind: FileErrorKind::Wrong,
        });
    }

    /// The line of a place, from 1.
    pub fn line(&self, at: At) -> usize {
        self.starts.partition_point(|start| *start <= at.0)
    }

    /// `value` if no mistake was found, else all of them in the order of their lines.
    pub fn finish<T>(self, value: T) -> Result<T, Vec<FileError>> {
        let mut faults = self.faults.into_inner();
        faults.sort_by_key(|it| it.line);
        if faults.is_empty() { Ok(value) } else { Err(faults) }
    }
}

impl At {
    fn of(span: &Range<usize>) -> Self {
        Self(span.start)
    }
}

/// A table of the document, and how its mistakes are to be named.
#[derive(Clone, Debug)]
pub struct Table<'d> {
    document: &'d Document<'d>,
    subject: String,
    path: String,
    at: At,
    entries: &'d DeTable<'d>,
}

impl<'d> Table<'d> {
    /// The same table with its mistakes reported on `subject`, e.g. `service web`.
    #[must_use]
    pub fn about(self, subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), ..self }
    }

    /// Names each key that is none of `known`.
    pub fn only(&self, known: &[&str]) {
        for key in self.entries.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let remedy = match nearest(key.get_ref(), known.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("known here are {}", known.join(", ")),
            };
            self.fault_at(At::of(&key.span()), key.get_ref(), "is not a key here", remedy);
        }
    }

    /// What `read` makes of the value of `key`; `None` where there is none, or `read` found it
    /// wrong and said so.
    pub fn get<T>(&self, key: &str, read: impl FnOnce(&Value<'d>) -> Option<T>) -> Option<T> {
        self.value(key).and_then(|it| read(&it))
    }

    /// The same, and says so where there is none. `what` completes "set it to ...".
    pub fn need<T>(
        &self,
        key: &str,
        what: &str,
        read: impl FnOnce(&Value<'d>) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key);
        if value.is_none() {
            self.fault(key, "is missing", format!("set it to {what}"));
        }
        value.and_then(|it| read(&it))
    }

    /// The tables of an array of tables (`[[service]]`).
    pub fn tables(&self, key: &str) -> Vec<Self> {
        let shape = format!("write it as `[[{key}]]`");
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(items) = value.array() else {
            value.wrong_type("a list of tables", shape);
            return Vec::new();
        };
        let read = |item: &Value<'d>| {
            let table = item.table();
            if table.is_none() {
                item.wrong_type("a table", shape.clone());
            }
            table.map(|it| Self { path: String::new(), ..it })
        };
        items.iter().filter_map(read).collect()
    }

    /// The table at `key`, where there is one.
    pub fn table(&self, key: &str) -> Option<Self> {
        let value = self.value(key)?;
        let table = value.table();
        if table.is_none() {
            value.wrong_type("a table", format!("write it as `[{key}]`"));
        }
        table
    }

    /// All keys with their values, by key.
    pub fn entries(&self) -> impl Iterator<Item = (Located<String>, Value<'d>)> {
        self.entries.iter().map(|(key, value)| {
            let located = Located { value: key.get_ref().to_string(), at: At::of(&key.span()) };
            (located, self.value_of(key.get_ref(), value))
        })
    }

    /// Whether `key` is there.
    pub fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Where the table begins.
    pub fn at(&self) -> At {
        self.at
    }

    /// Where `key` stands, or else the table.
    pub fn at_key(&self, key: &str) -> At {
        self.entries.get_key_value(key).map_or(self.at, |(key, _)| At::of(&key.span()))
    }

    /// Records a mistake at `key`.
    pub fn fault(&self, key: &str, text: impl Into<String>, remedy: impl Into<String>) {
        self.fault_at(self.at_key(key), key, text, remedy);
    }

    fn fault_at(&self, at: At, key: &str, text: impl Into<String>, remedy: impl Into<String>) {
        let place = shown(&format!("{}{key}", self.path));
        self.document.fault(at, self.subject.clone(), place, text, remedy);
    }

    fn value(&self, key: &str) -> Option<Value<'d>> {
        self.entries.get(key).map(|value| self.value_of(key, value))
    }

    fn value_of(&self, key: &str, value: &'d Spanned<DeValue<'d>>) -> Value<'d> {
        let path = format!("{}{key}", self.path);
        Value::new(self.document, self.subject.clone(), path, value)
    }
}
