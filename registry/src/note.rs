//! A diagnostic: what is wrong, with whom, where, and what to do about it.
//!
//! Compiles and parsers return [`Notes`] beside their result instead of failing, so that one
//! team's mistake never reaches another team's service.

use std::fmt;

/// One diagnostic on one subject. Its [`fmt::Display`] is what logs and terminals show.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct Note {
    /// How bad.
    pub severity: Severity,
    /// On whom, e.g. `service shop_web`.
    pub subject: String,
    /// Where, e.g. a label's key; empty when the subject says it all.
    pub place: String,
    /// What is wrong, one sentence, lower case, no full stop.
    pub text: String,
    /// What to do, one sentence.
    pub remedy: String,
}

/// How bad a note is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Severity {
    /// Something asked for does not work: `check` exits with 1.
    Error,
    /// It works, perhaps not as meant.
    Warning,
}

/// Diagnostics, in the order found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[must_use = "an unread diagnostic helps nobody"]
pub struct Notes(Vec<Note>);

impl Notes {
    /// Adds an error on `subject` at `place`.
    pub fn error(
        &mut self,
        subject: impl Into<String>,
        place: impl Into<String>,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.push(Severity::Error, subject.into(), place.into(), text.into(), remedy.into());
    }

    /// Adds a warning on `subject` at `place`.
    pub fn warning(
        &mut self,
        subject: impl Into<String>,
        place: impl Into<String>,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.push(Severity::Warning, subject.into(), place.into(), text.into(), remedy.into());
    }

    /// Takes over all of `other`.
    pub fn extend(&mut self, other: Self) {
        for note in other.0 {
            if !self.0.contains(&note) {
                self.0.push(note);
            }
        }
    }

    /// Those that are not in `others`.
    pub fn without(&self, others: &Self) -> Self {
        Self(self.0.iter().filter(|note| !others.0.contains(note)).cloned().collect())
    }

    /// The notes, in the order found.
    pub fn iter(&self) -> std::slice::Iter<'_, Note> {
        self.0.iter()
    }

    /// Whether nothing is to be said.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them is an error.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|note| note.severity == Severity::Error)
    }

    fn push(
        &mut self,
        severity: Severity,
        subject: String,
        place: String,
        text: String,
        remedy: String,
    ) {
        let note = Note { severity, subject, place, text, remedy };
        // The same label is read by several consumers; it is said once.
        if !self.0.contains(&note) {
            self.0.push(note);
        }
    }
}

/// What of a user's text is shown in a note: on one line and not endless, since it ends up in logs
/// and on terminals.
pub fn shown(text: &str) -> String {
    /// Longer than any value that is right.
    const SHOWN: usize = 80;
    let mut shown: String = text.chars().take(SHOWN).flat_map(escaped).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push_str("...");
    }
    shown
}

/// Quotes stay as they are; what cannot be seen, or moves the cursor, is spelt out.
fn escaped(character: char) -> impl Iterator<Item = char> {
    let plain = matches!(character, '\'' | '"' | '\\').then_some(character);
    let spelt = plain.is_none().then(|| character.escape_debug());
    plain.into_iter().chain(spelt.into_iter().flatten())
}

impl<'a> IntoIterator for &'a Notes {
    type Item = &'a Note;
    type IntoIter = std::slice::Iter<'a, Note>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.subject)?;
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

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}
