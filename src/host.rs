//! What the Docker source needs of this machine's kernel, handed to it here, because the registry
//! knows no kernel.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use kernel::neighbour::{NeighbourWatch, neighbours};
use kernel::netns::{Netns, cookie_of};
use registry::model::Protocol;
use registry::source::docker::host::{Host, Neighbour};
use tokio::sync::mpsc;

/// This machine.
#[derive(Debug)]
pub struct ThisHost {
    engine: resolver::EngineClient,
}

impl ThisHost {
    /// Opens what is needed to ask the engine's resolvers.
    pub fn open() -> Result<Self, kernel::netns::NetnsError> {
        Ok(Self { engine: resolver::EngineClient::open()? })
    }
}

impl Host for ThisHost {
    fn netns_cookie(&self, path: &Path) -> io::Result<u64> {
        cookie_of(path).map_err(io::Error::other)
    }

    fn netns_addresses(&self, path: &Path) -> io::Result<Vec<IpAddr>> {
        let held = Netns::open(path).map_err(io::Error::other)?;
        let held = kernel::route::addresses(&held).map_err(io::Error::other)?;
        Ok(held.into_iter().map(|(_, address)| address.addr()).collect())
    }

    fn neighbours(&self, path: &Path) -> io::Result<Vec<Neighbour>> {
        let overlay = Netns::open(path).map_err(io::Error::other)?;
        let found = neighbours(&overlay).map_err(io::Error::other)?.into_iter();
        let far = found.filter_map(|it| Some(Neighbour { address: it.address, node: it.tunnel? }));
        Ok(far.collect())
    }

    fn redirected_ports(&self, path: &Path) -> io::Result<Vec<(u16, u16, Protocol)>> {
        let netns = Netns::open(path).map_err(io::Error::other)?;
        vip::mesh::redirected_ports(&netns).map_err(io::Error::other)
    }

    fn host_cookie(&self) -> io::Result<u64> {
        Netns::this().and_then(|netns| netns.cookie()).map_err(io::Error::other)
    }

    fn interface_index(&self, name: &str) -> Option<u32> {
        let host = Netns::this().ok()?;
        kernel::route::interface_index(&host, name).ok()
    }

    #[expect(clippy::manual_async_fn, reason = "the trait wants it free of `self`'s lifetime")]
    fn watch_neighbours(
        &self,
        path: PathBuf,
        nudge: mpsc::Sender<()>,
    ) -> impl Future<Output = ()> + Send + 'static {
        async move {
            let mut watch = match NeighbourWatch::open(&path) {
                Ok(watch) => watch,
                Err(error) => {
                    tracing::debug!(path = %path.display(), %error, "neighbours are not watched");
                    return;
                }
            };
            while watch.changed().await.is_some() {
                // A full queue says what this one would.
                if let Err(mpsc::error::TrySendError::Closed(())) = nudge.try_send(()) {
                    return;
                }
            }
        }
    }

    async fn engine_tasks(&self, path: &Path, name: &str) -> Option<Vec<Ipv4Addr>> {
        self.engine.addresses(path, name).await
    }
}
