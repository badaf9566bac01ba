//! What upstream servers said, for as long as they said it holds.
//!
//! Invariants
//! - *bounded*: all caches of the process together hold no more octets than their budget;
//! - *asked for*: nothing is kept under another name than the question's.
//!
//! Pure: the clock is an argument.
