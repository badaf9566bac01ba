//! Whether a reply from outside leads a client inside: public names with private addresses.
//!
//! Invariants
//! - *a filter only*: it says what a reply holds, and changes nothing.
//!
//! Pure.
