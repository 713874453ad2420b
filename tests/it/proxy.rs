//! Proxies: a feed gets through one, with what it asks for spelled out to the byte, or says which
//! proxy would not have it, and why.
//!
//! The scripted server is proxy and venue in one: what is spoken to the proxy comes first, and the
//! venue answers on the same stream. The venue's name is nobody's: only a proxy may look it up.

use base64::Engine as _;
use nix::sys::signal::Signal;

use super::program::{FEED, Run, on_both};
use super::script::{Script, accept, script};
use super::server::{Scheme, Server, TlsMode};

/// The host in [`TlsMode::OtherHost`]'s certificate.
const VENUE: &str = "other.invalid:7070";
const ESTABLISHED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

/// What a feed asks an HTTP proxy for.
fn connect(authorization: &str) -> String {
    let agent = concat!("User-Agent: feedtape/", env!("CARGO_PKG_VERSION"));
    format!("CONNECT {VENUE} HTTP/1.1\r\nHost: {VENUE}\r\n{agent}\r\n{authorization}\r\n")
}

fn basic(credentials: &str) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(credentials);
    format!("Proxy-Authorization: Basic {encoded}\r\n")
}

/// What a feed asks a SOCKS5 proxy for, given the address as it is sent.
fn socks(address: &[u8]) -> Vec<u8> {
    [&[5, 1, 0][..], address, &7070u16.to_be_bytes()].concat()
}

fn socks_name() -> Vec<u8> {
    socks(&[&[3, 13][..], b"other.invalid"].concat())
}

const SOCKS_DONE: [u8; 10] = [5, 0, 0, 1, 127, 0, 0, 1, 0, 80];

/// The rest of a connection: a venue that sends one message.
fn then_serve(mut before: Script) -> Script {
    before.steps.extend(accept().text("x").expect_bye().steps);
    before
}

/// A feed at [`VENUE`], and a server that is its proxy; the proxy's URL is up to the caller.
fn run(scheme: Scheme, scripts: impl Into<Vec<Script>>) -> (Run, String) {
    let server = Server::start_tls(scheme, TlsMode::OtherHost, scripts);
    let proxy = format!("127.0.0.1:{}", server.port());
    let kind = if scheme == Scheme::Ws { "ws" } else { "wss" };
    let run = Run::new().beside(server).typed_feed(&format!("{FEED}={kind}://{VENUE}/stream"));
    (run.trusting("ca.pem").args("--max-messages 1"), proxy)
}

/// One message comes through the proxy, and nobody hears its password.
fn check_through(scheme: Scheme, before: Script, proxy_url: &str) {
    let (run, proxy) = run(scheme, [then_serve(before)]);
    let run = run.option("--proxy", &proxy_url.replace("PROXY", &proxy)).finish(0);
    let tape = run.tape();
    assert_eq!(tape.messages().len(), 1);
    assert_eq!(tape.events("connected")[0]["peer"], proxy.as_str());
    assert_eq!(run.server().requests()[0].header("host"), [VENUE]);
    assert!(run.server().requests()[0].header("proxy-authorization").is_empty());
    let said = run.stderr();
    assert!(said.contains(&format!("through proxy {proxy}")), "{said}");
    assert!(!said.contains("pa%3Ass") && !said.contains("pa:ss"), "{said}");
}

/// The first attempt fails for a reason that names the proxy and holds `words`; the second one
/// gets through.
fn check_refused(scheme: Scheme, proxy_url: &str, first: Script, words: &str) {
    let socks = proxy_url.starts_with("socks");
    let next = if socks {
        script()
            .expect_bare([5, 1, 0])
            .send_bare([5, 0])
            .expect_bare(socks_name())
            .send_bare(SOCKS_DONE)
    } else {
        script().expect_bare(connect("")).send_bare(ESTABLISHED)
    };
    let (run, proxy) = run(scheme, [first, then_serve(next)]);
    let run = run.option("--proxy", &proxy_url.replace("PROXY", &proxy)).finish(0);
    let tape = run.tape();
    let reason = tape.events("disconnected")[0]["reason"].as_str().unwrap();
    assert!(reason.contains(words), "{words}: {reason}");
    assert!(reason.contains(&proxy), "{reason}");
}

#[test]
fn http() {
    on_both(|scheme| {
        let plain = script().expect_bare(connect("")).send_bare(ESTABLISHED);
        check_through(scheme, plain, "http://PROXY");
        let headers = "HTTP/1.0 200 OK\r\nVia: x\r\nProxy-Agent: y\r\n\r\n";
        let more = script().expect_bare(connect("")).send_bare(headers);
        check_through(scheme, more, "PROXY");
        let with_password =
            script().expect_bare(connect(&basic("me:pa:ss"))).send_bare(ESTABLISHED);
        check_through(scheme, with_password, "http://me:pa%3Ass@PROXY/");
    });
}

/// What stands right behind the proxy's answer is the venue's.
#[test]
fn nothing_is_read_beyond_the_proxys_answer() {
    let both = format!("{ESTABLISHED}HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
    let first = script().expect_bare(connect("")).send_bare(both);
    let (run, proxy) = run(
        Scheme::Ws,
        [first.stall(), then_serve(script().expect_bare(connect("")).send_bare(ESTABLISHED))],
    );
    let run = run.option("--proxy", &format!("http://{proxy}")).finish(0);
    let tape = run.tape();
    let reason = tape.events("disconnected")[0]["reason"].as_str().unwrap();
    assert!(reason.contains("upgrade: the server answered 503"), "{reason}");
}

#[test]
fn socks5() {
    on_both(|scheme| {
        let open = || script().expect_bare([5, 1, 0]).send_bare([5, 0]).expect_bare(socks_name());
        check_through(scheme, open().send_bare(SOCKS_DONE), "socks5h://PROXY");
        let by_name = [&[5, 0, 0, 3, 4][..], b"name", &[0, 80]].concat();
        check_through(scheme, open().send_bare(by_name), "socks5://PROXY");
        let by_ipv6 = [&[5, 0, 0, 4][..], &[0; 16], &[0, 80]].concat();
        check_through(scheme, open().send_bare(by_ipv6), "socks5://PROXY");
        let with_password = script()
            .expect_bare([5, 2, 0, 2])
            .send_bare([5, 2])
            .expect_bare([&[1, 2][..], b"me", &[5], b"pa:ss"].concat())
            .send_bare([1, 0])
            .expect_bare(socks_name())
            .send_bare(SOCKS_DONE);
        check_through(scheme, with_password, "socks5://me:pa%3Ass@PROXY");
        let not_wanted = script()
            .expect_bare([5, 2, 0, 2])
            .send_bare([5, 0])
            .expect_bare(socks_name())
            .send_bare(SOCKS_DONE);
        check_through(scheme, not_wanted, "socks5://me:pa%3Ass@PROXY");
    });
}

/// An address needs no lookup, and is sent as one.
#[test]
fn socks5_with_addresses() {
    for (host, address) in [
        ("192.0.2.1", vec![1, 192, 0, 2, 1]),
        ("[2001:db8::1]", [&[4, 0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1]].concat()),
    ] {
        let before = script().expect_bare([5, 1, 0]).send_bare([5, 0]);
        let before = before.expect_bare(socks(&address)).send_bare(SOCKS_DONE);
        let server = Server::start(Scheme::Ws, [then_serve(before)]);
        let proxy = format!("socks5://127.0.0.1:{}", server.port());
        let run = Run::new().beside(server).typed_feed(&format!("{FEED}=ws://{host}:7070/"));
        run.option("--proxy", &proxy).args("--max-messages 1").finish(0);
    }
}

#[test]
fn http_proxies_that_refuse() {
    on_both(|scheme| {
        let asked = || script().expect_bare(connect(""));
        for (answer, words) in [
            ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "give user:password"),
            ("HTTP/1.1 403 Forbidden\r\n\r\n", "would not connect to other.invalid:7070: 403 Forb"),
            ("HTTP/1.1 502 Bad Gateway\r\nX: y\r\n\r\nbody", "502 Bad Gateway"),
            ("HTTP/1.1\r\n\r\n", "not HTTP"),
            ("HTTP/1.1 abc\r\n\r\n", "not HTTP"),
            ("SSH-2.0-OpenSSH\r\n", "does not speak HTTP"),
            ("", "closed the connection"),
            ("HTTP/1.1 200 OK\r\n", "closed the connection"),
        ] {
            check_refused(scheme, "http://PROXY", asked().send_bare(answer), words);
        }
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(20_000));
        check_refused(scheme, "http://PROXY", asked().send_bare(endless).stall_bare(), "too long");
    });
    for wrong in ["407 Proxy Authentication Required", "401 Unauthorized"] {
        let asked = || script().expect_bare(connect(&basic("me:no")));
        let first = asked().send_bare(format!("HTTP/1.1 {wrong}\r\n\r\n"));
        let (run, proxy) = run(Scheme::Ws, [first, then_serve(asked().send_bare(ESTABLISHED))]);
        let run = run.option("--proxy", &format!("http://me:no@{proxy}")).finish(0);
        let reason = run.tape().events("disconnected")[0]["reason"].as_str().unwrap().to_string();
        assert!(reason.contains("does not accept the user and password"), "{reason}");
    }
}

#[test]
fn socks_proxies_that_refuse() {
    on_both(|scheme| {
        let check = |first: Script, words: &str| {
            check_refused(scheme, "socks5://PROXY", first, words);
        };
        let greeted = || script().expect_bare([5, 1, 0]);
        check(greeted().send_bare([5, 255]), "give user:password");
        check(greeted().send_bare([5, 2]), "give user:password");
        check(greeted().send_bare(*b"HTTP/1.1 400\r\n\r\n"), "does not speak SOCKS5");
        check(greeted(), "closed the connection");
        let asked = || greeted().send_bare([5, 0]).expect_bare(socks_name());
        check(asked().send_bare([5, 2, 0, 1, 0, 0, 0, 0, 0, 0]), "rules don't allow");
        check(asked().send_bare([5, 5, 0, 1, 0, 0, 0, 0, 0, 0]), "connection refused");
        check(asked().send_bare([5, 99, 0, 1, 0, 0, 0, 0, 0, 0]), "SOCKS code 99");
        check(asked().send_bare([5, 0, 0, 9, 0, 0]), "kind 9");
        check(asked().send_bare([4, 0, 0, 1]), "does not speak SOCKS5");
        check(asked().send_bare([5, 0, 0, 1, 0]), "closed the connection");
    });
    let asked = || {
        script()
            .expect_bare([5, 2, 0, 2])
            .send_bare([5, 2])
            .expect_bare([&[1, 2][..], b"me", &[2], b"no"].concat())
    };
    let second = asked().send_bare([1, 0]).expect_bare(socks_name()).send_bare(SOCKS_DONE);
    let (run, proxy) = run(Scheme::Ws, [asked().send_bare([1, 1]), then_serve(second)]);
    let run = run.option("--proxy", &format!("socks5://me:no@{proxy}")).finish(0);
    let reason = run.tape().events("disconnected")[0]["reason"].as_str().unwrap().to_string();
    assert!(reason.contains("does not accept the user and password"), "{reason}");
}

/// One deadline over all of it, wherever the proxy falls silent.
fn check_silent(scheme: Scheme, proxy_url: &str, first: Script, words: &str) {
    let (run, proxy) = run(scheme, [first.stall_bare()]);
    let run = run
        .option("--proxy", &proxy_url.replace("PROXY", &proxy))
        .args("--connect-timeout 500ms --backoff-min 1h --backoff-max 1h")
        .start();
    run.on_tape("\"event\":\"disconnected\"");
    run.signal(Signal::SIGTERM);
    let run = run.finish(0);
    let tape = run.tape();
    assert_eq!(tape.events("disconnected")[0]["reason"], words);
}

#[test]
fn silent_http_proxies() {
    let asked = || script().expect_bare(connect(""));
    for first in [script(), asked(), asked().send_bare("HT"), asked().send_bare("HTTP/1.1 200 O")] {
        check_silent(Scheme::Ws, "http://PROXY", first, "timeout: proxy (500ms)");
    }
    check_silent(Scheme::Ws, "http://PROXY", asked_and_answered(), "timeout: upgrade (500ms)");
    check_silent(Scheme::Wss, "http://PROXY", asked_and_answered(), "timeout: tls (500ms)");
}

#[test]
fn silent_socks_proxies() {
    let greeted = || script().expect_bare([5, 1, 0]);
    let asked = || greeted().send_bare([5, 0]).expect_bare(socks_name());
    for first in [
        greeted(),
        greeted().send_bare([5]),
        asked(),
        asked().send_bare([5, 0, 0]),
        asked().send_bare([5, 0, 0, 3, 200, 1]),
    ] {
        check_silent(Scheme::Wss, "socks5://PROXY", first, "timeout: proxy (500ms)");
    }
}

fn asked_and_answered() -> Script {
    script().expect_bare(connect("")).send_bare(ESTABLISHED)
}

#[test]
fn proxies_that_nobody_runs() {
    let run = Run::new()
        .typed_feed(&format!("{FEED}=ws://{VENUE}/"))
        .args("--proxy http://nobody.invalid:1")
        .start();
    run.on_tape("\"event\":\"disconnected\"");
    run.signal(Signal::SIGTERM);
    let run = run.finish(0);
    let tape = run.tape();
    let reason = tape.events("disconnected")[0]["reason"].as_str().unwrap();
    assert!(reason.contains("lookup: proxy nobody.invalid:1: "), "{reason}");
}

/// As curl reads it; an option counts more.
#[test]
fn proxies_of_the_environment() {
    on_both(|scheme| {
        let name = if scheme == Scheme::Ws { "http_proxy" } else { "HTTPS_PROXY" };
        let (through, proxy) = run(scheme, [then_serve(asked_and_answered())]);
        through.env(name, &format!("http://{proxy}")).finish(0);
        let (through, proxy) = run(scheme, [then_serve(asked_and_answered())]);
        let through = through.env("all_proxy", "http://nobody.invalid:1");
        through.option("--proxy", &proxy).finish(0);
        for (option, no_proxy) in [("", "localhost,127.0.0.0/8"), ("--proxy none", "")] {
            Run::serve(scheme, [accept().text("x").expect_bye()])
                .env("all_proxy", "socks5://nobody.invalid:1")
                .env("no_proxy", no_proxy)
                .args(option)
                .args("--max-messages 1")
                .finish(0);
        }
    });
}

/// The password of a proxy comes from where other secrets come from.
#[test]
fn secret_password() {
    let before = script().expect_bare(connect(&basic("me:s3cret"))).send_bare(ESTABLISHED);
    let (run, proxy) = run(Scheme::Ws, [then_serve(before)]);
    let run = run
        .env("PASSWORD", "s3cret")
        .option("--proxy", &format!("http://me:${{PASSWORD}}@{proxy}"))
        .finish(0);
    assert!(!run.stderr().contains("s3cret"));
}
