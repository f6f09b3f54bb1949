//! TLS for the lab's API server: the certificate and key of `netlab/tls`, and kubeconfigs that
//! trust it, or another. Knows nothing of Kubernetes but the form of a kubeconfig. Tests: below, and
//! with the scenarios.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// What turns connections into TLS ones.
pub(super) type Acceptor = TlsAcceptor;

/// The CA that signed the server's certificate, PEM.
pub const CA: &str = include_str!("../../tls/ca.pem");
/// A CA that signed nothing, PEM.
pub const STRANGER_CA: &str = include_str!("../../tls/stranger-ca.pem");
/// A client certificate that the server knows, with its key, PEM.
pub const CLIENT: (&str, &str) =
    (include_str!("../../tls/client.pem"), include_str!("../../tls/client.key"));
const CLIENT_CA: &str = include_str!("../../tls/client-ca.pem");
const CERTIFICATE: &str = include_str!("../../tls/server.pem");
const KEY: &str = include_str!("../../tls/server.key");

/// Whether clients have to show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clients {
    /// Anybody may connect.
    #[default]
    Anybody,
    /// Only who has a certificate signed by the lab's CA for clients.
    WithCertificate,
}

fn verifier(clients: Clients) -> Result<Arc<dyn ClientCertVerifier>, String> {
    if clients == Clients::Anybody {
        return Ok(WebPkiClientVerifier::no_client_auth());
    }
    let failed = |e: &dyn std::fmt::Display| format!("the lab's CA for clients: {e}");
    let ca = CertificateDer::from_pem_slice(CLIENT_CA.as_bytes()).map_err(|e| failed(&e))?;
    let mut roots = RootCertStore::empty();
    roots.add(ca).map_err(|e| failed(&e))?;
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    verifier.map_err(|e| failed(&e)).map(|verifier| verifier as Arc<dyn ClientCertVerifier>)
}

pub(super) fn acceptor(clients: Clients) -> Result<Acceptor, String> {
    let failed = |e: &dyn std::fmt::Display| format!("the lab's TLS certificate: {e}");
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).map_err(|e| failed(&e))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?
        .with_client_cert_verifier(verifier(clients)?)
        .with_single_cert(vec![certificate.map_err(|e| failed(&e))?], key)
        .map_err(|e| failed(&e))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A kubeconfig for a server, with the CA to trust (a file) and a token to show.
pub fn kubeconfig(server: &str, ca: &str, token: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{"name": "lab",
            "cluster": {"server": server, "certificate-authority": ca}}],
        "users": [{"name": "kube-proxy", "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "kube-proxy"}}],
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_certificate_and_its_key_belong_together() {
        for clients in [super::Clients::Anybody, super::Clients::WithCertificate] {
            assert_eq!(super::acceptor(clients).map(|_| ()), Ok(()));
        }
    }
}
