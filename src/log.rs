//! Logs go to stderr, one line an event.

use tracing_subscriber::EnvFilter;

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging at `level` (`error`, `warn`, `info`, `debug`, or a `tracing` filter such as
/// `info,resolver=debug`). Called once, by the verb.
pub fn init(format: Format, level: &str) {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // That somebody else (a test) logs already is fine.
    match format {
        Format::Text => builder.with_ansi(false).with_target(false).try_init().ok(),
        Format::Json => builder.json().try_init().ok(),
    };
}
