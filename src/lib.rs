//! The program's parts: the command line and its verbs, configuration, supervision of source and
//! consumers, the admin socket, and the demo.

pub mod admin;
pub mod check;
pub mod cleanup;
pub mod cli;
pub mod config;
pub mod demo;
pub mod exec;
pub mod host;
mod judging;
pub mod log;
pub mod supervise;
mod thrift;
pub mod verify;
