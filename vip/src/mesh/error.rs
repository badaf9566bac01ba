//! Why a namespace does not lead published ports as planned.

use std::net::Ipv4Addr;

use kernel::conntrack::ConntrackError;
use kernel::netns::NetnsError;
use kernel::nft::NftError;
use kernel::provoke::ProvokeError;
use kernel::route::RouteError;

use super::firewall::FirewallError;
use super::sysctls::SysctlsError;

/// Why a namespace does not lead published ports as planned.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// It could not be entered.
    #[error(transparent)]
    Namespace(#[from] NetnsError),
    /// The table could not be written or read.
    #[error(transparent)]
    Table(#[from] NftError),
    /// Interfaces or routes could not be read or changed.
    #[error(transparent)]
    Routes(#[from] RouteError),
    /// What the mesh needs of the kernel could not be set.
    #[error(transparent)]
    Sysctls(#[from] SysctlsError),
    /// The engine's firewall does not let connections pass.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// Flows to tasks that are gone could not be ended.
    #[error("cannot cut connections to tasks that are gone")]
    Flows(#[from] ConntrackError),
    /// Clients of such flows could not be told.
    #[error(transparent)]
    Clients(#[from] ProvokeError),
    /// The plan is ahead of the namespace, or behind it.
    #[error("no interface has the address {0}, by which replies would leave")]
    NoInterface(Ipv4Addr),
    /// The engine connects a container to one network after the other.
    #[error("it has no way out yet beside the ingress network")]
    NoWayOut,
    /// The engine's namespace for the mesh is not connected on both sides.
    #[error("the engine has not connected its namespace for the mesh yet")]
    NotConnected,
}

impl MeshError {
    /// What the operator can do about it, where there is something to do.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Namespace(error) => error.remedy(),
            Self::Table(error) => error.remedy(),
            Self::Routes(error) => error.remedy(),
            Self::Sysctls(SysctlsError::Kernel(error)) => error.remedy(),
            Self::Sysctls(SysctlsError::File { .. }) => {
                Some("make `state_dir` writable and see that its disk is not full")
            }
            Self::Firewall(_) => Some("see `iptables -S DOCKER-USER` and what it says"),
            Self::Flows(error) => error.remedy(),
            Self::Clients(_) => Some("run portolan as root or with CAP_NET_RAW"),
            Self::NoInterface(_) | Self::NoWayOut | Self::NotConnected => None, // being connected or disconnected
        }
    }
}
