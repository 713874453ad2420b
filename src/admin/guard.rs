//! Who may ask: tokens, the Host against DNS rebinding, the Origin against other sites' pages.
//!
//! Owns the decision, from the head of a request and the time. Whoever can reach the address may
//! look, and with `X-Feedtape: 1` order, unless there is a token: then it is needed for all but the
//! page itself and `/healthz`, which tell nothing. A page of another site that a browser shows can
//! reach a loopback address too: it is told apart by its Origin, by the header that it can't send
//! without asking, and by the name under which it calls us.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::http::{Method, Request, Wrong};
use crate::clock::Mono;

/// So many wrong tokens of one address within [`WINDOW`] ..
const WRONG_MAX: u32 = 5;
/// .. and further wrong ones are told to wait until so long after the first of them. The right one
/// gets in all the same: others at the same address, as behind a proxy, must not lock it out.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses whose wrong tokens are counted; the oldest is forgotten first.
const PEERS_MAX: usize = 1024;

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// An address; of IPv6 the network, of which one host has all.
    Ip(IpAddr),
    /// The Unix socket.
    Local,
}

impl Peer {
    /// Of an address.
    pub fn of(address: IpAddr) -> Peer {
        Peer::Ip(match address.to_canonical() {
            IpAddr::V6(v6) if !v6.is_loopback() => {
                let mut octets = v6.octets();
                octets[8..].fill(0);
                IpAddr::V6(Ipv6Addr::from(octets))
            }
            other => other,
        })
    }
}

/// Under which names we may be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hosts {
    /// Those of loopback.
    Loopback,
    /// These too: any address (rebinding needs a name), and the machine's own name.
    Remote {
        /// The machine's name.
        name: String,
    },
    /// All: no browser reaches a Unix socket.
    Any,
}

/// Lets requests in or not.
pub struct Guard {
    /// SHA-256 of the token: comparing digests takes the same time whatever is wrong.
    token: Option<[u8; 32]>,
    hosts: Hosts,
    wrong: HashMap<Peer, Tries>,
}

struct Tries {
    since: Mono,
    count: u32,
}

impl Guard {
    /// `token`: what must be known to get in.
    pub fn new(token: Option<&str>, hosts: Hosts) -> Guard {
        Guard { token: token.map(digest), hosts, wrong: HashMap::new() }
    }

    /// Whether the request is let in. `is_open`: what it asks for is for everybody.
    ///
    /// # Errors
    /// Why not.
    pub fn check(
        &mut self,
        now: Mono,
        peer: Peer,
        request: &Request,
        is_open: bool,
    ) -> Result<(), Wrong> {
        let host = request.host.as_deref().unwrap_or_default();
        if !self.hosts.allow(host) {
            let why = format!("'{host}' is not what this recorder is called: use its address");
            return Err(Wrong::new(421, why));
        }
        if let Some(origin) = &request.origin
            && origin.strip_prefix("http://").or(origin.strip_prefix("https://")) != Some(host)
        {
            return Err(Wrong::new(403, "asked by a page of another site"));
        }
        if request.method == Method::Post && !request.is_marked {
            return Err(Wrong::new(403, "a POST needs the header 'X-Feedtape: 1'"));
        }
        if is_open { Ok(()) } else { self.check_token(now, peer, request) }
    }

    fn check_token(&mut self, now: Mono, peer: Peer, request: &Request) -> Result<(), Wrong> {
        let Some(expected) = &self.token else { return Ok(()) };
        let Some(token) = &request.token else {
            return Err(Wrong::new(401, "needs 'Authorization: Bearer' and the token"));
        };
        if openssl::memcmp::eq(&digest(token), expected) {
            return Ok(());
        }
        self.wrong.retain(|_, tries| now.since(tries.since) < WINDOW);
        if let Some(tries) = self.wrong.get(&peer)
            && tries.count >= WRONG_MAX
        {
            let left = WINDOW.saturating_sub(now.since(tries.since)).as_secs() + 1;
            let why = format!("too many wrong tokens; try again in {left} s");
            return Err(Wrong { retry_after_s: Some(left), ..Wrong::new(429, why) });
        }
        if self.wrong.len() >= PEERS_MAX && !self.wrong.contains_key(&peer) {
            let oldest = self.wrong.iter().min_by_key(|(_, tries)| tries.since);
            let oldest = oldest.map(|(peer, _)| *peer).expect("there are many");
            self.wrong.remove(&oldest);
        }
        self.wrong.entry(peer).or_insert(Tries { since: now, count: 0 }).count += 1;
        Err(Wrong::new(401, "that is not the token"))
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

impl Hosts {
    /// With a port or without: a tunnel may have another one.
    fn allow(&self, host: &str) -> bool {
        let name = without_port(host);
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
        let is_loopback = name.eq_ignore_ascii_case("localhost")
            || address.is_some_and(|address| address.to_canonical().is_loopback());
        match self {
            Hosts::Any => true,
            Hosts::Loopback => is_loopback,
            Hosts::Remote { name: own } => {
                let is_own = name.eq_ignore_ascii_case(own)
                    || name.split('.').next().is_some_and(|first| first.eq_ignore_ascii_case(own));
                is_loopback || address.is_some() || is_own
            }
        }
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // The colons of an IPv6 address without brackets are none before a port.
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit())
                && (name.ends_with(']') || !name.contains(':')) =>
        {
            name
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::http::parse;

    fn request(line: &str, headers: &str) -> Request {
        let text = format!("{line} HTTP/1.1\r\n{headers}\r\n");
        parse(text.as_bytes()).unwrap().unwrap()
    }

    fn status(result: Result<(), Wrong>) -> u16 {
        result.map_or_else(|wrong| wrong.status, |()| 200)
    }

    const PEER: Peer = Peer::Local;

    #[test]
    fn names_under_which_it_may_be_called() {
        let remote = Hosts::Remote { name: "box".to_string() };
        for (host, loopback, is_remote) in [
            ("localhost", true, true),
            ("LOCALHOST:9464", true, true),
            ("127.0.0.1:9464", true, true),
            ("127.3.2.1", true, true),
            ("[::1]:8080", true, true),
            ("[::ffff:127.0.0.1]:8080", true, true),
            ("10.0.0.7:9464", false, true),
            ("[2001:db8::1]", false, true),
            ("box:9464", false, true),
            ("box.lan:9464", false, true),
            ("evil.example:9464", false, false),
            ("localhost.evil.example", false, false),
            ("127.0.0.1.evil.example", false, false),
            ("evil.example:127.0.0.1", false, false),
            ("localhost:80:80", false, false),
            ("", false, false),
        ] {
            assert_eq!(Hosts::Loopback.allow(host), loopback, "{host}");
            assert_eq!(remote.allow(host), is_remote, "{host}");
            assert!(Hosts::Any.allow(host));
        }
    }

    #[test]
    fn pages_of_other_sites_are_kept_out() {
        let mut guard = Guard::new(None, Hosts::Loopback);
        for (line, headers, expected) in [
            ("GET /", "Host: localhost:1\r\n", 200),
            ("GET /", "Host: evil.example\r\n", 421),
            ("GET /", "Host: localhost:1\r\nOrigin: http://localhost:1\r\n", 200),
            ("GET /", "Host: localhost:1\r\nOrigin: http://evil.example\r\n", 403),
            ("POST /x", "Host: localhost:1\r\n", 403),
            ("POST /x", "Host: localhost:1\r\nX-Feedtape: yes\r\n", 403),
            ("POST /x", "Host: localhost:1\r\nX-Feedtape: 1\r\n", 200),
            ("POST /x", "Host: localhost:1\r\nX-Feedtape: 1\r\nOrigin: null\r\n", 403),
            ("POST /x", "Host: localhost:1\r\nX-Feedtape: 1\r\nOrigin: http://localhost\r\n", 403),
            ("POST /x", "Host: a\r\nX-Feedtape: 1\r\nOrigin: http://a\r\n", 421),
        ] {
            let request = request(line, headers);
            let result = guard.check(Mono(1), PEER, &request, false);
            assert_eq!(status(result), expected, "{line} {headers}");
        }
    }

    #[test]
    fn wrong_tokens_are_counted_by_address() {
        let mut guard = Guard::new(Some("right"), Hosts::Any);
        let at = |s: u64| Mono(s * 1_000_000_000);
        let wrong = request("GET /x", "Host: a\r\nAuthorization: Bearer wrong\r\n");
        let right = request("GET /x", "Host: a\r\nAuthorization: Bearer right\r\n");
        let none = request("GET /x", "Host: a\r\n");
        let other = Peer::of("10.0.0.1".parse().unwrap());
        for n in 0..10 {
            assert_eq!(status(guard.check(at(n), PEER, &none, false)), 401, "missing is not wrong");
        }
        for n in 0..5 {
            assert_eq!(status(guard.check(at(10 + n), PEER, &right, false)), 200);
            assert_eq!(status(guard.check(at(10 + n), PEER, &wrong, false)), 401);
        }
        let refused = guard.check(at(20), PEER, &wrong, false).unwrap_err();
        assert_eq!((refused.status, refused.retry_after_s), (429, Some(51)));
        assert_eq!(status(guard.check(at(20), PEER, &wrong, true)), 200, "open to all");
        assert_eq!(status(guard.check(at(20), other, &wrong, false)), 401);
        // Who knows the token is not locked out by others at the same address.
        assert_eq!(status(guard.check(at(20), PEER, &right, false)), 200);
        assert_eq!(status(guard.check(at(20), PEER, &none, false)), 401);
        assert_eq!(status(guard.check(at(69), PEER, &wrong, false)), 429);
        assert_eq!(status(guard.check(at(70), PEER, &wrong, false)), 401);
    }

    #[test]
    fn addresses_that_are_counted_are_bounded() {
        let mut guard = Guard::new(Some("right"), Hosts::Any);
        let wrong = request("GET /x", "Host: a\r\nAuthorization: Bearer wrong\r\n");
        for n in 0..2 * PEERS_MAX as u32 {
            let peer = Peer::Ip(IpAddr::V4(n.into()));
            let _ = guard.check(Mono(u64::from(n)), peer, &wrong, false);
            assert!(guard.wrong.len() <= PEERS_MAX);
        }
        let peer = |text: &str| Peer::of(text.parse().unwrap());
        assert_eq!(peer("2001:db8::1"), peer("2001:db8::ffff:2"));
        assert_ne!(peer("2001:db8::1"), peer("2001:db8:0:1::1"));
        assert_eq!(peer("::ffff:10.0.0.1"), peer("10.0.0.1"));
    }
}
