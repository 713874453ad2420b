//! TLS for feeds: one connector for each distinct set of options, shared by all feeds that have
//! them.
//!
//! Owns the options, loading certificates, and the connectors. Each connector holds the whole CA
//! store, some megabytes: they are made when first needed, and anew after a day, so that new
//! certificates and revoked CAs are noticed.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use native_tls::{Certificate, Identity, TlsConnector};

use crate::clock::{Mono, mono_now};

/// A connector is used so long, then made anew from the files.
const CONNECTOR_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Certificates and keys are not larger than this.
const PEM_BYTES_MAX: u64 = 4 << 20;

/// How a feed's server is verified, and how we show who we are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct TlsOptions {
    /// PEM file of CA certificates trusted beside the system's.
    pub cacert: Option<PathBuf>,
    /// PEM file of the client certificate and its chain.
    pub cert: Option<PathBuf>,
    /// PEM file of its private key, PKCS#8.
    pub key: Option<PathBuf>,
    /// Verify nothing.
    pub insecure: bool,
}

/// Makes and keeps the connectors.
#[derive(Default)]
pub struct TlsConnectors {
    made: Mutex<HashMap<TlsOptions, (Mono, TlsConnector)>>,
}

impl TlsConnectors {
    /// Certificates may have changed: connectors are made anew when they are next needed.
    pub fn forget(&self) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The connector for these options.
    ///
    /// # Errors
    /// A file can't be read, or does not hold what it should: a sentence that names it.
    pub fn get(&self, options: &TlsOptions) -> Result<TlsConnector, String> {
        let now = mono_now();
        // Held while files are read: feeds with the same options wait for one load of the store.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, connector)) = made.get(options)
            && now.since(*since) < CONNECTOR_AGE_MAX
        {
            return Ok(connector.clone());
        }
        let connector = build(options)?;
        made.insert(options.clone(), (now, connector.clone()));
        Ok(connector)
    }
}

fn build(options: &TlsOptions) -> Result<TlsConnector, String> {
    #[cfg(test)]
    BUILT.set(BUILT.get() + 1);
    let mut builder = TlsConnector::builder();
    if let Some(path) = &options.cacert {
        let pem = read(path, "--cacert")?;
        let certificates = Certificate::stack_from_pem(&pem)
            .map_err(|error| format!("--cacert '{}': {error}", path.display()))?;
        if certificates.is_empty() {
            return Err(format!("--cacert '{}': no certificate in PEM form", path.display()));
        }
        for certificate in certificates {
            builder.add_root_certificate(certificate);
        }
    }
    match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => {
            let (chain, secret) = (read(cert, "--cert")?, read(key, "--key")?);
            let identity = Identity::from_pkcs8(&chain, &secret).map_err(|error| {
                format!(
                    "--cert '{}' with --key '{}': {error}; the key must be PKCS#8 in PEM form \
                     ('openssl pkcs8 -topk8 -nodes' makes one)",
                    cert.display(),
                    key.display()
                )
            })?;
            builder.identity(identity);
        }
        (None, None) => {}
        (Some(_), None) => return Err("--cert needs --key with its private key".to_string()),
        (None, Some(_)) => return Err("--key needs --cert with its certificate".to_string()),
    }
    if options.insecure {
        builder.danger_accept_invalid_certs(true).danger_accept_invalid_hostnames(true);
    }
    builder.build().map_err(|error| format!("TLS can't be set up: {error}"))
}

fn read(path: &Path, option: &str) -> Result<Vec<u8>, String> {
    let fail = |error: std::io::Error| format!("{option} '{}': {error}", path.display());
    let bytes = fs::metadata(path).map_err(fail)?.len();
    if bytes > PEM_BYTES_MAX {
        return Err(format!("{option} '{}': {bytes} bytes are too many for PEM", path.display()));
    }
    fs::read(path).map_err(fail)
}

#[cfg(test)]
thread_local! {
    /// Connectors that this thread began to build.
    pub(crate) static BUILT: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connectors_are_shared_by_equal_options() {
        let connectors = TlsConnectors::default();
        let insecure = TlsOptions { insecure: true, ..TlsOptions::default() };
        for options in [&TlsOptions::default(), &insecure, &TlsOptions::default()] {
            connectors.get(options).unwrap();
        }
        assert_eq!(connectors.made.lock().unwrap().len(), 2);
    }

    #[test]
    fn wrong_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().join("text.pem");
        fs::write(&text, "no certificate").unwrap();
        let missing = dir.path().join("missing.pem");
        let connectors = TlsConnectors::default();
        for path in [&text, &missing] {
            let ca = TlsOptions { cacert: Some(path.clone()), ..TlsOptions::default() };
            let client = TlsOptions {
                cert: Some(path.clone()),
                key: Some(text.clone()),
                ..TlsOptions::default()
            };
            for options in [ca, client] {
                let error = connectors.get(&options).err().unwrap();
                assert!(error.contains(path.to_str().unwrap()), "{error}");
            }
        }
    }
}
