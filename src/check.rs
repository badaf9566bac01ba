//! What is wrong with files before they are deployed: configuration, world files, compose and stack
//! files, together and beside what runs already.
//!
//! Invariants
//! - *nothing is touched*: files are read, no engine and no kernel is asked;
//! - *the same judgement*: labels and conflicts are judged by the code that will serve them;
//! - *one cause, one diagnostic*, with subject, place, reason and remedy.

mod compose;
mod interpolate;
mod routes;
mod world_file;
mod yaml;

use std::fmt;
use std::path::{Path, PathBuf};

use registry::Severity;
use registry::document::{self, FileError, FileErrorKind};
use registry::model::Labels;
use registry::note::Note;
use serde::{Deserialize, Serialize, Serializer};

use crate::config::Config;
use compose::Declared;

/// Checks `files` together, as if they were deployed in this order after what is `live`.
pub fn check(files: &[PathBuf], live: &[LiveService]) -> CheckReport {
    let mut report = CheckReport::default();
    let mut declared = Vec::new();
    for path in files {
        let file = path.display().to_string();
        let found = services(path, &file).unwrap_or_else(|errors| {
            report.take(errors);
            Vec::new()
        });
        declared.extend(found.into_iter().map(|it| (file.clone(), it)));
    }
    routes::judge(&declared, live, &mut report);
    let place = |it: &Diagnostic| {
        let file = files.iter().position(|file| file.display().to_string() == it.file);
        (file, it.line)
    };
    report.diagnostics.sort_by_cached_key(place);
    report
}

/// A service that runs, as the admin API lists it (`/api/v1/services`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct LiveService {
    /// Its id: `PROJECT/SERVICE` for compose.
    pub id: String,
    /// Its name: `STACK_SERVICE` in a Swarm.
    pub name: String,
    /// Its stack or project.
    pub stack: Option<String>,
    /// The names of its networks.
    pub networks: Vec<String>,
    /// Its labels; `None`: not told.
    pub labels: Option<Labels>,
}

/// What was found.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct CheckReport {
    /// Everything, file by file.
    pub diagnostics: Vec<Diagnostic>,
}

/// One thing that is wrong, or not as meant.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Diagnostic {
    /// The file as it was named.
    pub file: String,
    /// Where in it, from 1; 0 where that is not known.
    pub line: usize,
    /// How bad.
    #[serde(serialize_with = "word")]
    pub severity: Severity,
    /// On whom, e.g. `service shop_web`; may be empty.
    pub subject: String,
    /// Where, e.g. a label's key; may be empty.
    pub place: String,
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub remedy: String,
    /// Whether the file could not be understood at all.
    #[serde(skip)]
    pub unreadable: bool,
}

impl CheckReport {
    /// 0: nothing wrong; 1: errors; 2: a file that cannot be read or understood.
    pub fn status(&self) -> u8 {
        let error = |it: &Diagnostic| it.severity == Severity::Error;
        match (self.diagnostics.iter().any(|it| it.unreadable), self.diagnostics.iter().any(error))
        {
            (true, _) => 2,
            (false, true) => 1,
            (false, false) => 0,
        }
    }

    fn take(&mut self, errors: Vec<FileError>) {
        self.diagnostics.extend(errors.into_iter().map(Diagnostic::from));
    }

    fn note(&mut self, file: &str, line: usize, note: &Note) {
        self.diagnostics.push(Diagnostic {
            file: file.to_owned(),
            line,
            severity: note.severity,
            subject: note.subject.clone(),
            place: note.place.clone(),
            text: note.text.clone(),
            remedy: note.remedy.clone(),
            unreadable: false,
        });
    }
}

impl From<FileError> for Diagnostic {
    fn from(error: FileError) -> Self {
        Self {
            file: error.file,
            line: error.line,
            severity: Severity::Error,
            subject: error.subject,
            place: error.place,
            text: error.text,
            remedy: error.remedy,
            unreadable: error.kind == FileErrorKind::Unreadable,
        }
    }
}

/// One line for each diagnostic.
impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.diagnostics.iter().try_for_each(|it| writeln!(f, "{it}"))
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}", self.severity)?;
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

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn word<S: Serializer>(severity: &Severity, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(severity)
}

/// The services that a file declares; a configuration declares none.
fn services(path: &Path, file: &str) -> Result<Vec<Declared>, Vec<FileError>> {
    match path.extension().and_then(|it| it.to_str()) {
        Some("yml" | "yaml" | "json") => {
            let root =
                yaml::parse(&document::read(path)?).map_err(|error| vec![no_yaml(&error, file)])?;
            if root.get("services").is_none() {
                let remedy = "name a compose or stack file, with its services below `services`";
                return Err(vec![FileError::unreadable(file, "declares no `services`", remedy)]);
            }
            Ok(compose::services(&root, &stack_of(path)))
        }
        Some("toml") => {
            let text = document::read(path)?;
            if world_file::is_one(&text, file)? {
                return world_file::services(&text, file);
            }
            let errors = Config::parse(&text, file).err();
            errors.map_or(Ok(Vec::new()), |errors| Err(errors.iter().cloned().collect()))
        }
        _ => {
            let text = "is neither a compose file (.yml) nor a world file or configuration (.toml)";
            Err(vec![FileError::unreadable(file, text, "name a file of one of these kinds")])
        }
    }
}

fn no_yaml(error: &serde_saphyr::Error, file: &str) -> FileError {
    let location = error.location();
    let line = location.and_then(|it| usize::try_from(it.line()).ok()).unwrap_or_default();
    let text = error.without_snippet().to_string();
    let text = registry::note::shown(text.lines().next().unwrap_or_default());
    FileError { line, ..FileError::unreadable(file, format!("not YAML: {text}"), "") }
}

/// The stack that a file makes unless told otherwise: its own name, or its folder's where the file
/// is called as all are (`compose.yml`, `docker-compose.prod.yml`, `stack.yml`).
fn stack_of(path: &Path) -> String {
    let name = |part: Option<&std::ffi::OsStr>| part.and_then(|it| it.to_str()).map(str::to_owned);
    let stem = name(path.file_stem()).unwrap_or_default();
    let first = stem.split('.').next().unwrap_or_default();
    if !["compose", "docker-compose", "stack", "docker-stack"].contains(&first) {
        return stem;
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    name(absolute.parent().and_then(Path::file_name)).unwrap_or(stem)
}

#[cfg(test)]
mod tests;
