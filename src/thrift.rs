//! Gives memory back once a change of the world is made true: to read a world, to compile it and to
//! write it into many sandboxes takes several times what is kept of it.
//!
//! Always true here: no sooner than the parts are done, unless one takes very long, and not often,
//! whatever happens.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::supervise::{Live, ready};

/// A world that changed for less than this may change again.
const QUIET: Duration = Duration::from_millis(500);

/// A part that is not done by then will not be soon.
const LATEST: Duration = Duration::from_secs(10);

/// What the last parts leave, and a world that is read again and found to be the same, is seen to
/// after this.
const AFTERWARDS: Duration = Duration::from_secs(10);

/// The shortest time between two times: each costs some milliseconds of a processor.
const PAUSE: Duration = Duration::from_secs(1);

/// Follows `live` until `stop`, or until the source ends.
pub(crate) async fn give_back(live: Live, stop: CancellationToken) {
    stop.run_until_cancelled(follow(live)).await;
}

async fn follow(live: Live) {
    let mut world = live.world.clone();
    let mut again = false;
    loop {
        if again {
            match timeout(AFTERWARDS, world.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_closed)) => return,
                Err(_quiet) => {
                    again = false;
                    give_all_back().await;
                    continue;
                }
            }
        } else if world.changed().await.is_err() {
            return;
        }
        sleep(QUIET).await;
        let _late = timeout(LATEST, ready(&live)).await;
        give_all_back().await;
        again = true;
        sleep(PAUSE).await;
    }
}

async fn give_all_back() {
    let _panicked = tokio::task::spawn_blocking(kernel::memory::give_back).await;
}
