//! Where a redirect leads, and what may be told of it.
//!
//! Owns taking a Location apart (RFC 9110 section 10.2.2). It comes from the network, may hold
//! secrets of our own URL, and is shown by its origin only. How often redirects are followed is
//! decided by who follows them.

use super::text::Text;
use super::url::FeedUrl;

/// Whether both lead to the same server in the same way: what one may know the other may too.
pub(super) fn same_origin(one: &FeedUrl, other: &FeedUrl) -> bool {
    one.tls == other.tls && one.port == other.port && one.host.eq_ignore_ascii_case(&other.host)
}

/// The URL that `location` leads to, seen from `from`. It shows as its origin, and it has the
/// credentials of `from` where the origin is the same, else none.
///
/// # Errors
/// Says, after "redirects", why it can't be followed.
pub(super) fn resolve(from: &FeedUrl, location: &str) -> Result<FeedUrl, String> {
    let location = location.split('#').next().unwrap_or_default();
    let (scheme, rest) = match scheme_of(location) {
        Some((scheme, rest)) => (scheme, rest.to_string()),
        None => (from.scheme().to_string(), relative(from, location)),
    };
    let shown = format!("{scheme}:{}", origin_of(&rest));
    let is_polled = from.scheme().starts_with("http");
    let scheme = match (scheme.as_str(), is_polled) {
        ("http", true) => "http",
        ("https", true) => "https",
        ("ws" | "http", false) => "ws",
        ("wss" | "https", false) => "wss",
        (_, true) => return Err(format!("to '{shown}', which can't be polled")),
        (_, false) => return Err(format!("to '{shown}', which is no place for a WebSocket")),
    };
    if from.tls && matches!(scheme, "ws" | "http") {
        let own = from.scheme();
        return Err(format!(
            "from {own} to '{shown}', which is not encrypted: that is not followed"
        ));
    }
    let shown = format!("{scheme}:{}", origin_of(&rest));
    let text = Text { value: format!("{scheme}:{rest}"), shown: shown.clone() };
    let parse = if is_polled { FeedUrl::parse_http } else { FeedUrl::parse };
    let mut to = parse(&text)
        .map_err(|_| format!("to '{shown}', with an address that can't be understood"))?;
    to.credentials = if same_origin(from, &to) { from.credentials.clone() } else { None };
    Ok(to)
}

/// Scheme in lower case, and what follows its colon.
fn scheme_of(location: &str) -> Option<(String, &str)> {
    let (scheme, rest) = location.split_once(':')?;
    let mut bytes = scheme.bytes();
    let valid = bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    valid.then(|| (scheme.to_ascii_lowercase(), rest))
}

/// What follows the scheme of a URL, relative to `from` (RFC 3986 section 5.2).
fn relative(from: &FeedUrl, location: &str) -> String {
    if location.starts_with("//") {
        return location.to_string();
    }
    let own = from.path.split('?').next().unwrap_or_default();
    let path = if location.is_empty() {
        from.path.clone()
    } else if location.starts_with('?') {
        format!("{own}{location}")
    } else if location.starts_with('/') {
        without_dots(location)
    } else {
        let folder = own.rfind('/').map_or("/", |at| &own[..=at]);
        without_dots(&format!("{folder}{location}"))
    };
    format!("//{}{path}", from.host_header())
}

/// The path of `text` without `.` and `..`; its query stays.
fn without_dots(text: &str) -> String {
    let at = text.find('?').unwrap_or(text.len());
    let (path, query) = text.split_at(at);
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            other => kept.push(other),
        }
        if last && matches!(segment, "." | "..") {
            kept.push("");
        }
    }
    format!("/{}{query}", kept.join("/"))
}

/// `//HOST:PORT/...` of what follows a scheme.
fn origin_of(rest: &str) -> String {
    let authority =
        rest.strip_prefix("//").unwrap_or(rest).split(['/', '?', '\\']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("//{}/...", super::transport::printable(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> FeedUrl {
        FeedUrl::parse(&Text::plain(text)).unwrap()
    }

    #[test]
    fn locations_are_resolved() {
        let from = url("wss://me:pw@h:8443/a/b?key=secret");
        for (location, expected, shown) in [
            ("wss://new.example/ws?x=1", "wss://new.example/ws?x=1", "wss://new.example/..."),
            ("https://new.example/ws", "wss://new.example/ws", "wss://new.example/..."),
            ("HTTPS://new.example", "wss://new.example/", "wss://new.example/..."),
            ("https://u:p@new.example:1/", "wss://new.example:1/", "wss://new.example:1/..."),
            ("//new.example/ws", "wss://new.example/ws", "wss://new.example/..."),
            ("/c?d", "wss://h:8443/c?d", "wss://h:8443/..."),
            ("c", "wss://h:8443/a/c", "wss://h:8443/..."),
            ("./c", "wss://h:8443/a/c", "wss://h:8443/..."),
            ("../c/./d/..", "wss://h:8443/c/", "wss://h:8443/..."),
            ("../../../c?../x", "wss://h:8443/c?../x", "wss://h:8443/..."),
            ("?x=y", "wss://h:8443/a/b?x=y", "wss://h:8443/..."),
            ("", "wss://h:8443/a/b?key=secret", "wss://h:8443/..."),
            ("/c#secret", "wss://h:8443/c", "wss://h:8443/..."),
            ("/c:d", "wss://h:8443/c:d", "wss://h:8443/..."),
        ] {
            let to = resolve(&from, location).unwrap();
            assert_eq!(to.request_uri(), expected, "{location}");
            assert_eq!(to.to_string(), shown, "{location}");
        }
        assert_eq!(resolve(&url("ws://h/"), "wss://h/").unwrap().request_uri(), "wss://h/");
        let polled = FeedUrl::parse_http(&Text::plain("http://h/a")).unwrap();
        assert_eq!(resolve(&polled, "b").unwrap().request_uri(), "http://h/b");
        assert_eq!(resolve(&polled, "https://x/").unwrap().request_uri(), "https://x/");
        assert!(resolve(&polled, "wss://x/").unwrap_err().contains("can't be polled"));
    }

    #[test]
    fn credentials_stay_with_their_origin() {
        let from = url("wss://me:pw@h/a");
        for (location, stays) in [
            ("/b", true),
            ("wss://H/b", true),
            ("https://h:443/b", true),
            ("https://other:secret@h/b", true),
            ("wss://h:444/b", false),
            ("wss://x.h/b", false),
            ("wss://you:pw@x/b", false),
        ] {
            let credentials = resolve(&from, location).unwrap().credentials;
            assert_eq!(credentials.as_deref(), stays.then_some("me:pw"), "{location}");
        }
    }

    #[test]
    fn what_is_not_followed_shows_its_origin_only() {
        let from = url("wss://h/a");
        for (location, word) in [
            ("ws://h/secret", "not encrypted"),
            ("http://me:secret@h/?secret", "not encrypted"),
            ("ftp://h/secret", "'ftp://h/...'"),
            ("mailto:secret@h", "'mailto://h/...'"),
            ("wss://h:99999/secret", "can't be understood"),
            ("wss:///secret", "can't be understood"),
            ("wss://h h/secret", "can't be understood"),
            ("/sec\u{7f}ret", "can't be understood"),
        ] {
            let error = resolve(&from, location).unwrap_err();
            assert!(error.contains(word), "{location}: {error}");
            assert!(!error.contains("secret"), "{location}: {error}");
        }
        let long = format!("/{}", "x".repeat(10_000));
        assert!(resolve(&from, &long).is_err());
    }
}
