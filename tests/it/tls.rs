//! TLS beyond the right certificate that all other tests use: whom a feed trusts, and what it
//! shows of itself.

use nix::sys::signal::Signal;

use super::program::{FEED, Run};
use super::script::{accept, script};
use super::server::{Scheme, Server, TlsMode};

/// The feed doesn't trust the server, says why, and comes back for ever.
fn check_refused(run: Run, words: &[&str]) {
    let run = run.start();
    run.on_tape("\"event\":\"disconnected\",\"conn\":2");
    run.signal(Signal::SIGTERM);
    let run = run.finish(0);
    let tape = run.tape();
    assert!(tape.events("connected").is_empty(), "{:?}", tape.outline());
    for disconnected in &tape.events("disconnected")[..2] {
        let reason = disconnected["reason"].as_str().unwrap().to_lowercase();
        assert!(words.iter().any(|word| reason.contains(word)), "{reason}");
    }
}

fn check_recorded(run: Run) {
    let run = run.args("--max-messages 1").finish(0);
    assert_eq!(run.tape().messages().len(), 1);
}

fn serve(mode: TlsMode) -> Run {
    Run::serve_tls(mode, [accept().text("x").expect_bye()])
}

fn serve_refused(mode: TlsMode) -> Run {
    Run::serve_tls(mode, [script().expect_tls_failure().again()])
}

#[test]
fn unknown_authority() {
    check_refused(serve_refused(TlsMode::Plain), &["certificate"]);
    check_refused(serve_refused(TlsMode::Plain).trusting("other-ca.pem"), &["certificate"]);
}

#[test]
fn certificate_of_another_host() {
    let run = serve_refused(TlsMode::OtherHost).trusting("ca.pem");
    check_refused(run, &["certificate", "host"]);
}

#[test]
fn insecure_trusts_all() {
    check_recorded(serve(TlsMode::Plain).args("--insecure"));
    check_recorded(serve(TlsMode::OtherHost).args("--insecure"));
}

#[test]
fn certificate_of_the_client() {
    let with_cert = |run: Run| {
        run.trusting("ca.pem")
            .file_option("--cert", "client.pem")
            .file_option("--key", "client.key")
    };
    check_recorded(with_cert(serve(TlsMode::ClientCert)));
    check_recorded(with_cert(serve(TlsMode::Plain)));
    // With TLS 1.3 the client hears of the refusal only after its own handshake is done.
    let without = serve_refused(TlsMode::ClientCert).trusting("ca.pem");
    check_refused(without, &["certificate", "reset", "handshake"]);
}

/// wss where the server speaks ws, and the other way round.
#[test]
fn the_wrong_scheme() {
    let plain = script().raw("plain HTTP", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()).again();
    let plain = Server::start(Scheme::Ws, [plain]);
    let url = plain.url("/").replace("ws://", "wss://");
    check_refused(Run::new().typed_feed(&format!("{FEED}={url}")), &["tls"]);
    let secure = Server::start(Scheme::Wss, [script().expect_tls_failure().again()]);
    let url = secure.url("/").replace("wss://", "ws://");
    check_refused(Run::new().typed_feed(&format!("{FEED}={url}")), &["upgrade"]);
}

/// All addresses of a name are tried: this server listens on the IPv4 one only.
#[test]
fn a_name_with_several_addresses() {
    for scheme in [Scheme::Ws, Scheme::Wss] {
        let server = Server::start(scheme, [accept().text("x").expect_bye()]);
        let url = server.url("/").replace("127.0.0.1", "localhost");
        check_recorded(Run::new().typed_feed(&format!("{FEED}={url}")).trusting("ca.pem"));
        let host = format!("localhost:{}", server.port());
        assert_eq!(server.requests()[0].header("host"), [host]);
    }
}
