//! TLS 1.3 between the data paths of two nodes: both show a certificate of the cluster's own
//! authority, and each checks that the other is the node it means to talk to.

use std::sync::Arc;

use havre_core::ids::NodeId;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, Error as RustlsError, RootCertStore,
    ServerConfig, WantsVerifier,
    client::{WebPkiServerVerifier, verify_server_name},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::{ParsedCertificate, WebPkiClientVerifier},
};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{cluster::authority::host_name, redacted::Redacted};

/// Why two nodes do not trust each other.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TlsError {
    /// Past its end, or before its beginning.
    #[error(
        "the certificate of {whose} is not valid now (valid until {until}): set the clock, or \
         make a new cluster with `havre cluster init`"
    )]
    Expired {
        /// Whose certificate.
        whose: String,
        /// Its end.
        until: String,
    },
    /// Signed by somebody else.
    #[error(
        "{whose} is not a member of this cluster: run `havre cluster join` there with the bundle \
         that belongs to this cluster"
    )]
    NotThisCluster {
        /// Whose certificate.
        whose: String,
    },
    /// A member, but another one.
    #[error(
        "expected node \"{expected}\" but another member answers: check the addresses in \
         cluster.xml"
    )]
    WrongNode {
        /// Who was expected.
        expected: String,
    },
    /// A member that is not in `cluster.xml`.
    #[error("a member answers that is not in cluster.xml: install the same cluster.xml everywhere")]
    UnknownNode,
    /// What is installed here cannot be used.
    #[error("the certificate or key installed here is damaged ({0}): repeat `havre cluster join`")]
    Damaged(String),
    /// The connection broke, or the other side does not speak TLS.
    #[error("secure connection failed: {0}")]
    Connection(String),
}

/// One node's half of the trust between data paths.
#[derive(Debug, Clone)]
pub struct StreamSecurity {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    nodes: Vec<String>,
    certificate: CertificateDer<'static>,
}

impl StreamSecurity {
    /// Makes it from PEM texts. `nodes` are the names of the cluster, in the order of their ids;
    /// `own` is this node's.
    ///
    /// # Errors
    /// The texts are damaged.
    pub fn new(
        authority: &str,
        certificate: &str,
        private_key: &Redacted<String>,
        nodes: Vec<String>,
        own: &str,
    ) -> Result<Self, TlsError> {
        let damaged = |what: &str| TlsError::Damaged(format!("{what} of {own}"));
        let authority = CertificateDer::from_pem_slice(authority.as_bytes())
            .map_err(|_| damaged("authority"))?;
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| damaged("certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(private_key.expose().as_bytes())
            .map_err(|_| damaged("private key"))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority).map_err(|_| damaged("authority"))?;
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(|e| TlsError::Damaged(e.to_string()))?;
        let client = tls13(ClientConfig::builder_with_provider(Arc::clone(&provider)))?
            .with_webpki_verifier(verifier)
            .with_client_auth_cert(vec![certificate.clone()], key.clone_key())
            .map_err(|e| TlsError::Damaged(e.to_string()))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|e| TlsError::Damaged(e.to_string()))?;
        let server = tls13(ServerConfig::builder_with_provider(provider))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.clone()], key)
            .map_err(|e| TlsError::Damaged(e.to_string()))?;
        let (client, server) = (Arc::new(client), Arc::new(server));
        Ok(Self { client, server, nodes, certificate })
    }

    /// Presents this node's certificate when it connects.
    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }

    /// Presents this node's certificate when it is connected to; demands the peer's.
    ///
    /// Whoever uses this directly must check the peer's name: see [`server_name`].
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// The name that the certificate of a node must carry.
    pub fn name_of(&self, node: NodeId) -> Option<ServerName<'static>> {
        server_name(self.nodes.get(usize::from(node.0))?)
    }

    /// The name of a node, for people.
    pub fn name_in_words(&self, node: NodeId) -> &str {
        self.nodes.get(usize::from(node.0)).map_or("?", String::as_str)
    }

    /// The end of this node's own certificate, in words.
    pub fn own_end(&self) -> String {
        end_of(&self.certificate)
    }

    /// Seconds from `now_s` (seconds since 1970) to the end of this node's own certificate.
    pub fn own_rest(&self, now_s: i64) -> Option<i64> {
        let (_, certificate) = X509Certificate::from_der(&self.certificate).ok()?;
        Some(certificate.validity().not_after.timestamp() - now_s)
    }

    /// Connects to `peer` over an open stream.
    ///
    /// # Errors
    /// The other side is not `peer`, or the connection broke.
    pub async fn connect<S>(
        &self,
        stream: S,
        peer: NodeId,
    ) -> Result<client::TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let expected = self.nodes.get(usize::from(peer.0)).ok_or(TlsError::UnknownNode)?;
        let name = self.name_of(peer).ok_or(TlsError::UnknownNode)?;
        let connected = TlsConnector::from(self.client()).connect(name, stream).await;
        connected.map_err(|error| explain(&error, expected))
    }

    /// Accepts a member over an open stream; says which one it is.
    ///
    /// # Errors
    /// The other side is not a member, or the connection broke.
    pub async fn accept<S>(&self, stream: S) -> Result<(NodeId, server::TlsStream<S>), TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let accepted = TlsAcceptor::from(self.server()).accept(stream).await;
        let stream = accepted.map_err(|error| explain(&error, "the connecting machine"))?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let node = shown.and_then(|shown| self.node_in(shown)).ok_or(TlsError::UnknownNode)?;
        Ok((node, stream))
    }

    fn node_in(&self, certificate: &CertificateDer<'_>) -> Option<NodeId> {
        let parsed = ParsedCertificate::try_from(certificate).ok()?;
        let index = self.nodes.iter().position(|name| {
            server_name(name).is_some_and(|name| verify_server_name(&parsed, &name).is_ok())
        })?;
        u16::try_from(index).ok().map(NodeId)
    }
}

/// The name that certificates carry for the node of that name.
pub fn server_name(node: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(host_name(node)).ok()
}

/// What a failed handshake means, in words that lead to the remedy. `whose` is the other side.
pub fn explain(error: &std::io::Error, whose: &str) -> TlsError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<RustlsError>());
    match inner {
        Some(error) => explain_tls(error, whose),
        None => TlsError::Connection(error.to_string()),
    }
}

/// What an error of rustls means. `whose` is the other side.
pub fn explain_tls(error: &RustlsError, whose: &str) -> TlsError {
    use rustls::AlertDescription as Alert;
    let whose = whose.to_owned();
    match error {
        RustlsError::InvalidCertificate(certificate) => match certificate {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => {
                TlsError::Expired { whose, until: until(certificate) }
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                TlsError::WrongNode { expected: whose }
            }
            _ => TlsError::NotThisCluster { whose },
        },
        RustlsError::NoCertificatesPresented => TlsError::NotThisCluster { whose },
        RustlsError::AlertReceived(Alert::CertificateExpired) => {
            let until = "see `havre cluster state` here".to_owned();
            TlsError::Expired { whose: format!("this node, says {whose},"), until }
        }
        RustlsError::AlertReceived(
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::DecryptError,
        ) => TlsError::NotThisCluster { whose: format!("this node, says {whose},") },
        other => TlsError::Connection(other.to_string()),
    }
}

fn until(error: &CertificateError) -> String {
    let seconds = match error {
        CertificateError::ExpiredContext { not_after, .. } => not_after.as_secs(),
        CertificateError::NotValidYetContext { not_before, .. } => not_before.as_secs(),
        _ => return "unknown".to_owned(),
    };
    crate::events::time::date_of(seconds)
}

fn end_of(certificate: &CertificateDer<'_>) -> String {
    X509Certificate::from_der(certificate).map_or_else(
        |_| "unreadable".to_owned(),
        |(_, parsed)| {
            let end = parsed.validity().not_after.timestamp();
            crate::events::time::date_of(u64::try_from(end).unwrap_or(0))
        },
    )
}

fn tls13<S: rustls::ConfigSide>(
    builder: ConfigBuilder<S, rustls::WantsVersions>,
) -> Result<ConfigBuilder<S, WantsVerifier>, TlsError> {
    builder
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| TlsError::Damaged(e.to_string()))
}

#[cfg(test)]
mod tests;
