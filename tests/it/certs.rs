//! Throw-away certificates for the scripted server and for clients that must show one.
//!
//! Made once per run of the tests; nothing here is a secret. Two authorities, so that a test can
//! trust the wrong one.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509NameBuilder};

/// A certificate with its key.
pub struct Pair {
    pub cert: X509,
    pub key: PKey<Private>,
}

impl Pair {
    pub fn cert_pem(&self) -> Vec<u8> {
        self.cert.to_pem().unwrap()
    }

    pub fn key_pem(&self) -> Vec<u8> {
        self.key.private_key_to_pem_pkcs8().unwrap()
    }
}

/// All certificates of the tests.
pub struct Certs {
    /// Signed what the servers show.
    pub server_ca: Pair,
    /// For localhost and 127.0.0.1.
    pub server: Pair,
    /// For a host that no test connects to.
    pub other_host: Pair,
    /// Signed what clients show; signed no server.
    pub client_ca: Pair,
    pub client: Pair,
}

/// The certificates of this run.
pub static CERTS: LazyLock<Certs> = LazyLock::new(|| {
    let server_ca = authority("feedtape test servers");
    let client_ca = authority("feedtape test clients");
    let server = leaf("localhost", &server_ca, |names| {
        names.dns("localhost").ip(&IpAddr::V4(Ipv4Addr::LOCALHOST).to_string());
    });
    let other_host = leaf("other.invalid", &server_ca, |names| {
        names.dns("other.invalid");
    });
    let client = leaf("client", &client_ca, |names| {
        names.dns("client.invalid");
    });
    Certs { server_ca, server, other_host, client_ca, client }
});

fn authority(name: &str) -> Pair {
    let (mut builder, key) = start(name);
    builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    let subject = subject(name);
    builder.set_issuer_name(&subject).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    Pair { cert: builder.build(), key }
}

fn leaf(name: &str, issuer: &Pair, add: impl FnOnce(&mut SubjectAlternativeName)) -> Pair {
    let (mut builder, key) = start(name);
    builder.set_issuer_name(issuer.cert.subject_name()).unwrap();
    let mut names = SubjectAlternativeName::new();
    add(&mut names);
    let names = names.build(&builder.x509v3_context(Some(&issuer.cert), None)).unwrap();
    builder.append_extension(names).unwrap();
    let usage = ExtendedKeyUsage::new().server_auth().client_auth().build().unwrap();
    builder.append_extension(usage).unwrap();
    builder.sign(&issuer.key, MessageDigest::sha256()).unwrap();
    Pair { cert: builder.build(), key }
}

fn start(name: &str) -> (X509Builder, PKey<Private>) {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let mut builder = X509Builder::new().unwrap();
    builder.set_version(2).unwrap();
    let mut serial = BigNum::new().unwrap();
    serial.rand(64, openssl::bn::MsbOption::MAYBE_ZERO, false).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(1_577_836_800).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
    builder.set_subject_name(&subject(name)).unwrap();
    builder.set_pubkey(&key).unwrap();
    (builder, key)
}

fn subject(name: &str) -> openssl::x509::X509Name {
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    subject.build()
}
