//! A diagnostic: what is wrong, with whom, where, and what to do about it.
//!
//! Compiles and parsers return [`Notes`] beside their result instead of failing, so that one
//! team's mistake never reaches another team's service.

use std::collections::BTreeSet;
use std::fmt;
use std::iter::Map;
use std::slice;
use std::sync::Arc;

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

/// Diagnostics, in the order found, each once: the same label is read by several consumers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[must_use = "an unread diagnostic helps nobody"]
pub struct Notes {
    said: Vec<Arc<Note>>,
    /// The same ones, so that finding one does not cost more the more there are: a mistake in a
    /// large stack is told of for each of its tasks.
    known: BTreeSet<Arc<Note>>,
}

/// Of [`Notes`], in the order found.
pub type Iter<'a> = Map<slice::Iter<'a, Arc<Note>>, fn(&'a Arc<Note>) -> &'a Note>;

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
        for note in other.said {
            self.say(note);
        }
    }

    /// Those that are not in `others`.
    pub fn without(&self, others: &Self) -> Self {
        let mut left = Self::default();
        for note in self.said.iter().filter(|it| !others.known.contains(*it)) {
            left.say(Arc::clone(note));
        }
        left
    }

    /// The notes, in the order found.
    pub fn iter(&self) -> Iter<'_> {
        self.said.iter().map(AsRef::as_ref)
    }

    /// Whether nothing is to be said.
    pub fn is_empty(&self) -> bool {
        self.said.is_empty()
    }

    /// Whether one of them is an error.
    pub fn has_errors(&self) -> bool {
        self.iter().any(|note| note.severity == Severity::Error)
    }

    fn push(
        &mut self,
        severity: Severity,
        subject: String,
        place: String,
        text: String,
        remedy: String,
    ) {
        self.say(Arc::new(Note { severity, subject, place, text, remedy }));
    }

    fn say(&mut self, note: Arc<Note>) {
        if self.known.insert(Arc::clone(&note)) {
            self.said.push(note);
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
    type IntoIter = Iter<'a>;

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

#[cfg(test)]
mod tests {
    use super::*;

    fn said(notes: &Notes) -> Vec<&str> {
        notes.iter().map(|it| it.subject.as_str()).collect()
    }

    #[test]
    fn what_was_said_is_not_said_again_and_what_is_new_comes_last() {
        let mut notes = Notes::default();
        for subject in ["b", "a", "b"] {
            notes.error(subject, "", "wrong", "");
        }
        let mut more = Notes::default();
        for subject in ["c", "a"] {
            more.error(subject, "", "wrong", "");
        }
        more.warning("b", "", "wrong", "");
        assert_eq!(said(&more.without(&notes)), ["c", "b"], "b was an error");
        notes.extend(more.clone());
        notes.extend(more);
        assert_eq!(said(&notes), ["b", "a", "c", "b"]);
        let again = notes.without(&Notes::default());
        assert_eq!(again, notes);
        notes.extend(again);
        assert_eq!(said(&notes), ["b", "a", "c", "b"]);
    }
}
