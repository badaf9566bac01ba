//! The holder itself: one thread that waits for its line to end.
//!
//! Always true here: it holds nothing but what it was told to hold; it ends when the process that
//! started it has ended, and not by a signal that asks; it does not answer, decide or log.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use kernel::nft::Socket;
use kernel::passing::{End, Passed};

use super::line::Order;
use crate::takeover::give_back;

/// Holds what the process at the other end of standard input says, and gives it all back when that
/// process is gone. Returns then.
pub fn hold() -> io::Result<()> {
    kernel::process::ignore_endings();
    kernel::process::set_name(c"portolan-hold")?;
    spare_from_the_killer();
    // Every sandbox is three descriptors here. Without: the later ones are not held.
    kernel::process::raise_descriptor_limit().ok();
    let line = End::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut held = BTreeMap::new();
    while let Ok(Some(passed)) = line.receive() {
        obey(&mut held, passed);
    }
    for sockets in held.values_mut() {
        // Refused where the table is gone: whoever died had removed it, and not yet said so.
        give_back(&mut sockets.owner).ok();
    }
    // All tables first: to close a socket may wait for the kernel.
    drop(held);
    Ok(())
}

/// What is held of one sandbox.
struct Sockets {
    owner: Socket,
    /// Only kept open: what is sent there waits.
    _answering: Vec<OwnedFd>,
}

fn obey(held: &mut BTreeMap<u64, Sockets>, passed: Passed) {
    match Order::read(&passed.octets) {
        Some(Order::Hold(number)) => {
            let mut descriptors = passed.descriptors.into_iter();
            if let Some(Ok(owner)) = descriptors.next().map(Socket::from_descriptor) {
                held.insert(number, Sockets { owner, _answering: descriptors.collect() });
            }
        }
        Some(Order::LetGo(number)) => {
            held.remove(&number);
        }
        None => {}
    }
}

/// It is small, and where memory is short it is needed most.
fn spare_from_the_killer() {
    // Not allowed without CAP_SYS_RESOURCE: then it is as likely a victim as its size makes it.
    std::fs::write("/proc/self/oom_score_adj", "-900").ok();
}
