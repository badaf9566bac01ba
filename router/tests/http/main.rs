//! The router over real sockets: raw clients and curl in front, raw tasks behind.
#![cfg(test)]

mod client;
mod task;
mod world;

mod basics;
