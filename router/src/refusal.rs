//! Why a request is not served: a status and one line for whoever sent it.

use std::borrow::Cow;

use hyper::StatusCode;

/// An answer that the router gives instead of a task.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Refusal {
    /// The status.
    pub(crate) status: StatusCode,
    /// The reason, one line without full stop and line end; shown to the client.
    pub(crate) text: Cow<'static, str>,
}

impl Refusal {
    /// A refusal that says why.
    pub(crate) fn new(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self { status, text: text.into() }
    }
}
