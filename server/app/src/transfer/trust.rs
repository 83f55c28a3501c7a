//! Trust in the certificates that the user names with `--cacert`, and in no others.
//!
//! As with curl, the file may have an authority's certificate or the server's own, which is
//! self-signed. Programs mark a self-signed certificate as an authority by default (`CA:TRUE`), and
//! the usual rules (RFC 5280) refuse such a certificate for a server. The user's own copy needs no
//! issuer: the server's certificate is accepted if it is the same, is for the server's name, and
//! has not expired.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use super::error::Error;

/// Returns the TLS configuration that trusts only the certificates in a PEM file.
pub(super) fn only(path: &Path, http2: bool) -> Result<ClientConfig, Error> {
    let pem = std::fs::read(path).map_err(|source| Error::Local {
        doing: "read",
        path: path.to_owned(),
        source,
    })?;
    let fail = |what: &str| Error::Setup(format!("{} {what}", path.display()));
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| fail("is no PEM file of certificates"))?;
    if certificates.is_empty() {
        return Err(fail(
            "has no certificate; one begins with -----BEGIN CERTIFICATE-----",
        ));
    }
    let named = Named::new(certificates).map_err(|error| fail(&error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Setup(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(named))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    if !http2 {
        config.alpn_protocols.push(b"http/1.1".to_vec());
    }
    Ok(config)
}

/// Verifier with the certificates that the user has named.
#[derive(Debug)]
struct Named {
    certificates: Vec<CertificateDer<'static>>,
    /// Verifier for certificates that an authority among them has signed.
    usual: Arc<WebPkiServerVerifier>,
}

impl Named {
    fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            let added = roots.add(certificate.clone());
            added.map_err(|error| format!("has a certificate that cannot be read: {error}"))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| format!("cannot be used: {error}"))?;
        Ok(Self {
            certificates,
            usual,
        })
    }
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let usual = self.usual.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        let is_named = self.certificates.iter().any(|named| named == end_entity);
        match usual {
            // The only fault is the issuer or the mark of an authority: validity dates are checked
            // earlier.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::Other(_),
            )) if is_named => {
                let parsed = ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&parsed, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            usual => usual,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}
