//! A throw-away certificate for the simulated venue: self-signed, made anew at each start.
//!
//! Owns making it; the private key never leaves the process. Good for trying TLS on one machine,
//! and for nothing else.

use std::net::IpAddr;

use anyhow::Context;
use native_tls::{Identity, TlsAcceptor};
use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{
    BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
};
use openssl::x509::{X509, X509NameBuilder};

/// How long the certificate is valid; a venue is started anew before that.
const VALID_DAYS: u32 = 365;

/// A new certificate for `localhost`, `127.0.0.1`, `::1` and `address`: what accepts TLS
/// connections with it, and the certificate as PEM for the clients to trust.
pub(super) fn throw_away(address: IpAddr) -> anyhow::Result<(TlsAcceptor, String)> {
    let (certificate, key) = self_signed(address).context("the certificate could not be made")?;
    let pem = certificate.to_pem().context("the certificate could not be written as PEM")?;
    let key_pem =
        key.private_key_to_pem_pkcs8().context("the certificate's key could not be written")?;
    let identity =
        Identity::from_pkcs8(&pem, &key_pem).context("the certificate could not be used")?;
    let acceptor = TlsAcceptor::new(identity).context("TLS could not be set up")?;
    let pem = String::from_utf8(pem).context("the certificate's PEM is not text")?;
    Ok((acceptor, pem))
}

fn self_signed(address: IpAddr) -> Result<(X509, PKey<Private>), ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&group)?)?;

    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_text("CN", "feedtape simulated venue")?;
    let name = name.build();

    let mut builder = X509::builder()?;
    builder.set_version(2)?; // X.509 v3 counts from 0.
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
    let serial = serial.to_asn1_integer()?;
    builder.set_serial_number(&serial)?;
    builder.set_subject_name(&name)?;
    builder.set_issuer_name(&name)?;
    builder.set_pubkey(&key)?;
    let (from, to) = (Asn1Time::days_from_now(0)?, Asn1Time::days_from_now(VALID_DAYS)?);
    builder.set_not_before(&from)?;
    builder.set_not_after(&to)?;

    // Not an authority: whoever trusts this file trusts this one server.
    builder.append_extension(BasicConstraints::new().critical().build()?)?;
    builder.append_extension(KeyUsage::new().critical().digital_signature().build()?)?;
    builder.append_extension(ExtendedKeyUsage::new().server_auth().build()?)?;
    let mut names = SubjectAlternativeName::new();
    names.dns("localhost").ip("127.0.0.1").ip("::1");
    if !address.is_unspecified() {
        names.ip(&address.to_string());
    }
    let names = names.build(&builder.x509v3_context(None, None))?;
    builder.append_extension(names)?;
    builder.sign(&key, MessageDigest::sha256())?;
    Ok((builder.build(), key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_names_this_machine_and_signs_itself() {
        let address = "192.0.2.7".parse().unwrap();
        let (_, pem) = throw_away(address).unwrap();
        let certificate = X509::from_pem(pem.as_bytes()).unwrap();
        assert!(certificate.verify(&certificate.public_key().unwrap()).unwrap());
        let names = certificate.subject_alt_names().unwrap();
        let dns: Vec<&str> = names.iter().filter_map(|name| name.dnsname()).collect();
        assert_eq!(dns, ["localhost"]);
        let addresses: Vec<usize> =
            names.iter().filter_map(|name| name.ipaddress()).map(<[u8]>::len).collect();
        assert_eq!(addresses, [4, 16, 4]);
        assert!(!pem.contains("PRIVATE KEY"), "{pem}");
        assert_ne!(pem, throw_away(address).unwrap().1, "two venues share nothing");
    }
}
