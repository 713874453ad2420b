//! TLS for feeds: one connector for each distinct set of options, shared by all feeds that have
//! them.
//!
//! Owns the options, loading certificates, and the connectors. Each connector holds the whole CA
//! store, some megabytes, for as long as a connection made with it lives. They are made when first
//! needed. After a day, and at each reload, it is looked whether the files of certificates are
//! still the same: only where they are not is a connector made anew.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use native_tls::{Certificate, Identity, TlsConnector};

use crate::clock::{Mono, mono_now};

/// After so long it is looked whether a connector's files are still the same.
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

/// What keeps a connector from being made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsMistake {
    /// The option that is to be changed.
    pub option: &'static str,
    /// Its file, where that is wrong.
    pub path: Option<PathBuf>,
    /// What is wrong, and what is right.
    pub what: String,
}

impl fmt::Display for TlsMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{} '{}': {}", self.option, path.display(), self.what),
            None => write!(f, "{}: {}", self.option, self.what),
        }
    }
}

impl TlsMistake {
    fn of_file(option: &'static str, path: &Path, what: impl fmt::Display) -> TlsMistake {
        TlsMistake { option, path: Some(path.to_path_buf()), what: what.to_string() }
    }
}

/// Makes and keeps the connectors.
#[derive(Default)]
pub struct TlsConnectors {
    made: Mutex<HashMap<TlsOptions, Made>>,
}

struct Made {
    connector: TlsConnector,
    /// Made from these.
    files: Vec<FileState>,
    /// When they were last looked at; none: to be looked at before it is used again.
    looked_at: Option<Mono>,
}

/// A file that was replaced or written to has another state; of a folder, one in which files came
/// or went.
type FileState = (PathBuf, Option<(u64, u64, u64, i64, i64)>);

impl TlsConnectors {
    /// Certificates may have changed: before connectors are next used it is looked whether they
    /// have.
    pub fn forget(&self) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.values_mut().for_each(|made| made.looked_at = None);
    }

    /// The connector for these options.
    ///
    /// # Errors
    /// A file can't be read, or does not hold what it should.
    pub fn get(&self, options: &TlsOptions) -> Result<TlsConnector, TlsMistake> {
        let now = mono_now();
        // Held while files are read: feeds with the same options wait for one load of the store.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = made.get_mut(options) {
            let is_recent = made.looked_at.is_some_and(|at| now.since(at) < CONNECTOR_AGE_MAX);
            if is_recent || made.files == files(options) {
                made.looked_at = made.looked_at.filter(|_| is_recent).or(Some(now));
                return Ok(made.connector.clone());
            }
        }
        // Looked at before they are read: what changes meanwhile is found the next time.
        let files = files(options);
        let connector = build(options)?;
        let looked_at = Some(now);
        made.insert(options.clone(), Made { connector: connector.clone(), files, looked_at });
        Ok(connector)
    }
}

/// The files that a connector is made from, those of the system's store among them.
fn files(options: &TlsOptions) -> Vec<FileState> {
    let system = openssl_probe::probe();
    let own = [&options.cacert, &options.cert, &options.key].into_iter().flatten().cloned();
    let paths = own.chain(system.cert_file).chain(system.cert_dir);
    let state = |path: &Path| {
        let file = fs::metadata(path).ok()?;
        Some((file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
    };
    paths.map(|path| (path.clone(), state(&path))).collect()
}

fn build(options: &TlsOptions) -> Result<TlsConnector, TlsMistake> {
    #[cfg(test)]
    BUILT.set(BUILT.get() + 1);
    let mut builder = TlsConnector::builder();
    if let Some(path) = &options.cacert {
        let pem = read(path, "--cacert")?;
        let certificates = Certificate::stack_from_pem(&pem)
            .map_err(|error| TlsMistake::of_file("--cacert", path, error))?;
        if certificates.is_empty() {
            return Err(TlsMistake::of_file("--cacert", path, "no certificate in PEM form"));
        }
        for certificate in certificates {
            builder.add_root_certificate(certificate);
        }
    }
    match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => {
            let (chain, secret) = (read(cert, "--cert")?, read(key, "--key")?);
            let identity = Identity::from_pkcs8(&chain, &secret).map_err(|error| {
                let what = format!(
                    "with --key '{}': {error}; the key must be PKCS#8 in PEM form ('openssl pkcs8 \
                     -topk8 -nodes' makes one)",
                    key.display()
                );
                TlsMistake::of_file("--cert", cert, what)
            })?;
            builder.identity(identity);
        }
        (None, None) => {}
        (Some(cert), None) => {
            return Err(TlsMistake::of_file("--cert", cert, "needs --key with its private key"));
        }
        (None, Some(key)) => {
            return Err(TlsMistake::of_file("--key", key, "needs --cert with its certificate"));
        }
    }
    if options.insecure {
        builder.danger_accept_invalid_certs(true).danger_accept_invalid_hostnames(true);
    }
    builder.build().map_err(|error| TlsMistake {
        option: "--cacert",
        path: None,
        what: format!("TLS can't be set up, with it or without: {error}"),
    })
}

fn read(path: &Path, option: &'static str) -> Result<Vec<u8>, TlsMistake> {
    let fail = |error: std::io::Error| TlsMistake::of_file(option, path, error);
    let bytes = fs::metadata(path).map_err(fail)?.len();
    if bytes > PEM_BYTES_MAX {
        let what = format!("{bytes} bytes are too many for PEM");
        return Err(TlsMistake::of_file(option, path, what));
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

    /// Each holds a CA store of its own while connections use it: a reload must not add one.
    #[test]
    fn a_connector_is_made_anew_only_where_its_files_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let system = openssl_probe::probe().cert_file.expect("the system has a CA store");
        let store = fs::read_to_string(system).unwrap();
        let end = "-----END CERTIFICATE-----\n";
        let mut certificates = store.split_inclusive(end);
        let (one, other) = (certificates.next().unwrap(), certificates.next().unwrap());
        fs::write(&path, one).unwrap();
        let options = TlsOptions { cacert: Some(path.clone()), ..TlsOptions::default() };
        let connectors = TlsConnectors::default();
        let built = || {
            let before = BUILT.get();
            connectors.get(&options).unwrap();
            BUILT.get() - before
        };
        assert_eq!((built(), built()), (1, 0));
        connectors.forget();
        assert_eq!((built(), built()), (0, 0), "nothing changed");
        fs::write(&path, format!("{one}{other}")).unwrap();
        assert_eq!(built(), 0, "files are not looked at for each connection");
        connectors.forget();
        assert_eq!((built(), built()), (1, 0));
        fs::remove_file(&path).unwrap();
        connectors.forget();
        connectors.get(&options).unwrap_err();
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
                let error = connectors.get(&options).err().unwrap().to_string();
                assert!(error.contains(path.to_str().unwrap()), "{error}");
            }
        }
    }
}
