//! One feed's options that stand for many subscriptions: lists of symbols and topics, put into
//! templates, cut into messages, and split over connections.
//!
//! Owns the templates. Only the placeholders named here are replaced; all other braces are JSON's.
//! Which of them may stand where is checked in `placeholders`, before.
//! What stands at the end of a list stays there: adding to it changes no name and no earlier part.

use std::collections::{BTreeSet, HashSet};

use super::mistakes::Mistakes;
use crate::tape::name::FeedName;

/// No more symbols or topics in one list.
const ITEMS_MAX: usize = 100_000;
/// No more feeds from one table.
const PARTS_MAX: usize = 4096;
/// Between topics or symbols in a URL.
const URL_TOPICS_BETWEEN: &str = "/";
const URL_SYMBOLS_BETWEEN: &str = ",";

/// What was written.
pub(super) struct Lists<'a> {
    pub(super) name: &'a FeedName,
    pub(super) url: &'a str,
    pub(super) symbols: &'a [String],
    pub(super) topics: &'a [String],
    /// Texts to send, templates among them; the first `typed_texts` of --subscribe, the others of
    /// files.
    pub(super) texts: &'a [String],
    pub(super) typed_texts: usize,
    pub(super) keys: &'a [String],
    pub(super) per_connection: Option<usize>,
    pub(super) batch_items: usize,
    pub(super) batch_bytes: usize,
    /// Whether it is a poll for what happens to another feed.
    pub(super) listens: bool,
    /// Options that were written for it alone.
    pub(super) own: &'a BTreeSet<String>,
}

/// One connection's share.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// What its feed's name has behind that of the table.
    pub(super) suffix: Option<String>,
    pub(super) url: String,
    pub(super) texts: Vec<String>,
    pub(super) keys: Vec<String>,
    /// Symbols that topics or texts of this part name.
    pub(super) symbols: Vec<String>,
    /// Topics, or symbols where there are no topics.
    pub(super) items: usize,
}

/// A topic, or a symbol where there are no topics.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item<'a> {
    text: String,
    symbol: Option<&'a str>,
}

impl Lists<'_> {
    /// All parts, in order; one where nothing is to be split.
    pub(super) fn expand(&self, mistakes: &mut Mistakes) -> Vec<Part> {
        for (option, list) in [("--symbols", self.symbols), ("--topics", self.topics)] {
            if list.len() > ITEMS_MAX {
                let what = format!("{} are too many, the limit is {ITEMS_MAX}", list.len());
                mistakes.about(option, &what);
                return Vec::new();
            }
            let mut seen = HashSet::new();
            if let Some((n, text)) = list.iter().enumerate().find(|(_, x)| !seen.insert(*x)) {
                mistakes.add(
                    option,
                    text,
                    &format!("stands there twice, again as number {}", n + 1),
                );
            }
        }
        let items = self.items();
        if items.is_empty() {
            let (url, texts, keys) =
                (self.url.to_string(), self.texts.to_vec(), self.keys.to_vec());
            return vec![Part { url, texts, keys, ..Part::default() }];
        }
        let size = self.per_connection.unwrap_or(items.len());
        let parts: Vec<&[Item<'_>]> = items.chunks(size.max(1)).collect();
        if parts.len() > PARTS_MAX {
            let what = format!("makes {} feeds, the limit is {PARTS_MAX}", parts.len());
            mistakes.about("--per-connection", &what);
            return Vec::new();
        }
        let numbered = parts.iter().enumerate();
        numbered.map(|(n, items)| self.part(n, items, mistakes)).collect()
    }

    /// What does not depend on a symbol comes first, so that it stays where it is.
    fn items(&self) -> Vec<Item<'_>> {
        let symbols = || self.symbols.iter().map(String::as_str);
        if self.topics.is_empty() {
            return symbols().map(|s| Item { text: s.to_string(), symbol: Some(s) }).collect();
        }
        let (of_symbols, fixed): (Vec<_>, Vec<_>) =
            self.topics.iter().partition(|topic| !self.symbols.is_empty() && names_symbol(topic));
        let fixed = fixed.into_iter().map(|topic| Item { text: topic.clone(), symbol: None });
        let of_symbols = symbols().flat_map(|symbol| {
            let item = move |topic: &&String| Item {
                text: with_symbol(topic, symbol),
                symbol: Some(symbol),
            };
            of_symbols.iter().map(item).collect::<Vec<_>>()
        });
        fixed.chain(of_symbols).collect()
    }

    fn part(&self, n: usize, items: &[Item<'_>], mistakes: &mut Mistakes) -> Part {
        let mut symbols: Vec<&str> = items.iter().filter_map(|item| item.symbol).collect();
        symbols.dedup();
        let topics: Vec<&str> = match self.topics.is_empty() {
            true => Vec::new(),
            false => items.iter().map(|item| item.text.as_str()).collect(),
        };
        let suffix = match (self.per_connection, items) {
            (None, _) => None,
            (Some(1), [only]) => Some(FeedName::derive(&only.text).to_string()),
            (Some(_), _) => Some((n + 1).to_string()),
        };
        let mut texts = Vec::new();
        for text in self.texts {
            self.cut(text, &symbols, &topics, &mut texts, mistakes);
        }
        let keys = self.keys.iter().flat_map(|key| match names_symbol(key) {
            true => symbols.iter().map(|symbol| with_symbol(key, symbol)).collect(),
            false => vec![key.clone()],
        });
        Part {
            suffix,
            url: self.url_of(&symbols, &topics, mistakes),
            texts,
            keys: keys.collect(),
            symbols: symbols.iter().map(ToString::to_string).collect(),
            items: items.len(),
        }
    }

    fn url_of(&self, symbols: &[&str], topics: &[&str], mistakes: &mut Mistakes) -> String {
        let mut url = self.url.replace("{topics}", &topics.join(URL_TOPICS_BETWEEN));
        for (placeholder, form) in SYMBOL_LISTS {
            if url.contains(placeholder) {
                let symbols: Vec<String> = symbols.iter().map(|symbol| form(symbol)).collect();
                url = url.replace(placeholder, &symbols.join(URL_SYMBOLS_BETWEEN));
            }
        }
        match (names_symbol(&url), symbols) {
            (true, [only]) => with_symbol(&url, only),
            (true, _) => {
                let what = "must be 1 where the URL holds {symbol}; or write {symbols} or {topics}";
                mistakes.about("--per-connection", what);
                url
            }
            (false, _) => url,
        }
    }

    /// One text, as many as are to be sent for it.
    fn cut(
        &self,
        text: &str,
        symbols: &[&str],
        topics: &[&str],
        texts: &mut Vec<String>,
        mistakes: &mut Mistakes,
    ) {
        let list = SYMBOL_LISTS.iter().find(|(placeholder, _)| text.contains(placeholder));
        if text.contains("{topics}") {
            let items = topics.iter().map(|topic| as_json(topic)).collect();
            self.batch(text, "{topics}", items, texts, mistakes);
        } else if let Some((placeholder, form)) = list {
            let items = symbols.iter().map(|symbol| as_json(&form(symbol))).collect();
            self.batch(text, placeholder, items, texts, mistakes);
        } else if names_symbol(text) {
            for symbol in symbols {
                let id = texts.len() + 1;
                texts.push(with_symbol(text, symbol).replace("{id}", &id.to_string()));
            }
        } else {
            let id = texts.len() + 1;
            texts.push(text.replace("{id}", &id.to_string()));
        }
    }

    fn batch(
        &self,
        text: &str,
        placeholder: &str,
        items: Vec<String>,
        texts: &mut Vec<String>,
        mistakes: &mut Mistakes,
    ) {
        let around = text.len() - placeholder.len();
        let mut batch: Vec<String> = Vec::new();
        let mut bytes = around;
        let mut send = |batch: &mut Vec<String>| {
            let id = (texts.len() + 1).to_string();
            texts.push(text.replace(placeholder, &batch.join(",")).replace("{id}", &id));
            batch.clear();
        };
        for item in items {
            if around + item.len() > self.batch_bytes {
                let what = format!("a message with {item} alone has {} bytes", around + item.len());
                mistakes.about("--batch-bytes", &what);
            }
            let comma = usize::from(!batch.is_empty());
            let is_full =
                batch.len() == self.batch_items || bytes + comma + item.len() > self.batch_bytes;
            if is_full && !batch.is_empty() {
                send(&mut batch);
                bytes = around;
            }
            bytes += item.len() + usize::from(!batch.is_empty());
            batch.push(item);
        }
        if !batch.is_empty() {
            send(&mut batch);
        }
    }
}

/// How a symbol is written.
type SymbolForm = fn(&str) -> String;

const SYMBOLS: [(&str, SymbolForm); 3] = [
    ("{symbol}", str::to_string),
    ("{SYMBOL}", str::to_uppercase),
    ("{symbol:lower}", str::to_lowercase),
];
const SYMBOL_LISTS: [(&str, SymbolForm); 3] = [
    ("{symbols}", str::to_string),
    ("{SYMBOLS}", str::to_uppercase),
    ("{symbols:lower}", str::to_lowercase),
];

fn names_symbol(template: &str) -> bool {
    SYMBOLS.iter().any(|(placeholder, _)| template.contains(placeholder))
}

fn with_symbol(template: &str, symbol: &str) -> String {
    let mut text = template.to_string();
    for (placeholder, form) in SYMBOLS {
        if text.contains(placeholder) {
            text = text.replace(placeholder, &form(symbol));
        }
    }
    text
}

/// A topic that is JSON already stays as it is.
fn as_json(item: &str) -> String {
    match item.starts_with(['{', '[', '"']) {
        true => item.to_string(),
        false => serde_json::Value::from(item).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    fn expand(
        url: &str,
        symbols: &[&str],
        topics: &[&str],
        texts: &[&str],
        per_connection: Option<usize>,
        (batch_items, batch_bytes): (usize, usize),
    ) -> Result<Vec<Part>, Vec<String>> {
        let (symbols, topics) = (strings(symbols), strings(topics));
        let (texts, keys) = (strings(texts), strings(&["{SYMBOL}", "all"]));
        let (symbols, topics, texts, keys) = (&symbols, &topics, &texts, &keys);
        let lists = Lists {
            name: &FeedName::derive("a"),
            url,
            symbols,
            topics,
            texts,
            typed_texts: texts.len(),
            keys,
            per_connection,
            batch_items,
            batch_bytes,
            listens: false,
            own: &BTreeSet::new(),
        };
        let mut mistakes = Mistakes::default();
        let parts = lists.expand(&mut mistakes);
        mistakes.into_result(parts)
    }

    fn texts(symbols: &[&str], topics: &[&str], text: &str, batch: (usize, usize)) -> Vec<String> {
        let mut parts = expand("ws://h/", symbols, topics, &[text], None, batch).unwrap();
        assert_eq!(parts.len(), 1);
        parts.remove(0).texts
    }

    const NO_LIMIT: (usize, usize) = (usize::MAX, usize::MAX);

    #[test]
    fn texts_are_made_for_symbols_and_topics() {
        let topics = r#"{"args":[{topics}],"id":{id}}"#;
        assert_eq!(
            texts(&["btcusdt", "ethusdt"], &["trade.{SYMBOL}", "all"], topics, NO_LIMIT),
            [r#"{"args":["all","trade.BTCUSDT","trade.ETHUSDT"],"id":1}"#]
        );
        assert_eq!(
            texts(&["a", "b", "c"], &["{symbol}@x"], topics, (2, usize::MAX)),
            [r#"{"args":["a@x","b@x"],"id":1}"#, r#"{"args":["c@x"],"id":2}"#]
        );
        assert_eq!(
            texts(&["a", "b", "c"], &["{symbol}@x"], topics, (9, 37)),
            [r#"{"args":["a@x","b@x"],"id":1}"#, r#"{"args":["c@x"],"id":2}"#]
        );
        assert_eq!(
            texts(
                &["BTC-USDT"],
                &[r#"{"channel":"trades","instId":"{symbol}"}"#],
                topics,
                NO_LIMIT
            ),
            [r#"{"args":[{"channel":"trades","instId":"BTC-USDT"}],"id":1}"#]
        );
        assert_eq!(
            texts(&["Ab", "Cd"], &[], r#"{"coin":"{symbol}","id":{id}}"#, NO_LIMIT),
            [r#"{"coin":"Ab","id":1}"#, r#"{"coin":"Cd","id":2}"#]
        );
        assert_eq!(
            texts(&["Ab", "Cd"], &[], r#"{"ids":[{symbols:lower}]}"#, NO_LIMIT),
            [r#"{"ids":["ab","cd"]}"#]
        );
        // Without lists nothing is a placeholder.
        assert_eq!(texts(&[], &[], "{symbol} {id}", NO_LIMIT), ["{symbol} {id}"]);
    }

    #[test]
    fn names_and_parts_are_stable_when_a_symbol_is_added() {
        let parts = |symbols: &[&str], per_connection| {
            let topics = ["{symbol}@trade", "{symbol}@book"];
            let url = "wss://h/stream?streams={topics}";
            expand(url, symbols, &topics, &[], Some(per_connection), NO_LIMIT).unwrap()
        };
        let before = parts(&["a", "b", "c"], 2);
        let after = parts(&["a", "b", "c", "d"], 2);
        assert_eq!(before[..], after[..3]);
        assert_eq!(after[3].suffix.as_deref(), Some("4"));
        assert_eq!(after[0].url, "wss://h/stream?streams=a@trade/a@book");
        assert_eq!((&after[0].keys, after[0].items), (&strings(&["A", "all"]), 2));
        let split = parts(&["a", "b"], 3);
        assert_eq!(split[0].url, "wss://h/stream?streams=a@trade/a@book/b@trade");
        assert_eq!(split[1].keys, strings(&["B", "all"]));
        let one = expand("ws://h/{symbol:lower}", &["BTC", "ETH"], &[], &[], Some(1), NO_LIMIT);
        let one = one.unwrap();
        assert_eq!((one[1].suffix.as_deref(), one[1].url.as_str()), (Some("eth"), "ws://h/eth"));
    }

    #[test]
    fn lists_that_make_no_sense_are_told() {
        let check = |result: Result<Vec<Part>, Vec<String>>, told: &str| {
            let mistakes = result.unwrap_err();
            assert!(mistakes.iter().any(|m| m.contains(told)), "{told}: {mistakes:?}");
        };
        let (url, t) = ("ws://h/", r#"{"a":[{topics}]}"#);
        check(expand(url, &["a", "b", "a"], &[], &[], None, NO_LIMIT), "--symbols 'a': stands");
        check(expand("ws://h/{symbol}", &["a", "b"], &[], &[], None, NO_LIMIT), "must be 1");
        check(expand(url, &["abcdef"], &["{symbol}"], &[t], None, (9, 12)), "--batch-bytes: a");
        let many: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        check(expand(url, &many, &[], &[], Some(1), NO_LIMIT), "makes 5000 feeds");
    }
}
