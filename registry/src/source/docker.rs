//! Reads a Docker engine, manager or worker, and follows it live.

pub mod host;
