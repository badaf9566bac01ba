//! A name server: where it is, how it is spoken to, and from where.
//!
//! Always true here: a server that was read from text can be written as text that reads the same.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use registry::model::{Dial, Upstream};
use rustls::pki_types::ServerName;

/// A name server that may be asked.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct Server {
    /// Its address and port.
    pub address: SocketAddr,
    /// The namespace to dial from.
    pub dial: Dial,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Whether its word that it checked signatures (AD) is passed on (`options trust-ad` of
    /// resolv.conf(5)); else whoever is on the way could have said it (RFC 6840 section 5.8).
    pub trusts_ad: bool,
}

/// How a name server is spoken to.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Protocol {
    /// UDP, and TCP for what does not fit.
    Plain,
    /// DNS over TLS (RFC 7858); the certificate is for this name, else for the address.
    Tls(Option<Arc<str>>),
}

/// Why a text names no server.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadServer {
    /// What stands before `#` is no address.
    #[error("is not the address of a name server")]
    Address,
    /// Port 0.
    #[error("has port 0, where nobody listens")]
    Port,
    /// A name where no certificate is looked at.
    #[error("has a name for a certificate, but does not begin with `tls://`")]
    NameWithoutTls,
    /// What stands behind `#` can be in no certificate.
    #[error("has behind `#` what cannot be a server's name")]
    Name,
}

impl Server {
    /// How many are asked at most about a name, as resolv.conf has it (MAXNS).
    pub const MAX: usize = 3;

    /// Spoken to in plain DNS.
    pub fn plain(upstream: Upstream) -> Self {
        let Upstream { address, dial } = upstream;
        Self { address, dial, protocol: Protocol::Plain, trusts_ad: false }
    }

    /// Whether it is of this machine or its own networks, so that it may know names and addresses
    /// that mean nothing elsewhere (RFC 6303 section 4, RFC 8375 section 4).
    pub fn is_private(&self) -> bool {
        match self.address.ip().to_canonical() {
            IpAddr::V4(it) => it.is_private() || it.is_loopback() || it.is_link_local(),
            IpAddr::V6(it) => {
                it.is_loopback() || it.is_unique_local() || it.is_unicast_link_local()
            }
        }
    }
}

/// `IP`, `IP:PORT`, `tls://IP`, `tls://IP:PORT#NAME`; dialled from the host.
impl FromStr for Server {
    type Err = BadServer;

    fn from_str(text: &str) -> Result<Self, BadServer> {
        let (text, tls) = match text.trim().strip_prefix("tls://") {
            Some(rest) => (rest, true),
            None => (text.trim(), false),
        };
        let (place, name) = match text.split_once('#') {
            Some((place, name)) => (place, Some(name)),
            None => (text, None),
        };
        let port = if tls { TLS_PORT } else { PLAIN_PORT };
        let bare = place.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, port));
        let address = bare.or_else(|| place.parse().ok()).ok_or(BadServer::Address)?;
        if address.port() == 0 {
            return Err(BadServer::Port);
        }
        let protocol = match (tls, name) {
            (false, None) => Protocol::Plain,
            (false, Some(_)) => return Err(BadServer::NameWithoutTls),
            (true, None) => Protocol::Tls(None),
            (true, Some(name)) => match ServerName::try_from(name) {
                Ok(_) => Protocol::Tls(Some(name.into())),
                Err(_invalid) => return Err(BadServer::Name),
            },
        };
        Ok(Self { address, dial: Dial::Host, protocol, trusts_ad: false })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.protocol {
            Protocol::Plain => self.address.fmt(f),
            Protocol::Tls(None) => write!(f, "tls://{}", self.address),
            Protocol::Tls(Some(name)) => write!(f, "tls://{}#{name}", self.address),
        }
    }
}

/// DNS (RFC 1035 section 4.2).
const PLAIN_PORT: u16 = 53;
/// DNS over TLS (RFC 7858 section 3.1).
const TLS_PORT: u16 = 853;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_with_the_ports_that_go_without_saying() {
        for (text, shown) in [
            ("10.0.0.53", "10.0.0.53:53"),
            (" 10.0.0.54:5353 ", "10.0.0.54:5353"),
            ("fd00::1", "[fd00::1]:53"),
            ("[fd00::1]:54", "[fd00::1]:54"),
            ("tls://1.2.3.4", "tls://1.2.3.4:853"),
            ("tls://1.2.3.4:8853#dns.example", "tls://1.2.3.4:8853#dns.example"),
            ("tls://2001:db8::1#dns.example", "tls://[2001:db8::1]:853#dns.example"),
        ] {
            let server: Server = text.parse().unwrap();
            assert_eq!(server.to_string(), shown);
            assert_eq!(shown.parse(), Ok(server));
        }
    }

    #[test]
    fn what_is_no_server_says_why() {
        for (text, why) in [
            ("dns.example", BadServer::Address),
            ("", BadServer::Address),
            ("10.0.0.1:53:53", BadServer::Address),
            ("https://1.2.3.4", BadServer::Address),
            ("tls://dns.example", BadServer::Address),
            ("10.0.0.1:0", BadServer::Port),
            ("10.0.0.1#dns.example", BadServer::NameWithoutTls),
            ("tls://1.2.3.4#", BadServer::Name),
            ("tls://1.2.3.4#a b", BadServer::Name),
        ] {
            assert_eq!(text.parse::<Server>(), Err(why), "{text}");
        }
    }

    #[test]
    fn servers_of_ones_own_networks_are_private_and_those_of_the_world_are_not() {
        let private = |text: &str| text.parse::<Server>().unwrap().is_private();
        for text in ["10.1.2.3", "172.31.0.1", "192.168.1.1", "127.0.0.53", "fd00::1", "fe80::1"] {
            assert!(private(text), "{text}");
        }
        assert!(private("::ffff:10.0.0.1") && private("169.254.169.253"));
        for text in ["9.9.9.9", "172.32.0.1", "2620:fe::fe", "100.64.0.1", "::ffff:9.9.9.9"] {
            assert!(!private(text), "{text}");
        }
    }
}
