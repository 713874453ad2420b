//! The simulated market: what the venue's streams say.
//!
//! Owns the names of streams, a seeded random walk per stream and the text of its messages. Pure:
//! no clock, no socket. For one seed and one stream name the k-th message is always the same,
//! except for `seq` and `time`, which the caller gives.
//!
//! Prices are whole ticks and sizes whole ten-thousandths, so no rounding can differ between
//! machines.

use std::fmt::{self, Write};

use fastrand::Rng;

/// Levels on each side of a book.
const DEPTH: usize = 5;
/// A walk stays between its first price divided by this and times this.
const RANGE: u64 = 4;
/// Symbols are at most this long.
const SYMBOL_BYTES_MAX: usize = 20;
/// One unit of an asset in the unit of sizes.
const SIZE_SCALE: u64 = 10_000;

/// Symbols with a start price one would expect: name, ticks, decimals of a tick.
const KNOWN: [(&str, u64, u32); 4] = [
    ("btcusdt", 975_421, 1),
    ("ethusdt", 341_276, 2),
    ("solusdt", 20_137, 2),
    ("xrpusdt", 23_418, 4),
];

/// What a stream tells about its symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    /// Each trade.
    Trade,
    /// A snapshot of the order book, then its changes.
    Book,
    /// Last price, best prices and the day's range.
    Ticker,
}

impl Channel {
    /// The channel called `name`, as in `btcusdt@trade`.
    pub(super) fn named(name: &str) -> Option<Channel> {
        match name {
            "trade" => Some(Channel::Trade),
            "book" => Some(Channel::Book),
            "ticker" => Some(Channel::Ticker),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Channel::Trade => "trade",
            Channel::Book => "book",
            Channel::Ticker => "ticker",
        }
    }
}

/// A stream's name, `btcusdt@trade`: lower-case letters and digits, `@`, channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StreamName {
    symbol: String,
    channel: Channel,
}

impl StreamName {
    /// `None` where `symbol` is not 1 to 20 ASCII letters and digits; case does not matter.
    pub(super) fn new(symbol: &str, channel: Channel) -> Option<StreamName> {
        let valid = (1..=SYMBOL_BYTES_MAX).contains(&symbol.len())
            && symbol.bytes().all(|byte| byte.is_ascii_alphanumeric());
        valid.then(|| StreamName { symbol: symbol.to_ascii_lowercase(), channel })
    }

    /// The stream called `text`, as in `btcusdt@trade`.
    pub(super) fn parse(text: &str) -> Option<StreamName> {
        let (symbol, channel) = text.split_once('@')?;
        StreamName::new(symbol, Channel::named(channel)?)
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.symbol, self.channel.name())
    }
}

/// One stream's walk, from its first message on.
#[derive(Debug)]
pub(super) struct Market {
    name: StreamName,
    symbol_upper: String,
    /// Number of the last message, from 1; 0 before the first.
    id: u64,
    walk: Walk,
    state: State,
}

#[derive(Debug)]
enum State {
    Trade,
    Book(Book),
    Ticker(Day),
}

#[derive(Debug)]
struct Day {
    open: u64,
    high: u64,
    low: u64,
    volume: u64,
}

impl Market {
    /// The walk of the stream `name` for `seed`.
    pub(super) fn new(seed: u64, name: StreamName) -> Market {
        let mut walk = Walk::new(seed, &name);
        let state = match name.channel {
            Channel::Trade => State::Trade,
            Channel::Book => State::Book(Book::new(&mut walk)),
            Channel::Ticker => {
                State::Ticker(Day { open: walk.mid, high: walk.mid, low: walk.mid, volume: 0 })
            }
        };
        Market { symbol_upper: name.symbol.to_ascii_uppercase(), name, id: 0, walk, state }
    }

    pub(super) fn name(&self) -> &StreamName {
        &self.name
    }

    /// The next message, as one line of JSON. `seq` is the connection's count of messages,
    /// `time_ms` the wall time in Unix milliseconds.
    pub(super) fn next_message(&mut self, seq: u64, time_ms: u64) -> String {
        self.id += 1;
        let mut text = String::with_capacity(384);
        let (name, symbol, id) = (&self.name, &self.symbol_upper, self.id);
        let mut put = |part: fmt::Arguments<'_>| {
            text.write_fmt(part).expect("writing to a string cannot fail");
        };
        put(format_args!(
            r#"{{"seq":{seq},"stream":"{name}","type":"{}","symbol":"{symbol}","id":{id}"#,
            name.channel.name()
        ));
        let walk = &mut self.walk;
        match &mut self.state {
            State::Trade => {
                walk.step(3);
                let (side, price) = match walk.random.bool() {
                    true => ("buy", walk.mid + 1),
                    false => ("sell", walk.mid - 1),
                };
                let (price, size) = (walk.price(price), walk.size());
                put(format_args!(r#","price":"{price}","size":"{size}","side":"{side}""#));
            }
            State::Book(book) if id == 1 => {
                let (bids, asks) = book.levels(walk);
                put(format_args!(r#","event":"snapshot","bids":[{bids}],"asks":[{asks}]"#));
            }
            State::Book(book) => {
                let (bids, asks) = book.step(walk);
                put(format_args!(
                    r#","event":"delta","prev_id":{},"bids":[{bids}],"asks":[{asks}]"#,
                    id - 1
                ));
            }
            State::Ticker(day) => {
                walk.step(5);
                let traded = walk.size();
                day.high = day.high.max(walk.mid);
                day.low = day.low.min(walk.mid);
                day.volume += traded.0;
                put(format_args!(
                    concat!(
                        r#","last":"{}","bid":"{}","bid_size":"{}","ask":"{}","ask_size":"{}","#,
                        r#""open":"{}","high":"{}","low":"{}","volume":"{}""#
                    ),
                    walk.price(walk.mid),
                    walk.price(walk.mid - 1),
                    walk.size(),
                    walk.price(walk.mid + 1),
                    walk.size(),
                    walk.price(day.open),
                    walk.price(day.high),
                    walk.price(day.low),
                    Size(day.volume),
                ));
            }
        }
        put(format_args!(r#","time":{time_ms}}}"#));
        text
    }
}

/// A price in ticks, and where its decimal point stands.
#[derive(Debug, Clone, Copy)]
struct Price {
    ticks: u64,
    decimals: u32,
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = 10u64.pow(self.decimals);
        let width = self.decimals as usize;
        write!(f, "{}.{:0width$}", self.ticks / scale, self.ticks % scale)
    }
}

/// A size in ten-thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:04}", self.0 / SIZE_SCALE, self.0 % SIZE_SCALE)
    }
}

/// A random walk of a price, in ticks. `mid` is at least `DEPTH + 2`, so that every price
/// around it is above zero.
#[derive(Debug)]
struct Walk {
    random: Rng,
    mid: u64,
    floor: u64,
    ceiling: u64,
    decimals: u32,
}

impl Walk {
    fn new(seed: u64, name: &StreamName) -> Walk {
        let symbol_hash = fnv1a(name.symbol.as_bytes());
        let (start, decimals) = KNOWN
            .iter()
            .find(|(symbol, ..)| *symbol == name.symbol)
            .map(|(_, start, decimals)| (*start, *decimals))
            .unwrap_or((1_000 + symbol_hash % 99_000, 2 + (symbol_hash >> 32) as u32 % 3));
        // Streams of one seed must differ, and so must one stream's seeds.
        let mixed = fnv1a(name.to_string().as_bytes()) ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (floor, ceiling) = (start / RANGE, start * RANGE);
        assert!(floor > DEPTH as u64 + 2);
        Walk { random: Rng::with_seed(mixed), mid: start, floor, ceiling, decimals }
    }

    /// Moves by at most `ticks_max`, and away from the bounds.
    fn step(&mut self, ticks_max: u64) {
        let up = self.random.u64(0..=ticks_max);
        let down = self.random.u64(0..=ticks_max);
        self.mid = (self.mid + up - down.min(self.mid)).clamp(self.floor, self.ceiling);
    }

    /// Many small sizes, few large ones; never zero.
    fn size(&mut self) -> Size {
        let largest = 10u64.pow(self.random.u32(2..=5));
        Size(self.random.u64(1..=largest))
    }

    fn price(&self, ticks: u64) -> Price {
        Price { ticks, decimals: self.decimals }
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A book of `DEPTH` levels on each side of the walk's price, one tick apart and nearest first:
/// bids at `mid - 1 - i`, asks at `mid + 1 + i`.
#[derive(Debug)]
struct Book {
    bids: [Size; DEPTH],
    asks: [Size; DEPTH],
}

/// Levels of one side as the text inside a JSON array: `["97542.0","0.1200"],["97541.9",..`.
#[derive(Debug, Default)]
struct Levels(String);

impl Levels {
    fn push(&mut self, price: Price, size: Size) {
        let comma = if self.0.is_empty() { "" } else { "," };
        write!(self.0, r#"{comma}["{price}","{size}"]"#).expect("writing to a string cannot fail");
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Book {
    fn new(walk: &mut Walk) -> Book {
        Book {
            bids: std::array::from_fn(|_| walk.size()),
            asks: std::array::from_fn(|_| walk.size()),
        }
    }

    /// All levels: bids, asks.
    fn levels(&self, walk: &Walk) -> (Levels, Levels) {
        let (mut bids, mut asks) = (Levels::default(), Levels::default());
        for (i, (bid, ask)) in (0u64..).zip(self.bids.iter().zip(&self.asks)) {
            bids.push(walk.price(walk.mid - 1 - i), *bid);
            asks.push(walk.price(walk.mid + 1 + i), *ask);
        }
        (bids, asks)
    }

    /// One change of the book, and the levels that changed; size zero removes a level.
    fn step(&mut self, walk: &mut Walk) -> (Levels, Levels) {
        const GONE: Size = Size(0);
        let (mut bids, mut asks) = (Levels::default(), Levels::default());
        let depth = DEPTH as u64;
        match walk.random.u8(0..4) {
            // The price goes up: the best ask is bought away, a new best bid comes.
            0 if walk.mid < walk.ceiling => {
                bids.push(walk.price(walk.mid - depth), GONE);
                asks.push(walk.price(walk.mid + 1), GONE);
                walk.mid += 1;
                self.bids.rotate_right(1);
                self.asks.rotate_left(1);
                (self.bids[0], self.asks[DEPTH - 1]) = (walk.size(), walk.size());
                bids.push(walk.price(walk.mid - 1), self.bids[0]);
                asks.push(walk.price(walk.mid + depth), self.asks[DEPTH - 1]);
            }
            1 if walk.mid > walk.floor => {
                bids.push(walk.price(walk.mid - 1), GONE);
                asks.push(walk.price(walk.mid + depth), GONE);
                walk.mid -= 1;
                self.bids.rotate_left(1);
                self.asks.rotate_right(1);
                (self.bids[DEPTH - 1], self.asks[0]) = (walk.size(), walk.size());
                bids.push(walk.price(walk.mid - depth), self.bids[DEPTH - 1]);
                asks.push(walk.price(walk.mid + 1), self.asks[0]);
            }
            // Orders come and go at one level of each side.
            _ => {
                let (i, j) = (walk.random.usize(0..DEPTH), walk.random.usize(0..DEPTH));
                (self.bids[i], self.asks[j]) = (walk.size(), walk.size());
                bids.push(walk.price(walk.mid - 1 - i as u64), self.bids[i]);
                asks.push(walk.price(walk.mid + 1 + j as u64), self.asks[j]);
            }
        }
        (bids, asks)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;

    fn messages(seed: u64, name: &str, count: u64) -> Vec<String> {
        let mut market = Market::new(seed, StreamName::parse(name).unwrap());
        (1..=count).map(|k| market.next_message(k, 1_700_000_000_000 + k)).collect()
    }

    #[test]
    fn a_seed_and_a_stream_give_one_sequence() {
        for name in ["btcusdt@trade", "btcusdt@book", "btcusdt@ticker", "abc123@trade"] {
            assert_eq!(messages(7, name, 500), messages(7, name, 500), "{name}");
            assert_ne!(messages(7, name, 5), messages(8, name, 5), "{name}");
        }
        let prices = |name| -> Vec<Value> {
            messages(1, name, 20).iter().map(|m| json(m)["price"].clone()).collect()
        };
        assert_ne!(prices("btcusdt@trade"), prices("ethusdt@trade"));
    }

    fn json(text: &str) -> Value {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    #[test]
    fn messages_are_json_of_a_usual_size() {
        for symbol in ["btcusdt", "ethusdt", "solusdt", "xrpusdt", "a", "zzzzzzzzzzzzzzzzzzzz"] {
            for channel in ["trade", "book", "ticker"] {
                let name = format!("{symbol}@{channel}");
                for (k, text) in (1..).zip(messages(3, &name, 2_000)) {
                    let value = json(&text);
                    assert_eq!(value["seq"], k, "{text}");
                    assert_eq!(value["id"], k, "{text}");
                    assert_eq!(value["stream"], name, "{text}");
                    assert_eq!(value["time"], 1_700_000_000_000u64 + k, "{text}");
                    assert!((120..=460).contains(&text.len()), "{} bytes: {text}", text.len());
                }
            }
        }
    }

    #[test]
    fn deltas_keep_a_book_whole() {
        let mut sides: [BTreeMap<u64, String>; 2] = Default::default();
        for text in messages(11, "btcusdt@book", 20_000) {
            let value = json(&text);
            for (side, key) in sides.iter_mut().zip(["bids", "asks"]) {
                for level in value[key].as_array().unwrap() {
                    let ticks = level[0].as_str().unwrap().replace('.', "").parse().unwrap();
                    match level[1].as_str().unwrap() {
                        "0.0000" => assert!(side.remove(&ticks).is_some(), "{text}"),
                        size => drop(side.insert(ticks, size.to_string())),
                    }
                }
            }
            let [bids, asks] = &sides;
            assert_eq!((bids.len(), asks.len()), (DEPTH, DEPTH), "{text}");
            assert!(bids.last_key_value() < asks.first_key_value(), "{text}");
        }
    }

    #[test]
    fn walks_stay_in_their_bounds() {
        let mut walk = Walk::new(5, &StreamName::parse("btcusdt@trade").unwrap());
        walk.mid = walk.floor;
        for _ in 0..1_000 {
            walk.step(1_000_000);
            assert!((walk.floor..=walk.ceiling).contains(&walk.mid), "{}", walk.mid);
        }
    }

    #[test]
    fn names() {
        for (text, expected) in [
            ("btcusdt@trade", Some("btcusdt@trade")),
            ("BTCUSDT@book", Some("btcusdt@book")),
            ("btcusdt@", None),
            ("@trade", None),
            ("btcusdt", None),
            ("btc/usdt@trade", None),
            ("btcusdt@trade@book", None),
            ("abcdefghijklmnopqrstu@trade", None),
            ("bt\u{e7}@trade", None),
        ] {
            let got = StreamName::parse(text).map(|name| name.to_string());
            assert_eq!(got.as_deref(), expected, "{text}");
        }
    }
}
