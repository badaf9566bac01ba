//! Lets clients forget tasks that have no slot any more.
//!
//! Always true here: what a client has learned of a task that has one stays, and so does the order
//! of things: rules learn only such tasks ([`crate::layout::KEPT`]), so that what is deleted after
//! a transaction does not come back.

use kernel::nft::{Batch, Element, ElementValue, NftError, Socket};

use crate::family::IpFamily;
use crate::layout::AFFINE;
use crate::plan::Balances;
use crate::ruleset::Held;

/// What is learned may run out between reading and deleting, and then nothing is deleted.
const ATTEMPTS: u32 = 8;

/// Makes clients forget what `held` does not let them keep. Cheap where no service keeps clients.
pub(crate) fn forget(socket: &mut Socket, held: &Held) -> Result<(), NftError> {
    for (family, shape) in &held.tables {
        if shape.capacity.clients > 0 {
            forget_in(socket, *family, &held.balances)?;
        }
    }
    Ok(())
}

fn forget_in(socket: &mut Socket, family: IpFamily, balances: &Balances) -> Result<(), NftError> {
    let mut attempts = 0;
    loop {
        let learned = socket.elements(family.table(), AFFINE)?;
        let stale: Vec<_> = learned
            .into_iter()
            .filter(|it| !may_stay(it, family, balances).unwrap_or(false))
            .map(|it| it.key)
            .collect();
        if stale.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.delete_elements(family.table(), AFFINE, &stale);
        attempts += 1;
        match socket.commit(&batch) {
            Err(error) if error.is_absent() && attempts < ATTEMPTS => {}
            done => return done,
        }
    }
}

/// `None`: no rule of ours learns such a thing.
fn may_stay(element: &Element, family: IpFamily, balances: &Balances) -> Option<bool> {
    let (_client, vip) = family.split(&element.key)?;
    let balance = balances.get(&family.read(vip)?)?;
    let ElementValue::Data(task) = &element.value else { return None };
    Some(balance.affine && balance.slots.contains(&family.read(task)?))
}
