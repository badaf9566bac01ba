//! What this process may ask of the kernel, and the sentence that says what is missing.
//!
//! Always true here: nothing is changed by looking, and every sentence ends with what to do.

use rustix::thread::{CapabilitySet, capabilities};

use crate::netns::Netns;
use crate::nft::{NftError, Socket};

/// What is missing; the text is one sentence with the remedy.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Missing {
    /// `CAP_NET_ADMIN`: nftables, routes, conntrack.
    #[error(
        "portolan may not change the network (CAP_NET_ADMIN is missing): run it with sudo, or try \
         `portolan demo`, which needs no root"
    )]
    NetAdmin,
    /// `CAP_SYS_ADMIN`: entering containers' network namespaces.
    #[error(
        "portolan may not enter containers' network namespaces (CAP_SYS_ADMIN is missing): run it \
         with sudo, or try `portolan demo`, which needs no root"
    )]
    SysAdmin,
    /// The kernel has no nftables.
    #[error(
        "this kernel has no nftables: load it with `modprobe nf_tables`, or run only the router with \
         `portolan up --only router`"
    )]
    Nftables,
}

/// Whether this process may do all that `portolan up` does; the first thing missing otherwise.
pub fn check() -> Result<(), Missing> {
    check_capabilities()?;
    check_nftables()
}

/// Whether this process may enter namespaces and change their networks.
pub fn check_capabilities() -> Result<(), Missing> {
    // Where the kernel does not say, nothing is claimed to be missing: the first use will tell.
    if let Ok(sets) = capabilities(None) {
        if !sets.effective.contains(CapabilitySet::NET_ADMIN) {
            return Err(Missing::NetAdmin);
        }
        if !sets.effective.contains(CapabilitySet::SYS_ADMIN) {
            return Err(Missing::SysAdmin);
        }
    }
    Ok(())
}

/// Whether this kernel speaks nftables at all; asking has it load the module.
pub fn check_nftables() -> Result<(), Missing> {
    let listed = Netns::this().map_err(NftError::from).and_then(|netns| {
        let mut socket = Socket::open(&netns)?;
        socket.tables()
    });
    match listed {
        Err(NftError::Unsupported { .. }) => Err(Missing::Nftables),
        // Any other refusal says itself what it is, at the first use.
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sentence_says_what_to_do() {
        for missing in [Missing::NetAdmin, Missing::SysAdmin, Missing::Nftables] {
            let sentence = missing.to_string();
            let (what, remedy) = sentence.split_once(": ").unwrap();
            assert!(!what.is_empty() && remedy.contains(['`', '=']), "{sentence}");
        }
    }
}
