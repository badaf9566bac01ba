//! DNS over TLS (RFC 7858): whom the servers' certificates are believed from, and the one way to
//! each server.
//!
//! Invariants
//! - *strict* (RFC 8310 section 5): who is asked over TLS has shown a certificate for the name that
//!   the operator wrote, or for the address; there is no way to it in clear;
//! - *one connection to a server*, whoever asks: servers are the operator's and dialled from the
//!   host.

pub(crate) mod line;
mod trouble;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use registry::model::Dial;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, pem};
use rustls::{ClientConfig, RootCertStore};

pub(crate) use self::trouble::Trouble;

use self::line::Line;
use super::UpstreamConfig;
use super::server::{Protocol, Server};

/// Who may vouch for servers that are asked over TLS.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Authorities {
    /// Those that this machine trusts (`SSL_CERT_FILE`, else the system's own store).
    #[default]
    System,
    /// These and no others (`dns.tls_ca`).
    Only(Vec<CertificateDer<'static>>),
}

/// Why a file names no authorities.
#[derive(Debug, thiserror::Error)]
pub enum BadAuthorities {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[source] std::io::Error),
    /// Longer than [`Authorities::MAX_BYTES`].
    #[error("is longer than {} bytes", Authorities::MAX_BYTES)]
    Long,
    /// What it holds is not PEM.
    #[error("is not PEM: {0}")]
    Pem(#[source] pem::Error),
    /// There is no certificate in it.
    #[error("holds no certificate")]
    Empty,
    /// A certificate in it cannot vouch for others.
    #[error("holds as number {number} a certificate that cannot be used: {source}")]
    Unusable {
        /// Which, from 1.
        number: usize,
        /// Why.
        source: rustls::Error,
    },
}

impl Authorities {
    /// More than any system's whole store has.
    pub const MAX_BYTES: u64 = 4 << 20;

    /// The certificates in the PEM file at `path`, each of which must be of use.
    pub fn read(path: &Path) -> Result<Self, BadAuthorities> {
        let mut text = Vec::new();
        let file = std::fs::File::open(path).map_err(BadAuthorities::Read)?;
        file.take(Self::MAX_BYTES + 1).read_to_end(&mut text).map_err(BadAuthorities::Read)?;
        if text.len() as u64 > Self::MAX_BYTES {
            return Err(BadAuthorities::Long);
        }
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let certificates = certificates.map_err(BadAuthorities::Pem)?;
        if certificates.is_empty() {
            return Err(BadAuthorities::Empty);
        }
        let mut store = RootCertStore::empty();
        for (certificate, number) in certificates.iter().zip(1..) {
            let added = store.add(certificate.clone());
            added.map_err(|source| BadAuthorities::Unusable { number, source })?;
        }
        Ok(Self::Only(certificates))
    }

    fn store(&self) -> RootCertStore {
        let mut store = RootCertStore::empty();
        let certificates = match self {
            Self::Only(certificates) => certificates.clone(),
            Self::System => {
                let found = rustls_native_certs::load_native_certs();
                for error in &found.errors {
                    tracing::warn!(%error, "cannot read some of this machine's authorities");
                }
                found.certs
            }
        };
        // Systems carry some that nobody can read any more.
        let (trusted, _unread) = store.add_parsable_certificates(certificates);
        if trusted == 0 {
            tracing::warn!(
                "this machine trusts no authority, so that no server over TLS is believed; \
                 install its CA certificates, or name a file in `dns.tls_ca`"
            );
        }
        store
    }
}

/// The ways to all servers that the operator wants to be asked over TLS.
#[derive(Debug, Default)]
pub(crate) struct Lines(BTreeMap<Server, Arc<Line>>);

impl Lines {
    /// To those that `config` names. None is connected to before it is asked.
    pub(crate) fn new(config: &UpstreamConfig) -> Self {
        let servers = config.servers.iter().chain(config.suffixes.values().flatten());
        let named: Vec<_> = servers.filter_map(|it| Some((it, certified(it)?))).collect();
        if named.is_empty() {
            return Self::default(); // the system's store is not read for nobody
        }
        match client(config.authorities.store()) {
            Ok(client) => {
                let client = Arc::new(client);
                let line = |(server, name): (&Server, _)| {
                    (server.clone(), Arc::new(Line::new(server.address, name, &client)))
                };
                Self(named.into_iter().map(line).collect())
            }
            Err(error) => {
                tracing::error!(%error, "no TLS; servers that are to be asked over it are not");
                Self::default()
            }
        }
    }

    /// The way to `server`; `None`: it is not asked over TLS, or cannot be.
    pub(crate) fn to(&self, server: &Server) -> Option<&Arc<Line>> {
        self.0.get(server)
    }
}

/// What its certificate must be for; `None`: it is not asked over TLS from the host.
fn certified(server: &Server) -> Option<ServerName<'static>> {
    match (&server.protocol, server.dial) {
        (Protocol::Tls(Some(name)), Dial::Host) => ServerName::try_from(name.to_string()).ok(),
        (Protocol::Tls(None), Dial::Host) => Some(server.address.ip().into()),
        (Protocol::Plain, _) | (Protocol::Tls(_), Dial::Sandbox) => None,
    }
}

fn client(roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
