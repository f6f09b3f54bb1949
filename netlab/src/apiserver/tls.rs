//! TLS for the lab's API server: the certificate and key of `netlab/tls`, and kubeconfigs that
//! trust it, or another. Knows nothing of Kubernetes but the form of a kubeconfig. Tests: below, and
//! with the scenarios.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What turns connections into TLS ones.
pub(super) type Acceptor = TlsAcceptor;

/// The CA that signed the server's certificate, PEM.
pub const CA: &str = include_str!("../../tls/ca.pem");
/// A CA that signed nothing, PEM.
pub const STRANGER_CA: &str = include_str!("../../tls/stranger-ca.pem");
const CERTIFICATE: &str = include_str!("../../tls/server.pem");
const KEY: &str = include_str!("../../tls/server.key");

pub(super) fn acceptor() -> Result<Acceptor, String> {
    let failed = |e: &dyn std::fmt::Display| format!("the lab's TLS certificate: {e}");
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).map_err(|e| failed(&e))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?
        .with_no_client_auth()
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
        assert_eq!(super::acceptor().map(|_| ()), Ok(()));
    }
}
