//! The cluster's own certificate authority.
//!
//! Certificates begin in 1975 and end twenty years after they were made: a machine whose clock
//! battery is empty must still replicate, and a short life stops clusters that nobody looks
//! after (reference: safekit.md section 6.6). Another set of members is a new cluster, made by
//! another `havre cluster init`.

use havre_core::ids::ClusterId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use thiserror::Error;

use super::hex;
use crate::redacted::Redacted;

/// Years for which certificates are valid.
pub const VALID_YEARS: i32 = 20;

/// A year that has certainly begun: clocks that show an earlier one are not set.
const YEAR_MIN: i32 = 2026;

/// A certificate cannot be made.
#[derive(Debug, Error)]
#[error("cannot make a certificate: {0}")]
pub struct CertificateError(#[from] rcgen::Error);

/// Signs the certificates of a cluster's members. Exists only while the cluster is made: its
/// private key is never stored.
#[derive(Debug)]
pub struct Authority {
    certificate: String,
    params: CertificateParams,
    key: Redacted<KeyPair>,
    year: i32,
}

/// A member's certificate and its private key.
#[derive(Debug)]
pub struct NodeCertificate {
    /// The certificate, PEM.
    pub pem: String,
    /// The private key, PEM.
    pub key_pem: Redacted<String>,
}

impl Authority {
    /// Makes the authority of a new cluster in the given year.
    ///
    /// # Errors
    /// The operating system gives no randomness.
    pub fn create(cluster: ClusterId, year: i32) -> Result<Self, CertificateError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.not_after = date_time_ymd(year + VALID_YEARS, 12, 31);
        params.distinguished_name = named(&authority_name(cluster));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, params, key: Redacted::new(key), year })
    }

    /// Its own certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Makes the certificate of the member of that name.
    ///
    /// # Errors
    /// The operating system gives no randomness.
    pub fn issue(&self, name: &str) -> Result<NodeCertificate, CertificateError> {
        let key = KeyPair::generate()?;
        let issuer = Issuer::from_params(&self.params, self.key.expose());
        let mut params = CertificateParams::new(vec![host_name(name)])?;
        params.not_after = date_time_ymd(self.year + VALID_YEARS, 12, 31);
        params.distinguished_name = named(name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let pem = params.signed_by(&key, &issuer)?.pem();
        Ok(NodeCertificate { pem, key_pem: Redacted::new(key.serialize_pem()) })
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// The name of a cluster's authority.
pub fn authority_name(cluster: ClusterId) -> String {
    format!("Havre cluster {}", hex::of_u64(cluster.0))
}

/// The name of a node as certificates carry it: itself if it is a plain host name, otherwise its
/// bytes in hexadecimal, so that different names never become equal.
pub fn host_name(node: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_plain = !node.is_empty()
        && node.len() <= 63
        && node.chars().all(plain)
        && !node.starts_with(|c: char| c == '-' || c.is_ascii_digit())
        && !node.ends_with('-')
        && !node.starts_with("x--");
    if is_plain {
        return node.to_owned();
    }
    let digits = hex::of(node.as_bytes());
    let labels: Vec<String> = digits
        .as_bytes()
        .chunks(60)
        .map(|c| format!("x--{}", String::from_utf8_lossy(c)))
        .collect();
    if labels.is_empty() { "x--".to_owned() + "0" } else { labels.join(".") }
}

/// The year of a moment given in milliseconds since 1970; not before a year that has certainly
/// begun.
pub fn year_of(now_ms: u64) -> i32 {
    let days = i64::try_from(now_ms / 86_400_000).unwrap_or(0);
    let (year, _, _) = crate::events::time::civil_of_days(days);
    i32::try_from(year).unwrap_or(YEAR_MIN).clamp(YEAR_MIN, 9_000)
}
