//! Which proxy a connection goes through, if any.
//!
//! Owns the URL of a proxy, the hosts that are reached without one, and the choice between them.
//! What is spoken to a proxy is `tunnel.rs`'s; nobody reads the environment here.

use std::fmt;
use std::net::IpAddr;

use tungstenite::http::Uri;

use super::text::Text;
use super::transport::Endpoint;
use super::url::hide_password;

/// Longest user and password that SOCKS can carry, in bytes (RFC 1929 section 2).
const CREDENTIAL_BYTES_MAX: usize = 255;

/// RFC 1928 section 3.
const SOCKS_PORT: u16 = 1080;

/// What is spoken to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    /// CONNECT, RFC 9110 section 9.3.6.
    Http,
    /// RFC 1928. Names are looked up by the proxy.
    Socks5,
}

/// One proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// What it speaks.
    pub kind: ProxyKind,
    /// Name or address, without the brackets of IPv6.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User and password, decoded.
    pub credentials: Option<(String, String)>,
}

impl Proxy {
    /// Checks `http://[USER:PASSWORD@]HOST:PORT`, or the same with `socks5://` or `socks5h://`.
    /// What has no scheme is taken for `http`.
    ///
    /// # Errors
    /// A sentence that quotes the input, without its password, and says what would be right.
    pub fn parse(text: &Text) -> Result<Proxy, String> {
        let with_scheme = |url: &str| match url.contains("://") {
            true => url.to_string(),
            false => format!("http://{url}"),
        };
        let shown = hide_password(&with_scheme(&text.shown));
        let wrong = |what: &str| {
            format!(
                "'{shown}' is not the URL of a proxy: {what}; write \
                 http://[USER:PASSWORD@]HOST:PORT or socks5://[USER:PASSWORD@]HOST:PORT"
            )
        };
        let url = with_scheme(&text.value);
        let (scheme, rest) = url.split_once("://").expect("it has a scheme now");
        let kind = match scheme.to_ascii_lowercase().as_str() {
            "http" => ProxyKind::Http,
            "socks5" | "socks5h" => ProxyKind::Socks5,
            "https" => return Err(wrong("TLS to the proxy itself is not supported")),
            _ => return Err(wrong("it is of another scheme")),
        };
        let uri: Uri =
            format!("http://{rest}").parse().map_err(|error| wrong(&format!("{error}")))?;
        if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
            return Err(wrong("a proxy has no path"));
        }
        let authority = uri.authority().ok_or_else(|| wrong("it has no host"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(wrong("it has no host"));
        }
        let (credentials, host_and_port) = match authority.as_str().rsplit_once('@') {
            Some((credentials, rest)) => {
                (Some(decode_credentials(credentials).map_err(|error| wrong(&error))?), rest)
            }
            None => (None, authority.as_str()),
        };
        let port = match authority.port_u16() {
            Some(0) => return Err(wrong("the port is 0")),
            Some(port) => port,
            None if host_and_port.len() > authority.host().len() => {
                return Err(wrong("the port is not a number up to 65535"));
            }
            None if kind == ProxyKind::Socks5 => SOCKS_PORT,
            // Programs disagree about it: 80, 1080, 3128, 8080.
            None => return Err(wrong("it has no port")),
        };
        Ok(Proxy { kind, host: host.to_string(), port, credentials })
    }
}

/// `HOST:PORT`, as in errors: never the password.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&host_and_port(&self.host, self.port))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {self}", self.kind)
    }
}

/// `HOST:PORT`, with the brackets that IPv6 needs.
pub(super) fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn decode_credentials(text: &str) -> Result<(String, String), String> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let decode = |part: &str| {
        percent_decode(part).filter(|decoded| decoded.len() <= CREDENTIAL_BYTES_MAX).ok_or_else(
            || {
                format!(
                    "its user and password must be UTF-8 of up to {CREDENTIAL_BYTES_MAX} bytes \
                     each, with %XX for special characters"
                )
            },
        )
    };
    Ok((decode(user)?, decode(password)?))
}

/// Undoes `%XX`; `None` where that is not UTF-8, or a `%` stands before something else.
fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(after.get(..2)?).ok()?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).ok()
}

/// The proxies of a feed: one for each kind of connection, and who is reached without.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `ws` and `http`.
    pub plain: Option<Proxy>,
    /// For `wss` and `https`.
    pub secure: Option<Proxy>,
    /// Hosts that are reached directly.
    pub except: Exceptions,
}

impl Proxies {
    /// One proxy for all connections.
    pub fn always(proxy: Proxy) -> Proxies {
        Proxies { plain: Some(proxy.clone()), secure: Some(proxy), except: Exceptions::default() }
    }

    /// The proxy on the way to `endpoint`.
    pub(super) fn pick(&self, endpoint: Endpoint<'_>) -> Option<&Proxy> {
        let proxy = if endpoint.tls { &self.secure } else { &self.plain };
        proxy.as_ref().filter(|_| !self.except.contain(endpoint.host, endpoint.port))
    }
}

/// What `no_proxy` holds: hosts that are reached directly.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exceptions(Vec<Exception>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Exception {
    host: Pattern,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    /// `*`
    All,
    /// A name and all names below it.
    Name(String),
    /// Addresses that begin with the same bits.
    Addresses { base: IpAddr, bits: u8 },
}

impl Exceptions {
    /// Reads a list with commas or blanks between: `*`, names (which stand for all names below
    /// them too, with or without a leading dot), addresses, ranges such as `10.0.0.0/8`; each may
    /// have a port. What is none of these matches nothing, as with other programs.
    pub fn parse(list: &str) -> Exceptions {
        let entries = list.split([',', ' ', '\t']).map(str::trim).filter(|entry| !entry.is_empty());
        Exceptions(entries.map(parse_exception).collect())
    }

    fn contain(&self, host: &str, port: u16) -> bool {
        let host = host.trim_end_matches('.');
        self.0.iter().any(|exception| {
            exception.port.is_none_or(|only| only == port) && exception.host.matches(host)
        })
    }
}

fn parse_exception(entry: &str) -> Exception {
    let whole = |host: Pattern| Exception { host, port: None };
    if entry == "*" {
        return whole(Pattern::All);
    }
    if let Some(addresses) = parse_addresses(entry) {
        return whole(addresses);
    }
    let (host, port) = match entry.rsplit_once(':') {
        Some((host, port)) => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (entry, None),
        },
        None => (entry, None),
    };
    let host = match parse_addresses(host) {
        Some(addresses) => addresses,
        None => {
            let name = host.trim_start_matches("*.").trim_matches('.');
            Pattern::Name(name.to_ascii_lowercase())
        }
    };
    Exception { host, port }
}

/// `ADDRESS` or `ADDRESS/BITS`, IPv6 with or without brackets.
fn parse_addresses(text: &str) -> Option<Pattern> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let inner = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let base: IpAddr = inner.unwrap_or(address).parse().ok()?;
    let all = if base.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(all);
    (bits <= all).then_some(Pattern::Addresses { base, bits })
}

impl Pattern {
    fn matches(&self, host: &str) -> bool {
        match self {
            Pattern::All => true,
            Pattern::Name(name) => {
                let host = host.to_ascii_lowercase();
                let above = host.strip_suffix(name.as_str());
                !name.is_empty() && above.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            Pattern::Addresses { base, bits } => match (base, host.parse::<IpAddr>()) {
                (IpAddr::V4(base), Ok(IpAddr::V4(host))) => {
                    let cut = 32 - u32::from(*bits);
                    base.to_bits().checked_shr(cut) == host.to_bits().checked_shr(cut)
                }
                (IpAddr::V6(base), Ok(IpAddr::V6(host))) => {
                    let cut = 128 - u32::from(*bits);
                    base.to_bits().checked_shr(cut) == host.to_bits().checked_shr(cut)
                }
                _ => false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_proxies_are_taken_apart() {
        let check = |input: &str, shown: &str, credentials: Option<(&str, &str)>| {
            let proxy = Proxy::parse(&Text::plain(input)).unwrap();
            assert_eq!(format!("{proxy:?}"), shown, "{input}");
            let credentials = credentials.map(|(u, p)| (u.to_string(), p.to_string()));
            assert_eq!(proxy.credentials, credentials, "{input}");
        };
        check("http://p.example:3128", "Http p.example:3128", None);
        check("http://p.example:3128/", "Http p.example:3128", None);
        check("p.example:3128", "Http p.example:3128", None);
        check("me:pw@p.example:3128", "Http p.example:3128", Some(("me", "pw")));
        check("HTTP://me:p%40s%3as@p:1", "Http p:1", Some(("me", "p@s:s")));
        check("http://me@p:1", "Http p:1", Some(("me", "")));
        check("socks5://p", "Socks5 p:1080", None);
        check("socks5h://[::1]:9050", "Socks5 [::1]:9050", None);
        check("http://[::1]:80", "Http [::1]:80", None);
    }

    #[test]
    fn wrong_urls_of_proxies_are_quoted_without_their_password() {
        for input in [
            "https://me:secret@p:443",
            "socks4://me:secret@p:1080",
            "http://me:secret@p",
            "http://me:secret@p:0",
            "http://me:secret@p:99999",
            "http://me:secret@p:",
            "socks5://me:secret@p:x",
            "http://me:secret@:3128",
            "http://me:secret@p:3128/path",
            "me:secret@p",
            "http://me:sec%ret@p:1",
            "http://me:sec ret@p:1",
            "http://",
            "",
        ] {
            let error = Proxy::parse(&Text::plain(input)).expect_err(input);
            assert!(error.contains("is not the URL of a proxy"), "{input}: {error}");
            assert!(!error.contains("secret") && !error.contains("sec%ret"), "{input}: {error}");
        }
        let long = format!("http://me:{}@p:1", "x".repeat(256));
        assert!(Proxy::parse(&Text::plain(&long)).is_err());
    }

    #[test]
    fn exceptions_are_matched() {
        let check = |list: &str, host: &str, port: u16, expected: bool| {
            assert_eq!(
                Exceptions::parse(list).contain(host, port),
                expected,
                "{list}: {host}:{port}"
            );
        };
        for (list, host, expected) in [
            ("", "example.com", false),
            ("*", "example.com", true),
            ("a,*", "1.2.3.4", true),
            ("example.com", "example.com", true),
            ("example.com", "EXAMPLE.com.", true),
            ("Example.Com", "ws.example.com", true),
            (".example.com", "ws.example.com", true),
            (".example.com", "example.com", true),
            ("*.example.com", "ws.example.com", true),
            ("example.com", "notexample.com", false),
            ("ws.example.com", "example.com", false),
            ("localhost, other.example example.com", "example.com", true),
            (".", "example.com", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("10.0.0.0/8", "10.255.1.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "9.9.9.9", true),
            ("0.0.0.0/0", "example.com", false),
            ("10.0.0.0/33", "10.0.0.0", false),
            ("192.168.1.128/25", "192.168.1.129", true),
            ("192.168.1.128/25", "192.168.1.1", false),
            ("::1", "::1", true),
            ("[::1]", "::1", true),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe80::1", false),
            ("0.0.0.1", "::1", false),
            ("1.0.0.127", "127.0.0.1", false),
        ] {
            check(list, host, 443, expected);
        }
        check("example.com:443", "example.com", 443, true);
        check("example.com:443", "example.com", 80, false);
        check("10.0.0.1:80", "10.0.0.1", 80, true);
        check("10.0.0.1:80", "10.0.0.1", 443, false);
        check("[::1]:80", "::1", 80, true);
        check("[::1]:80", "::1", 81, false);
    }

    #[test]
    fn each_kind_of_connection_has_its_proxy() {
        let proxy = |text: &str| Proxy::parse(&Text::plain(text)).unwrap();
        let proxies = Proxies {
            plain: Some(proxy("http://plain:1")),
            secure: Some(proxy("http://secure:2")),
            except: Exceptions::parse("direct"),
        };
        let pick = |host: &str, tls: bool| {
            proxies.pick(Endpoint { host, port: 7, tls }).map(ToString::to_string)
        };
        assert_eq!(pick("h", false).as_deref(), Some("plain:1"));
        assert_eq!(pick("h", true).as_deref(), Some("secure:2"));
        assert_eq!(pick("direct", true), None);
        assert_eq!(Proxies::default().pick(Endpoint { host: "h", port: 7, tls: true }), None);
    }
}
