//! The world file: the whole model by hand, for hosts without Docker, tests and the demo.
//!
//! A public format (TOML), documented in the README. A file with any mistake gives no world at all,
//! and all its mistakes at once, each with its line: half a world would be believed.
//!
//! Steps: `read` gives what each table says, `link` what the tables say of each other (`once`: what
//! only one of them may have), `watch` follows the file.

mod link;
mod once;
mod read;
mod watch;

use std::path::Path;

use crate::document::{self, Document, FileError};
use crate::snapshot::Draft;

pub use watch::{Follower, open};

/// Reads a world file. `file` is how its mistakes name it.
pub fn parse(text: &str, file: &str) -> Result<Draft, Vec<FileError>> {
    let document = Document::parse(text, file)?;
    let raw = read::read(&document);
    let draft = link::link(&document, &raw);
    document.finish(draft)
}

/// Reads the world file at `path`.
pub fn load(path: &Path) -> Result<Draft, Vec<FileError>> {
    let file = path.display().to_string();
    parse(&document::read(path)?, &file)
}
