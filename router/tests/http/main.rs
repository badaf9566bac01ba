//! The router over real sockets: raw clients and curl in front, tasks that say what a test tells
//! them behind.
#![cfg(test)]

mod client;
mod task;
mod world;

mod basics;
mod bodies;
mod changes;
mod hostile;
mod netns;
mod upstream;
