//! Redirects of the upgrade: followed for one connection, and nothing of ours goes astray.

use super::program::{FEED, Run, on_both};
use super::script::{Answer, Script, accept, script};
use super::server::{Scheme, Server};

fn moved(status: &str, location: &str) -> Script {
    script().refuse(status, &[&format!("Location: {location}")])
}

fn reason(run: &Run) -> String {
    run.tape().events("disconnected")[0]["reason"].as_str().unwrap().to_string()
}

fn agreed() -> Script {
    let headers = vec!["Sec-WebSocket-Protocol: v2".to_string()];
    script().upgrade(Answer { headers, ..Answer::default() })
}

/// Two hops, one within the second server; the log has their origins, and the next connection
/// begins at the feed's own URL again.
#[test]
fn a_chain_is_followed_for_one_connection() {
    on_both(|scheme| {
        let far = Server::start(
            scheme,
            [
                moved("307 Temporary Redirect", "../real?key=s3cret"),
                agreed().text("x").close(1001, ""),
            ],
        );
        let http = far.url("/a/b/c?token=s3cret").replacen("ws", "http", 1);
        let near = [moved("302 Found", &http), agreed().text("y").expect_bye()];
        let run = Run::serve(scheme, near)
            .beside(far)
            .option("--header", "X-Key: k1")
            .args("--max-messages 2 --subprotocol v2")
            .finish(0);
        let [near, far] = [0, 1].map(|n| run.servers()[n].requests());
        assert_eq!([&near[0].path, &near[1].path], ["/stream", "/stream"]);
        assert_eq!([&far[0].path, &far[1].path], ["/a/b/c?token=s3cret", "/a/real?key=s3cret"]);
        for request in &far {
            assert_eq!(request.header("host"), [format!("127.0.0.1:{}", run.servers()[1].port())]);
            assert!(request.header("x-key").is_empty(), "{request:?}");
            assert_eq!(request.header("sec-websocket-protocol"), ["v2"]);
        }
        assert_eq!(near[1].header("x-key"), ["k1"]);
        let tape = run.tape();
        let peers: Vec<&str> =
            tape.events("connected").iter().map(|event| event["peer"].as_str().unwrap()).collect();
        let expected = [1, 0].map(|n: usize| format!("127.0.0.1:{}", run.servers()[n].port()));
        assert_eq!(peers, expected);
        let said = run.stderr();
        let there = run.servers()[1].url("/...");
        assert!(said.contains(&format!("redirected to {there}, redirected to {there}")), "{said}");
        assert!(!said.contains("s3cret"), "{said}");
    });
}

#[test]
fn within_the_server_all_is_sent_again() {
    on_both(|scheme| {
        for status in ["301 Moved Permanently", "303 See Other", "308 Permanent Redirect"] {
            let server =
                Server::start(scheme, [moved(status, "/b"), accept().text("x").expect_bye()]);
            let url = server.url("/a").replacen("://", "://me:pw@", 1);
            let run = Run::new()
                .beside(server)
                .typed_feed(&format!("{FEED}={url}"))
                .trusting("ca.pem")
                .option("--header", "X-Key: k1")
                .args("--max-messages 1")
                .finish(0);
            let requests = run.server().requests();
            assert_eq!(requests[1].path, "/b");
            assert_eq!(requests[1].header("x-key"), ["k1"]);
            assert_eq!(requests[1].header("authorization"), requests[0].header("authorization"));
            assert_eq!(requests[1].header("authorization").len(), 1);
        }
    });
}

/// Credentials in the URL are for its origin only; not even a way back brings them out again.
#[test]
fn credentials_stay_at_home() {
    let home = Server::start(Scheme::Ws, [accept().text("x").expect_bye()]);
    let back = home.url("/back");
    let far = Server::start(Scheme::Ws, [moved("302 Found", &back)]);
    let away = far.url("/").replacen("://", "://you:other@", 1);
    let start = Server::start(Scheme::Ws, [moved("302 Found", &away)]);
    let url = start.url("/").replacen("://", "://me:pw@", 1);
    let run = Run::new()
        .beside(start)
        .beside(far)
        .beside(home)
        .typed_feed(&format!("{FEED}={url}"))
        .args("--max-messages 1")
        .finish(0);
    let sent = [0, 1, 2].map(|n| run.servers()[n].requests()[0].header("authorization").len());
    assert_eq!(sent, [1, 0, 0]);
}

#[test]
fn a_loop_ends() {
    on_both(|scheme| {
        let around = moved("302 Found", "/stream?s3cret");
        let mut scripts = vec![around; 6];
        scripts.push(accept().text("x").expect_bye());
        let run = Run::serve(scheme, scripts).args("--max-messages 1").finish(0);
        let reason = reason(&run);
        let there = run.server().url("/...");
        assert_eq!(reason.matches(&format!("redirected to {there}")).count(), 5, "{reason}");
        assert!(reason.contains("does not end") && !reason.contains("s3cret"), "{reason}");
    });
}

#[test]
fn redirects_that_are_not_followed() {
    on_both(|scheme| {
        let mut cases = vec![
            ("302 Found", "Location: ftp://h.invalid/s3cret", "'ftp://h.invalid/...'"),
            ("302 Found", "Location: //h:99999/s3cret", "can't be understood"),
            ("302 Found", "X: y", "the server answered 302 Found"),
            ("304 Not Modified", "Location: /s3cret", "the server answered 304"),
        ];
        if scheme == Scheme::Wss {
            cases.push(("301 Moved", "Location: ws://127.0.0.1/s3cret", "not encrypted"));
            cases.push(("301 Moved", "Location: http://127.0.0.1/s3cret", "not encrypted"));
        }
        for (status, header, words) in cases {
            let first = script().refuse(status, &[header]);
            let run = Run::serve(scheme, [first, accept().text("x").expect_bye()]);
            let run = run.args("--max-messages 1").finish(0);
            let reason = reason(&run);
            assert!(reason.starts_with("upgrade: ") && reason.contains(words), "{reason}");
            assert!(!reason.contains("s3cret") && !run.stderr().contains("s3cret"), "{reason}");
        }
    });
}

/// What fails after a redirect says where that was.
#[test]
fn a_redirect_to_a_server_that_refuses() {
    on_both(|scheme| {
        let far = Server::start(scheme, [script().refuse("404 Not Found", &[])]);
        let first = moved("302 Found", &far.url("/s3cret"));
        let there = far.url("/...");
        let run = Run::serve(scheme, [first, accept().text("x").expect_bye()])
            .beside(far)
            .args("--max-messages 1")
            .finish(0);
        let expected = format!("upgrade: redirected to {there}: the server answered 404 Not Found");
        assert_eq!(reason(&run), expected);
    });
}
