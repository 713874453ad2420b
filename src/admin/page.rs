//! The dashboard's files, which the program carries in itself.
//!
//! Owns their names and what a browser may do with them: nothing but what comes from here.

use super::http::Response;

/// Nothing from elsewhere, nothing inline, and no other page may show it in a frame.
const POLICY: &str = "Content-Security-Policy: default-src 'none'; script-src 'self'; \
                      style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// One file.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    path: &'static str,
    content_type: &'static str,
    body: &'static str,
}

static PAGES: [Page; 3] = [
    Page {
        path: "/",
        content_type: "text/html; charset=utf-8",
        body: include_str!("page/index.html"),
    },
    Page {
        path: "/app.js",
        content_type: "text/javascript; charset=utf-8",
        body: include_str!("page/app.js"),
    },
    Page {
        path: "/style.css",
        content_type: "text/css; charset=utf-8",
        body: include_str!("page/style.css"),
    },
];

/// The file at this path.
pub fn find(path: &str) -> Option<&'static Page> {
    PAGES.iter().find(|page| page.path == path)
}

impl Page {
    /// The answer.
    pub fn response(&self) -> Response {
        let mut response = Response::new(200, self.content_type, self.body);
        response.headers = vec![POLICY.to_string(), "Referrer-Policy: no-referrer".to_string()];
        response
    }
}
