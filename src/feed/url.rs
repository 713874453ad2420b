//! The address of a feed.
//!
//! Owns taking a URL apart (`ws://` and `wss://`; `http://` and `https://` of feeds that are
//! polled) and showing it without its secrets.

use std::fmt;

use tungstenite::http::Uri;

use super::text::Text;

/// Longest URL, in bytes: it stands in events, which are bounded.
pub const URL_BYTES_MAX: usize = 8 << 10;

/// A checked URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedUrl {
    /// Whether it is `wss` or `https`.
    pub tls: bool,
    /// Host name or address, without the brackets of IPv6.
    pub host: String,
    /// Port, the scheme's own where none is given.
    pub port: u16,
    /// Path and query, from `/` on.
    pub path: String,
    /// `user:password` before the host, if any.
    pub credentials: Option<String>,
    scheme: &'static str,
    shown: String,
    host_header: String,
}

/// Whether a text begins as the URL of a feed that is polled.
pub fn is_http(text: &str) -> bool {
    let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
    ["http", "https"].iter().any(|http| http.eq_ignore_ascii_case(scheme))
}

impl FeedUrl {
    /// Checks a `ws://` or `wss://` URL.
    ///
    /// # Errors
    /// A sentence that quotes the input, without its password, and says what would be right.
    pub fn parse(text: &Text) -> Result<FeedUrl, String> {
        FeedUrl::parse_as(text, ["ws", "wss"])
    }

    /// Checks an `http://` or `https://` URL.
    ///
    /// # Errors
    /// A sentence that quotes the input, without its password, and says what would be right.
    pub fn parse_http(text: &Text) -> Result<FeedUrl, String> {
        FeedUrl::parse_as(text, ["http", "https"])
    }

    /// `schemes`: the plain one, and the one with TLS.
    fn parse_as(text: &Text, schemes: [&'static str; 2]) -> Result<FeedUrl, String> {
        let input = text.value.as_str();
        let shown = hide_password(&text.shown);
        let wrong = |what: &str| {
            format!(
                "'{shown}' is not the URL of a feed: {what}; write ws://HOST/... or \
                 wss://HOST/..., or http(s)://HOST/... to poll it"
            )
        };
        if input.len() > URL_BYTES_MAX {
            return Err(format!(
                "a URL of {} bytes is too long, the limit is {URL_BYTES_MAX}",
                input.len()
            ));
        }
        let Some((scheme, _)) = input.split_once("://") else {
            return Err(wrong("it has no scheme"));
        };
        let scheme = schemes.into_iter().find(|known| known.eq_ignore_ascii_case(scheme));
        let scheme = scheme.ok_or_else(|| wrong("it is of another scheme"))?;
        let tls = scheme == schemes[1];
        if input.contains('#') {
            return Err(wrong("it has a fragment ('#'), which no server is told"));
        }
        let uri: Uri = input.parse().map_err(|error| wrong(&format!("{error}")))?;
        let authority = uri.authority().ok_or_else(|| wrong("it has no host"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(wrong("it has no host"));
        }
        let (credentials, host_and_port) = match authority.as_str().rsplit_once('@') {
            Some((credentials, rest)) => (Some(credentials.to_string()), rest),
            None => (None, authority.as_str()),
        };
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            None if host_and_port.len() > authority.host().len() => {
                return Err(wrong("the port is not a number up to 65535"));
            }
            None => {
                if tls {
                    443
                } else {
                    80
                }
            }
        };
        if port == 0 {
            return Err(wrong("the port is 0"));
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(FeedUrl {
            tls,
            host: host.to_string(),
            port,
            path: format!("{slash}{path}"),
            credentials,
            scheme,
            host_header: host_and_port.to_string(),
            shown,
        })
    }

    /// Its scheme, in lower case.
    pub fn scheme(&self) -> &'static str {
        self.scheme
    }

    /// Value of the Host header.
    pub fn host_header(&self) -> &str {
        &self.host_header
    }

    /// The URL that tungstenite or ureq is given: no credentials in it.
    pub fn request_uri(&self) -> String {
        format!("{}://{}{}", self.scheme, self.host_header, self.path)
    }
}

/// Shows the URL as it was given, with the password as `***`.
impl fmt::Display for FeedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// The URL with `***` for a password, whatever the rest of it.
pub(super) fn hide_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_string();
    };
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_end);
    match authority.rsplit_once('@') {
        Some((credentials, host)) => {
            let user = credentials.split_once(':').map_or("", |(user, _)| user);
            format!("{scheme}://{user}:***@{host}{path}")
        }
        None => url.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let check = |input: &str, tls: bool, host: &str, port: u16, path: &str, header: &str| {
            let url = FeedUrl::parse(&Text::plain(input)).unwrap();
            let got = (url.tls, url.host.as_str(), url.port, url.path.as_str(), url.host_header());
            assert_eq!(got, (tls, host, port, path, header), "{input}");
        };
        check("ws://localhost", false, "localhost", 80, "/", "localhost");
        check("wss://a.example/ws?x=1", true, "a.example", 443, "/ws?x=1", "a.example");
        check("WSS://a.example:9443?x", true, "a.example", 9443, "/?x", "a.example:9443");
        check("ws://[::1]:80/p", false, "::1", 80, "/p", "[::1]:80");
        check("ws://u:p@h:1/p", false, "h", 1, "/p", "h:1");
    }

    #[test]
    fn urls_that_are_polled_are_taken_apart_too() {
        let url = FeedUrl::parse_http(&Text::plain("HTTPS://u:p@h/a?b=c")).unwrap();
        assert_eq!((url.tls, url.port, url.path.as_str()), (true, 443, "/a?b=c"));
        assert_eq!(url.request_uri(), "https://h/a?b=c");
        assert_eq!(FeedUrl::parse_http(&Text::plain("http://h")).unwrap().port, 80);
        assert!(FeedUrl::parse_http(&Text::plain("ws://h")).is_err());
        assert!(is_http("HTTP://x") && !is_http("wss://x") && !is_http("h"));
    }

    #[test]
    fn passwords_are_not_shown() {
        let url = FeedUrl::parse(&Text::plain("wss://me:secret@h/p@q")).unwrap();
        assert_eq!(url.to_string(), "wss://me:***@h/p@q");
        assert_eq!(url.credentials.as_deref(), Some("me:secret"));
        assert!(!url.request_uri().contains("secret"));
        let error = FeedUrl::parse(&Text::plain("http://me:secret@h")).unwrap_err();
        assert!(!error.contains("secret"), "{error}");
        let token = FeedUrl::parse(&Text::plain("wss://secret@h/")).unwrap();
        assert_eq!(token.to_string(), "wss://:***@h/");
    }

    #[test]
    fn wrong_urls_are_quoted() {
        for input in [
            "",
            "localhost",
            "http://h/",
            "ws://",
            "ws:///p",
            "ws://h:x/",
            "ws://h:99999/",
            "ws://h:0/",
            "ws://h/#f",
            "ws://h/a b",
        ] {
            let error = FeedUrl::parse(&Text::plain(input)).expect_err(input);
            assert!(error.contains(&format!("'{input}'")), "{error}");
        }
        assert!(FeedUrl::parse(&Text::plain(&format!("ws://h/{}", "x".repeat(9000)))).is_err());
    }
}
