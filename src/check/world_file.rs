//! World files -> the services that they declare, with the places of their labels.

use std::collections::BTreeMap;

use registry::Notes;
use registry::document::{Document, FileError, Table, Value};
use registry::source::world;

use super::compose::Declared;

/// Whether a TOML file is a world file; everything else is a configuration.
pub(super) fn is_one(text: &str, file: &str) -> Result<bool, Vec<FileError>> {
    let document = Document::parse(text, file)?;
    let kinds = ["network", "service", "task", "sandbox", "node", "this_node"];
    let root = document.root();
    Ok(kinds.iter().any(|kind| root.has(kind) || root.has(&format!("{kind}s"))))
}

/// The services of a world file.
pub(super) fn services(text: &str, file: &str) -> Result<Vec<Declared>, Vec<FileError>> {
    let draft = world::parse(text, file)?;
    let document = Document::parse(text, file)?;
    let mut places: BTreeMap<String, (usize, BTreeMap<String, usize>)> = BTreeMap::new();
    for table in document.root().tables("service") {
        let Some(name) = table.get("name", Value::text) else { continue };
        let mut lines = BTreeMap::new();
        if let Some(labels) = table.table("labels") {
            collect(&document, "", &labels, &mut lines);
        }
        places.insert(name, (document.line(table.at_key("name")), lines));
    }
    let declared = draft.services.into_iter().map(|service| {
        let (line, lines) = places.remove(&service.name).unwrap_or_default();
        Declared { service, line, lines, notes: Notes::default() }
    });
    Ok(declared.collect())
}

/// The lines of labels, those written as tables within tables (`com.docker.lb.port = 80`) included.
fn collect(
    document: &Document<'_>,
    prefix: &str,
    labels: &Table<'_>,
    lines: &mut BTreeMap<String, usize>,
) {
    for (key, value) in labels.entries() {
        let label = format!("{prefix}{}", key.value);
        match value.table() {
            // Depth is bounded by the TOML parser.
            Some(inner) => collect(document, &format!("{label}."), &inner, lines),
            None => drop(lines.insert(label, document.line(key.at))),
        }
    }
}
