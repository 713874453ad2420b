//! The scripted server against a client that is known to be right: tungstenite's own.
//!
//! Shows that the right steps pass, and that wrong ones are noticed: a test that can't fail is
//! none.

use std::net::TcpStream;

use tungstenite::{Error, Message, WebSocket};

use super::certs::CERTS;
use super::program::on_both;
use super::script::{Answer, Script, accept, ping, script};
use super::server::{Scheme, Server};
use super::wire::{self, TEXT};

type Client = WebSocket<Box<dyn Stream>>;

trait Stream: std::io::Read + std::io::Write {}
impl<T: std::io::Read + std::io::Write> Stream for T {}

fn connect(server: &Server) -> Client {
    let socket = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    let stream: Box<dyn Stream> = match server.scheme() {
        Scheme::Ws => Box::new(socket),
        Scheme::Wss => {
            let ca = native_tls::Certificate::from_pem(&CERTS.server_ca.cert_pem()).unwrap();
            let tls = native_tls::TlsConnector::builder().add_root_certificate(ca).build().unwrap();
            Box::new(tls.connect("127.0.0.1", socket).unwrap())
        }
    };
    let (client, response) = tungstenite::client(server.url("/x"), stream).unwrap();
    assert_eq!(response.status(), 101);
    client
}

fn texts(client: &mut Client, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    while texts.len() < count {
        match client.read().unwrap() {
            Message::Text(text) => texts.push(text.to_string()),
            Message::Ping(_) => {}
            other => panic!("{other}"),
        }
    }
    texts
}

#[test]
fn a_right_client_passes() {
    on_both(|scheme| {
        let slow = Answer { slowly: true, ..Answer::default() };
        let fragments = wire::fragments(TEXT, &[b"on", b"e"], &ping(b"p"));
        let server = Server::start(
            scheme,
            [
                script()
                    .upgrade(slow)
                    .expect_text("hello")
                    .raw("fragments", fragments)
                    .text("two")
                    .mark("all said")
                    .expect_bye(),
                script()
                    .accept_glued(wire::message(&wire::Message::text("glued")))
                    .expect_ping()
                    .close(4000, "enough"),
            ],
        );
        let mut client = connect(&server);
        client.send(Message::text("hello")).unwrap();
        assert_eq!(texts(&mut client, 2), ["one", "two"]);
        server.reached("all said");
        let normal = tungstenite::protocol::frame::coding::CloseCode::Normal;
        let bye = tungstenite::protocol::CloseFrame { code: normal, reason: "".into() };
        client.close(Some(bye)).unwrap();
        while client.read().is_ok() {}
        drop(client);

        let mut client = connect(&server);
        assert_eq!(texts(&mut client, 1), ["glued"]);
        client.send(Message::Ping(b"x"[..].into())).unwrap();
        let close = loop {
            match client.read().unwrap() {
                Message::Close(frame) => break frame.unwrap(),
                _ => continue,
            }
        };
        assert_eq!((u16::from(close.code), close.reason.as_str()), (4000, "enough"));
        assert!(matches!(client.read(), Err(Error::ConnectionClosed)));
        drop(client);
        assert_eq!(server.failures(), Vec::<String>::new());
        assert_eq!(server.requests()[1].path, "/x");
    });
}

/// The one failure that the script has with a client that says hello and then leaves.
fn check_failure(script: Script, expected: &str) {
    on_both(|scheme| {
        let server = Server::start(scheme, [script.clone()]);
        let mut client = connect(&server);
        client.send(Message::text("hello")).unwrap();
        drop(client);
        let failures = server.failures();
        assert!(failures.len() == 1 && failures[0].contains(expected), "{failures:?}");
    });
}

#[test]
fn wrong_clients_are_noticed() {
    check_failure(accept().expect_text("something else"), "step 2");
    check_failure(accept().expect_bye(), "step 2");
    check_failure(accept().expect_text("hello").ping_pong(b"x"), "step 3");
    check_failure(accept().expect_text("hello").expect_bye(), "step 3");
    check_failure(accept().expect_text("hello").expect_close(1002), "the client is gone");
}

#[test]
fn missing_and_surplus_connections_are_noticed() {
    let server = Server::start(Scheme::Ws, [accept(), accept()]);
    drop(connect(&server));
    assert!(server.failures()[0].contains("only 1 connections of 2"));
    drop(connect(&server));
    assert_eq!(server.failures(), Vec::<String>::new());
    drop(TcpStream::connect(("127.0.0.1", server.port())).unwrap());
    super::program::eventually("the failure", || server.has_failed().then_some(()));
    assert!(server.failures()[0].contains("connection 3"));
}
