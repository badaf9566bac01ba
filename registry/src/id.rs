//! Ids are types, so that a network's id is never passed where a service's is meant.
//!
//! An id is an opaque text chosen by the source (the engine's id; the name, in a world file) and
//! cheap to clone. Names are not ids: two networks may share a name.

use std::fmt;
use std::sync::Arc;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Eq, PartialEq, Ord, PartialOrd, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as the source wrote it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    )*};
}

ids! {
    /// A network, by engine id; names are not unique.
    NetworkId;
    /// A service, by Swarm's id, `PROJECT/SERVICE` for compose, the name in a world file.
    ServiceId;
    /// A task or plain container, by Swarm's task id, else the container's id.
    TaskId;
    /// A node of the Swarm, by its node id.
    NodeId;
    /// A network namespace in which names are asked, by its cookie (the name in a world file).
    SandboxId;
}
