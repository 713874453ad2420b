//! The venue over loopback, with tungstenite as the client; ports are the system's choice.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use clap::Parser;
use native_tls::{Certificate, TlsConnector};
use serde_json::Value;
use tungstenite::error::{Error, ProtocolError};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Bytes, Message, WebSocket};

use super::market::{Market, StreamName};
use super::*;

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}
type Client = WebSocket<Box<dyn Stream>>;

/// A test that hangs fails after this.
const PATIENCE: Duration = Duration::from_secs(20);

fn tcp(venue: &Venue) -> TcpStream {
    let tcp = TcpStream::connect(venue.address()).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    tcp.set_write_timeout(Some(PATIENCE)).unwrap();
    tcp
}

/// Connects plain or with TLS, whichever the venue speaks.
fn connect(venue: &Venue, path: &str) -> Result<Client, Error> {
    let stream: Box<dyn Stream> = match venue.certificate_pem() {
        None => Box::new(tcp(venue)),
        Some(pem) => {
            let connector = TlsConnector::builder()
                .disable_built_in_roots(true)
                .add_root_certificate(Certificate::from_pem(pem.as_bytes()).unwrap())
                .build()
                .unwrap();
            Box::new(connector.connect("localhost", tcp(venue)).unwrap())
        }
    };
    match tungstenite::client(venue.url(path), stream) {
        Ok((client, _)) => Ok(client),
        Err(tungstenite::HandshakeError::Failure(error)) => Err(error),
        Err(tungstenite::HandshakeError::Interrupted(_)) => panic!("the upgrade took too long"),
    }
}

fn status(result: Result<Client, Error>) -> u16 {
    match result {
        Err(Error::Http(response)) => response.status().as_u16(),
        Err(error) => panic!("{error}"),
        Ok(_) => 101,
    }
}

/// The next text; pings on the way are passed over.
fn text(client: &mut Client) -> String {
    loop {
        match client.read().unwrap() {
            Message::Text(text) => return text.to_string(),
            Message::Ping(_) => {}
            other => panic!("not a text: {other:?}"),
        }
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn fast() -> Options {
    Options { rate: Rate::PerSecond(2_000.0), ..Options::default() }
}

#[test]
fn streams_are_what_the_market_says() {
    for security in [Security::Plain, Security::Tls] {
        let venue = start(Options { security, seed: 9, ..fast() }).unwrap();
        for (path, name) in [
            ("/trades", "btcusdt@trade"),
            ("/book?symbols=ethusdt", "ethusdt@book"),
            ("/ticker?symbols=ABC", "abc@ticker"),
        ] {
            let mut client = connect(&venue, path).unwrap();
            let mut market = Market::new(9, StreamName::parse(name).unwrap());
            for k in 1..=200 {
                let text = text(&mut client);
                let time = json(&text)["time"].as_u64().unwrap();
                assert_eq!(text, market.next_message(k, time), "{security:?} {path}");
            }
        }
        let sent = venue.stop();
        assert_eq!((sent.connections, sent.refused), (3, 0), "{sent:?}");
        assert!(sent.messages >= 600 && sent.bytes >= 600 * 100, "{sent:?}");
    }
}

#[test]
fn several_streams_come_in_one_order() {
    let venue = start(fast()).unwrap();
    let order = || -> Vec<Value> {
        let mut client = connect(&venue, "/book?symbols=a,b,c").unwrap();
        (0..300).map(|_| json(&text(&mut client))["stream"].clone()).collect()
    };
    let first = order();
    assert_eq!(first, order());
    assert!(["a@book", "b@book", "c@book"].iter().all(|n| first.contains(&Value::from(*n))));
}

/// A client that is slower than the venue holds it up, and loses nothing.
#[test]
fn nothing_is_left_out_for_a_slow_client() {
    for security in [Security::Plain, Security::Tls] {
        let venue = start(Options { security, rate: Rate::Unlimited, ..fast() }).unwrap();
        let mut client = connect(&venue, "/trades?symbols=a,b").unwrap();
        for k in 1..=50_000 {
            let text = text(&mut client);
            assert!(text.starts_with(&format!(r#"{{"seq":{k},"#)), "{k}: {text}");
        }
    }
}

#[test]
fn subscriptions_on_request() {
    for security in [Security::Plain, Security::Tls] {
        let venue = start(Options { security, ..fast() }).unwrap();
        let mut client = connect(&venue, "/ws").unwrap();
        client.send(Message::text("hello")).unwrap();
        assert_eq!(json(&text(&mut client))["error"]["code"], 1);
        client.send(Message::binary(vec![0xff; 10])).unwrap();
        assert_eq!(json(&text(&mut client))["error"]["code"], 1);

        let request = |method, id| {
            let params = r#"["btcusdt@trade","btcusdt@book"]"#;
            Message::text(format!(r#"{{"method":"{method}","params":{params},"id":{id}}}"#))
        };
        client.send(request("SUBSCRIBE", 1)).unwrap();
        assert_eq!(text(&mut client), r#"{"id":1,"result":null}"#);
        for k in 1..=100 {
            assert_eq!(json(&text(&mut client))["seq"], k);
        }
        client.send(request("UNSUBSCRIBE", 2)).unwrap();
        while text(&mut client) != r#"{"id":2,"result":null}"# {}
        // Whatever came behind the acknowledgement would come before this pong.
        client.send(Message::Ping(Bytes::from_static(b"still there?"))).unwrap();
        assert_eq!(client.read().unwrap(), Message::Pong(Bytes::from_static(b"still there?")));
    }
}

#[test]
fn refusals() {
    let venue = start(Options { connections_max: 1, ..fast() }).unwrap();
    assert_eq!(status(connect(&venue, "/nothing")), 404);
    let mut raw = tcp(&venue);
    raw.write_all(b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut reply = String::new();
    raw.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 426 Upgrade Required\r\n"), "{reply}");
    assert!(reply.contains("\r\nUpgrade: websocket\r\n"), "{reply}");

    let mut first = loop {
        // The thread of a connection before may not have ended yet.
        match connect(&venue, "/ws") {
            Ok(client) => break client,
            Err(Error::Http(response)) if response.status() == 503 => {}
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(status(connect(&venue, "/ws")), 503);
    first.send(Message::text("")).unwrap();
    assert_eq!(json(&text(&mut first))["error"]["code"], 1, "the first is still served");
}

#[test]
fn listening_stays_on_this_machine() {
    let listen = "0.0.0.0:0".parse().unwrap();
    let error = start(Options { listen, ..fast() }).err().unwrap().to_string();
    assert!(error.contains("'0.0.0.0:0'") && error.contains("--allow-remote"), "{error}");
    let venue = start(Options { listen, reach: Reach::Remote, ..fast() }).unwrap();
    assert!(venue.url("/ws").starts_with("ws://127.0.0.1:"), "{}", venue.url("/ws"));
    assert_eq!(status(connect(&venue, "/ws")), 101);
    let listen = venue.address();
    let error = start(Options { listen, reach: Reach::Remote, ..fast() }).err().unwrap();
    assert!(error.to_string().starts_with("cannot listen on '0.0.0.0:"), "{error}");
}

#[test]
fn connections_are_dropped_without_a_word() {
    for security in [Security::Plain, Security::Tls] {
        let drop_after = Some(Duration::from_millis(50));
        let venue = start(Options { security, drop_after, ..fast() }).unwrap();
        let mut client = connect(&venue, "/trades").unwrap();
        let mut messages = 0;
        let error = loop {
            match client.read() {
                Ok(Message::Text(_)) => messages += 1,
                Ok(other) => panic!("{other:?}"),
                Err(error) => break error,
            }
        };
        let dropped = match &error {
            Error::Protocol(error) => *error == ProtocolError::ResetWithoutClosingHandshake,
            Error::Io(error) => error.kind() != std::io::ErrorKind::WouldBlock,
            _ => false,
        };
        assert!(dropped, "{error:?}");
        assert_eq!(messages, venue.stop().messages, "all that was sent before arrived");
        assert!(messages > 0);
    }
}

#[test]
fn stopping_closes_with_1001_in_bounded_time() {
    for security in [Security::Plain, Security::Tls] {
        let venue = start(Options { security, rate: Rate::Unlimited, ..fast() }).unwrap();
        let _silent = tcp(&venue);
        let mut deaf = connect(&venue, "/trades").unwrap();
        text(&mut deaf);
        let mut client = connect(&venue, "/ws").unwrap();
        client.send(Message::text("")).unwrap();
        text(&mut client);
        let reader = std::thread::spawn(move || {
            let Message::Close(Some(frame)) = client.read().unwrap() else { panic!("no close") };
            assert_eq!(frame.code, CloseCode::Away);
            let end = client.read().unwrap_err();
            assert!(matches!(end, Error::ConnectionClosed), "{end:?}");
        });
        let begin = Instant::now();
        venue.stop();
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(5), "{security:?}: {took:?}");
        reader.join().unwrap();
        drop(deaf);
    }
}

#[test]
fn a_clients_close_is_answered() {
    let venue = start(fast()).unwrap();
    let mut client = connect(&venue, "/trades").unwrap();
    text(&mut client);
    client.close(None).unwrap();
    let end = loop {
        match client.read() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(end, Error::ConnectionClosed), "{end:?}");
}

#[test]
fn pings_come_at_their_interval() {
    let ping_every = Duration::from_millis(20);
    let venue = start(Options { ping_every, ..fast() }).unwrap();
    let mut client = connect(&venue, "/ws").unwrap();
    for k in ["1", "2", "3"] {
        assert_eq!(client.read().unwrap(), Message::Ping(Bytes::from(k)));
    }
}

#[test]
fn broken_frames_are_answered_with_the_right_code() {
    // Masked with zeroes, as a client must.
    let rows: [(&str, &[u8], CloseCode); 3] = [
        ("reserved bits", b"\xf1\x80\0\0\0\0", CloseCode::Protocol),
        ("not UTF-8", b"\x81\x81\0\0\0\0\xff", CloseCode::Invalid),
        ("70000 bytes", b"\x81\xff\0\0\0\0\0\x01\x11\x70\0\0\0\0", CloseCode::Size),
    ];
    for (what, bytes, code) in rows {
        let venue = start(fast()).unwrap();
        let mut client = connect(&venue, "/ws").unwrap();
        client.get_mut().write_all(bytes).unwrap();
        match client.read().unwrap() {
            Message::Close(Some(frame)) => assert_eq!(frame.code, code, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: SimulateArgs,
}

#[test]
fn options_as_typed() {
    let parse = |line: &str| Line::try_parse_from(line.split(' ')).map(|line| line.args);
    let args = parse("simulate").unwrap();
    let (got, default) = (args.options(), Options::default());
    assert_eq!(args.listen, DEFAULT_LISTEN.parse().unwrap());
    assert_eq!((got.seed, got.rate), (default.seed, default.rate));
    assert_eq!((got.reach, got.security), (default.reach, default.security));
    assert_eq!((got.ping_every, got.drop_after), (default.ping_every, None));

    let line = "simulate --listen [::1]:0 --rate 0 --seed 7 --drop-after 5s --tls --allow-remote";
    let got = parse(line).unwrap().options();
    assert_eq!((got.seed, got.rate), (7, Rate::Unlimited));
    assert_eq!((got.reach, got.security), (Reach::Remote, Security::Tls));
    assert_eq!(got.drop_after, Some(Duration::from_secs(5)));

    for (line, expected) in [
        ("simulate --cert-out x", "--tls"),
        ("simulate --rate -1", "'-1'"),
        ("simulate --listen nowhere", "nowhere"),
    ] {
        let error = parse(line).unwrap_err().to_string();
        assert!(error.contains(expected), "{line}: {error}");
    }
}

#[test]
fn a_run_prints_urls_writes_the_certificate_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("venue.pem");
    let file = path.to_str().unwrap();
    let line = ["simulate", "--listen=127.0.0.1:0", "--tls", "--cert-out", file];
    let mut out = Vec::new();
    let args = Line::try_parse_from(line).unwrap().args;
    let mut ended = 0;
    let end = || {
        assert!(path.exists(), "written before the end");
        ended += 1;
        Ok(())
    };
    let outcome = run_until(&args, &mut out, end).unwrap();
    assert_eq!(ended, 1);
    assert_eq!(outcome, Outcome::Clean);
    let out = String::from_utf8(out).unwrap();
    assert!(out.starts_with("wss://127.0.0.1:"), "{out}");
    assert!(out.contains("/ticker?symbols=btcusdt\n"), "{out}");
    assert!(out.ends_with("sent 0 messages (0B) on 0 connections; refused 0\n"), "{out}");
    let pem = std::fs::read_to_string(&path).unwrap();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----"), "{pem}");
}
