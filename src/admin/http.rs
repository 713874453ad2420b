//! HTTP/1.1 as far as the admin endpoint speaks it: one request at a time out of the bytes that
//! came, one answer into bytes.
//!
//! Owns what a right request is, and the limits of one. No sockets here. Strict on purpose: what
//! can be read in two ways (two lengths, a length and chunks, two hosts) is refused, so that nothing
//! before us can be made to read it differently. No chunked bodies, no upgrades.

use std::fmt::Write;

/// Largest head of a request, in bytes.
pub const HEAD_BYTES_MAX: usize = 8 << 10;
/// Largest body, in bytes; bodies are read and thrown away: no request needs one.
pub const BODY_BYTES_MAX: usize = 4 << 10;
/// More header lines than this are refused.
const HEADERS_MAX: usize = 64;

/// What may be asked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The answer.
    Get,
    /// Its head alone.
    Head,
    /// An order.
    Post,
}

/// The head of a right request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// How.
    pub method: Method,
    /// What for: begins with a slash, printable ASCII, as it came.
    pub path: String,
    /// Behind the question mark.
    pub query: String,
    /// As the client calls us, with the port.
    pub host: Option<String>,
    /// The page that asks, where a browser does.
    pub origin: Option<String>,
    /// What stands behind `Authorization: Bearer`.
    pub token: Option<String>,
    /// Whether `X-Feedtape: 1` is there, which no page of another site can send.
    pub is_marked: bool,
    /// Whether the client reads OpenMetrics.
    pub wants_openmetrics: bool,
    /// Whether another request may follow.
    pub keep_alive: bool,
    /// Length of the head, with the empty line.
    pub head_bytes: usize,
    /// Length of the body behind it.
    pub body_bytes: usize,
}

/// A request that is refused: the status, and a sentence for whoever sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// The status.
    pub status: u16,
    /// Why.
    pub why: String,
    /// Seconds after which it may be tried again, for a 429 or a 503.
    pub retry_after_s: Option<u64>,
}

impl Wrong {
    /// A refusal.
    pub fn new(status: u16, why: impl Into<String>) -> Wrong {
        Wrong { status, why: why.into(), retry_after_s: None }
    }
}

/// The request whose head stands at the beginning of `bytes`; none while more of it must come.
///
/// # Errors
/// What no right client sends, and what is over a limit. Nothing behind it can be read as requests.
pub fn parse(bytes: &[u8]) -> Result<Option<Request>, Wrong> {
    let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut lines);
    let head_bytes = match head.parse(&bytes[..bytes.len().min(HEAD_BYTES_MAX)]) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) if bytes.len() >= HEAD_BYTES_MAX => {
            return Err(Wrong::new(431, format!("the head is larger than {HEAD_BYTES_MAX} bytes")));
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Wrong::new(431, format!("more than {HEADERS_MAX} header lines")));
        }
        Err(httparse::Error::Version) => return Err(Wrong::new(505, "only HTTP/1.1 is spoken")),
        Err(error) => return Err(Wrong::new(400, format!("no right request: {error}"))),
    };
    let (path, query) = target(head.path.unwrap_or_default())?;
    let method = match head.method.unwrap_or_default() {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        _ => return Err(Wrong::new(405, "only GET, HEAD and POST are taken")),
    };
    let is_old = head.version == Some(0);
    let mut request = Request {
        method,
        path,
        query,
        host: None,
        origin: None,
        token: None,
        is_marked: false,
        wants_openmetrics: false,
        keep_alive: !is_old,
        head_bytes,
        body_bytes: 0,
    };
    read_headers(head.headers, &mut request)?;
    if request.host.is_none() && !is_old {
        return Err(Wrong::new(400, "no Host"));
    }
    if request.body_bytes > 0 && method != Method::Post {
        return Err(Wrong::new(400, "a GET has no body"));
    }
    Ok(Some(request))
}

fn target(target: &str) -> Result<(String, String), Wrong> {
    let is_plain = target.starts_with('/') && target.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_plain || target.contains('#') {
        return Err(Wrong::new(400, "the target must be a path"));
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok((path.to_string(), query.to_string()))
}

fn read_headers(headers: &[httparse::Header<'_>], request: &mut Request) -> Result<(), Wrong> {
    let mut length = None;
    let mut chunked = false;
    let mut mark = None;
    for header in headers {
        let name = header.name.to_ascii_lowercase();
        let text = || match std::str::from_utf8(header.value) {
            Ok(text) => Ok(text.trim().to_string()),
            Err(_) => Err(Wrong::new(400, format!("{}: is no text", header.name))),
        };
        match name.as_str() {
            "host" => once(&mut request.host, text()?, "Host")?,
            "origin" => once(&mut request.origin, text()?, "Origin")?,
            "x-feedtape" => once(&mut mark, text()?, "X-Feedtape")?,
            "content-length" => once(&mut length, text()?, "Content-Length")?,
            "transfer-encoding" => chunked = true,
            "expect" => return Err(Wrong::new(400, "Expect is not taken: send the body at once")),
            "authorization" => {
                let text = text()?;
                let token = match text.split_once(' ') {
                    Some((kind, token)) if kind.eq_ignore_ascii_case("bearer") => token.trim(),
                    _ => return Err(Wrong::new(400, "Authorization: must be a Bearer token")),
                };
                once(&mut request.token, token.to_string(), "Authorization")?;
            }
            "connection" => {
                let text = text()?.to_ascii_lowercase();
                request.keep_alive &= !text.split(',').any(|word| word.trim() == "close");
            }
            "accept" => {
                request.wants_openmetrics |= text()?.contains("application/openmetrics-text");
            }
            _ => {}
        }
    }
    request.is_marked = mark.as_deref() == Some("1");
    match (length, chunked) {
        (Some(_), true) => Err(Wrong::new(400, "both a Content-Length and a Transfer-Encoding")),
        (None, true) => Err(Wrong::new(501, "a body must come whole: no Transfer-Encoding")),
        (None, false) => Ok(()),
        (Some(length), false) => {
            let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
            let bytes = length.parse::<usize>().unwrap_or(usize::MAX);
            match bytes {
                _ if !digits => Err(Wrong::new(400, "Content-Length: is no number")),
                bytes if bytes > BODY_BYTES_MAX => {
                    Err(Wrong::new(413, format!("a body has at most {BODY_BYTES_MAX} bytes")))
                }
                bytes => {
                    request.body_bytes = bytes;
                    Ok(())
                }
            }
        }
    }
}

fn once(place: &mut Option<String>, value: String, name: &str) -> Result<(), Wrong> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Wrong::new(400, format!("more than one {name}"))),
    }
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// What the body is.
    pub content_type: &'static str,
    /// Header lines beside the ones that every answer has, without line ends.
    pub headers: Vec<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// Content type of JSON.
pub const JSON: &str = "application/json";
/// Content type of plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";

impl Response {
    /// With a body.
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Response {
        Response { status, content_type, headers: Vec::new(), body: body.into() }
    }

    /// One JSON value.
    pub fn json(status: u16, value: &impl serde::Serialize) -> Response {
        let mut body = serde_json::to_vec(value).expect("figures and texts are always JSON");
        body.push(b'\n');
        Response::new(status, JSON, body)
    }

    /// A refusal, as JSON like all the others.
    pub fn of(wrong: &Wrong) -> Response {
        let mut response = Response::json(wrong.status, &serde_json::json!({"error": wrong.why}));
        match wrong.status {
            401 => response.headers.push("WWW-Authenticate: Bearer".to_string()),
            405 => response.headers.push("Allow: GET, HEAD, POST".to_string()),
            _ => {}
        }
        if let Some(seconds) = wrong.retry_after_s {
            response.headers.push(format!("Retry-After: {seconds}"));
        }
        response
    }

    /// The bytes to be sent. `head_only`: the answer to a HEAD.
    pub fn render(&self, head_only: bool, keep_alive: bool) -> Vec<u8> {
        let mut head = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\n",
            self.status,
            reason(self.status),
            self.content_type,
            self.body.len()
        );
        for line in &self.headers {
            write!(head, "{line}\r\n").expect("a string takes everything");
        }
        if !keep_alive {
            head.push_str("Connection: close\r\n");
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if !head_only {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The request line and the header lines given, with a Host.
    fn with(line: &str, headers: &str) -> String {
        format!("{line} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
    }

    #[test]
    fn right_requests() {
        let text = with(
            "GET /api/events?since=7",
            "Origin: http://localhost\r\nauthorization: bearer  s3cret \r\nX-Feedtape: 1\r\n\
             Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n",
        );
        let request = parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!(
            request,
            Request {
                method: Method::Get,
                path: "/api/events".to_string(),
                query: "since=7".to_string(),
                host: Some("localhost".to_string()),
                origin: Some("http://localhost".to_string()),
                token: Some("s3cret".to_string()),
                is_marked: true,
                wants_openmetrics: true,
                keep_alive: true,
                head_bytes: text.len(),
                body_bytes: 0,
            }
        );
        let text = with("POST /api/pause", "Content-Length: 2\r\nConnection: Close\r\n") + "{}";
        let request = parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!((request.head_bytes, request.body_bytes), (text.len() - 2, 2));
        assert!(!request.keep_alive && !request.is_marked);
        let old = parse(b"HEAD / HTTP/1.0\r\n\r\n").unwrap().unwrap();
        assert_eq!((old.method, old.keep_alive, old.host), (Method::Head, false, None));
    }

    #[test]
    fn hostile_requests() {
        for (line, headers, status) in [
            ("DELETE /", "", 405),
            ("OPTIONS /", "", 405),
            ("CONNECT example.com:80", "", 400),
            ("GET http://example.com/", "", 400),
            ("GET *", "", 400),
            ("GET /\u{e4}", "", 400),
            ("GET /#x", "", 400),
            ("GET /", "Host: other\r\n", 400),
            ("GET /", "Content-Length: 1\r\n", 400),
            ("POST /", "Content-Length: 1\r\nContent-Length: 1\r\n", 400),
            ("POST /", "Content-Length: 1, 1\r\n", 400),
            ("POST /", "Content-Length: +1\r\n", 400),
            ("POST /", "Content-Length: -1\r\n", 400),
            ("POST /", "Content-Length:\r\n", 400),
            ("POST /", "Content-Length: 4097\r\n", 413),
            ("POST /", "Content-Length: 99999999999999999999999\r\n", 413),
            ("POST /", "Transfer-Encoding: chunked\r\n", 501),
            ("POST /", "Transfer-Encoding: gzip\r\n", 501),
            ("POST /", "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", 400),
            ("POST /", "Expect: 100-continue\r\n", 400),
            ("POST /", "Authorization: Basic eDp5\r\n", 400),
            ("POST /", "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n", 400),
            ("POST /", "X-Feedtape: 1\r\nX-Feedtape: 1\r\n", 400),
            ("GET /", "Bad Name: x\r\n", 400),
            ("GET /", " folded: x\r\n", 400),
            ("GET /", "X: a\0b\r\n", 400),
        ] {
            let text = with(line, headers);
            let wrong = parse(text.as_bytes()).expect_err(&text);
            assert_eq!(wrong.status, status, "{text}: {}", wrong.why);
        }
        for (bytes, status) in [
            (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], 505),
            (b"GET / HTTP/1.1\r\n\r\n", 400),
            (b"GET /\r\n\r\n", 400),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
            (b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n", 400),
            (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ] {
            assert_eq!(parse(bytes).unwrap_err().status, status, "{bytes:?}");
        }
    }

    #[test]
    fn limits_of_the_head() {
        let filler = |n: usize| format!("X: {}\r\n", "a".repeat(n));
        let fixed = with("GET /", &filler(0)).len();
        let fits = with("GET /", &filler(HEAD_BYTES_MAX - fixed));
        assert_eq!(parse(fits.as_bytes()).unwrap().unwrap().head_bytes, HEAD_BYTES_MAX);
        let over = with("GET /", &filler(HEAD_BYTES_MAX - fixed + 1));
        assert_eq!(parse(over.as_bytes()).unwrap_err().status, 431);
        assert_eq!(parse(&b"\r\n".repeat(HEAD_BYTES_MAX)).unwrap_err().status, 431);
        let many = with("GET /", &"a: b\r\n".repeat(HEADERS_MAX));
        assert_eq!(parse(many.as_bytes()).unwrap_err().status, 431);
    }

    #[test]
    fn a_head_that_is_cut_needs_more() {
        let text = with("GET /healthz", "Accept: */*\r\n");
        for len in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..len]), Ok(None), "{len}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            if let Ok(Some(request)) = parse(&bytes) {
                prop_assert!(request.head_bytes <= bytes.len());
            }
        }

        #[test]
        fn a_flipped_byte_never_panics(at in 0usize..90, byte: u8) {
            let text = with("POST /api/pause", "Content-Length: 2\r\nX-Feedtape: 1\r\n");
            let mut bytes = text.into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            // Whatever it is, it says so.
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn answers() {
        let response = Response::of(&Wrong { retry_after_s: Some(60), ..Wrong::new(429, "no") });
        let expected = "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\n\
                        Content-Length: 15\r\nCache-Control: no-store\r\n\
                        X-Content-Type-Options: nosniff\r\nRetry-After: 60\r\n";
        let text = String::from_utf8(response.render(false, true)).unwrap();
        assert_eq!(text, format!("{expected}\r\n{{\"error\":\"no\"}}\n"));
        let text = String::from_utf8(response.render(true, false)).unwrap();
        assert_eq!(text, format!("{expected}Connection: close\r\n\r\n"));
    }
}
