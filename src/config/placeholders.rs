//! Placeholders that nothing fills, and lists that fill none: either goes to the venue as a request
//! that nobody meant.
//!
//! Owns which placeholders may stand where, and which word is a slip for one. Only `{word}` is
//! looked at: all other braces are JSON's, and `${word}` is a secret.

use super::lists::Lists;
use super::mistakes::Mistakes;
use crate::feed::url::is_http;

const SYMBOL: [&str; 3] = ["symbol", "SYMBOL", "symbol:lower"];
const SYMBOLS: [&str; 3] = ["symbols", "SYMBOLS", "symbols:lower"];
const TOPICS: &str = "topics";
const ID: &str = "id";

/// Where a template stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Url,
    Text,
    Topic,
    Key,
}

impl Lists<'_> {
    /// Notes placeholders that would stay, and lists and limits that nothing uses.
    pub(super) fn check(&self, mistakes: &mut Mistakes) {
        self.check_template("url", self.url, Place::Url, mistakes);
        // Of a feed that is polled, only the URL is made of lists.
        if !is_http(self.url) {
            for (n, text) in self.texts.iter().enumerate() {
                let option = if n < self.typed_texts { "--subscribe" } else { "--subscribe-file" };
                self.check_template(option, text, Place::Text, mistakes);
            }
            for topic in self.topics {
                self.check_template("--topics", topic, Place::Topic, mistakes);
            }
            for key in self.keys {
                self.check_template("--keys-expect", key, Place::Key, mistakes);
            }
            self.check_batches(mistakes);
        }
        self.check_use(mistakes);
    }

    fn check_template(&self, option: &str, text: &str, place: Place, mistakes: &mut Mistakes) {
        for word in words(text) {
            if let Some(what) = self.mistake_of(word, text, place) {
                mistakes.about(option, &format!("'{{{word}}}' {what}"));
            }
        }
    }

    /// What is wrong with this placeholder; `None` where it is filled, or is none.
    fn mistake_of(&self, word: &str, text: &str, place: Place) -> Option<String> {
        let is_one = SYMBOL.contains(&word);
        let is_list = SYMBOLS.contains(&word) || word == TOPICS;
        if !is_one && !is_list && word != ID {
            let near = nearest(word)?;
            return Some(format!(
                "is no placeholder; did you mean '{{{near}}}'? What the venue is to get with its \
                 braces needs blanks in them"
            ));
        }
        if is_list && matches!(place, Place::Topic | Place::Key) {
            return Some("can't stand here; write '{symbol}', which stands for each".to_string());
        }
        if word == ID {
            let is_wrong = matches!(place, Place::Url | Place::Key);
            return is_wrong.then(|| "is filled in subscriptions only".to_string());
        }
        let (list, items) = match word == TOPICS {
            true => ("topics", self.topics),
            false => ("symbols", self.symbols),
        };
        if items.is_empty() {
            // The template may be a common one.
            let name = self.name;
            return Some(format!("stands for {list}, and '{name}' has none: give it --{list}"));
        }
        // One list makes the messages of a text, and nothing else of it is filled.
        let filled = list_in(text).filter(|_| place == Place::Text)?;
        (filled != word).then(|| {
            format!("is not filled where the text has '{{{filled}}}' too: write only one of them")
        })
    }

    fn check_batches(&self, mistakes: &mut Mistakes) {
        for (option, value) in
            [("batch-items", self.batch_items), ("batch-bytes", self.batch_bytes)]
        {
            let is_cut = self.texts.iter().any(|text| list_in(text).is_some());
            if self.own.contains(option) && !self.texts.is_empty() && !is_cut {
                let what = "needs '{topics}' or '{symbols}' in a subscription: none is cut";
                mistakes.add(&format!("--{option}"), &value.to_string(), what);
            }
        }
    }

    fn check_use(&self, mistakes: &mut Mistakes) {
        let Lists { url, texts, topics, keys, symbols, per_connection, .. } = self;
        let is_poll = is_http(url);
        if symbols.is_empty() && topics.is_empty() {
            if let Some(n) = per_connection
                && self.own.contains("per-connection")
            {
                let what = "needs --symbols or --topics to split";
                mistakes.add("--per-connection", &n.to_string(), what);
            }
            return;
        }
        let is_symbol = |word: &str| SYMBOL.contains(&word) || SYMBOLS.contains(&word);
        let has = |text: &str, wanted: &dyn Fn(&str) -> bool| words(text).any(wanted);
        let any = |list: &[String], wanted: &dyn Fn(&str) -> bool| {
            !is_poll && list.iter().any(|text| has(text, wanted))
        };
        let asked = |wanted: &dyn Fn(&str) -> bool| has(url, wanted) || any(texts, wanted);
        let is_split = per_connection.is_some();
        // Symbols may say which keys must come, or to which part of a feed a poll listens.
        let is_else = !is_split && (any(keys, &is_symbol) || self.listens);
        let uses_symbols = asked(&is_symbol) || any(topics, &is_symbol) || is_else;
        let uses_topics = is_poll || asked(&|word| word == TOPICS);
        for (option, list, is_used, placeholder) in [
            ("symbols", symbols, uses_symbols, "{symbol}"),
            ("topics", topics, uses_topics, "{topics}"),
        ] {
            if list.is_empty() || is_used || !(is_split || self.own.contains(option)) {
                continue;
            }
            let splits = match is_split {
                true => ", and --per-connection would make the same connection many times",
                false => "",
            };
            let what = format!(
                "nothing is made of them: no URL or subscription has '{placeholder}'{splits}"
            );
            mistakes.add(&format!("--{option}"), &beginning(list), &what);
        }
    }
}

/// A list, as far as a sentence takes it.
fn beginning(list: &[String]) -> String {
    let shown: Vec<&str> = list.iter().take(3).map(String::as_str).collect();
    shown.join(",") + if list.len() > shown.len() { ",.." } else { "" }
}

/// The list that a text is cut by, as [`Lists`] does it.
fn list_in(text: &str) -> Option<&'static str> {
    let mut lists = [TOPICS].into_iter().chain(SYMBOLS);
    lists.find(|list| words(text).any(|word| word == *list))
}

/// What stands in braces, if it is a word and no secret.
fn words(text: &str) -> impl Iterator<Item = &str> {
    memchr::memchr_iter(b'{', text.as_bytes()).filter_map(move |at| {
        let rest = &text[at + 1..];
        let end = rest.find(|c: char| !c.is_ascii_alphabetic() && !":_-".contains(c))?;
        let is_word = end > 0 && rest[end..].starts_with('}') && !text[..at].ends_with('$');
        is_word.then(|| &rest[..end])
    })
}

/// The placeholder that was meant, perhaps.
fn nearest(word: &str) -> Option<&'static str> {
    let lower = word.to_ascii_lowercase();
    let known = [SYMBOL[0], SYMBOLS[0], TOPICS, ID, SYMBOL[2], SYMBOLS[2]];
    let is_near = |known: &&str| match *known {
        ID => lower == ID,
        known => strsim::osa_distance(known, &lower) <= 1,
    };
    let by_begin = || lower.starts_with("symbol").then_some(SYMBOL[0]);
    let same = known.into_iter().find(|known| lower == *known);
    same.or_else(|| known.into_iter().find(is_near)).or_else(by_begin)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_file, told};
    use super::*;

    #[test]
    fn only_words_in_braces_are_looked_at() {
        let check = |text: &str, expected: &[&str]| {
            assert_eq!(words(text).collect::<Vec<_>>(), expected, "{text}");
        };
        check(r#"{"a":{"b":[{symbols}]},"id":{id}}"#, &["symbols", "id"]);
        check(
            "{SYMBOL}{symbol:lower} ${symbol} { symbol } {} {/ping} {x",
            &["SYMBOL", "symbol:lower"],
        );
        check("ä{symbol}ö{ü}", &["symbol"]);
    }

    #[test]
    fn slips_are_named_and_other_words_are_not() {
        for (word, meant) in [
            ("symbl", Some("symbol")),
            ("sybmol", Some("symbol")),
            ("Symbol", Some("symbol")),
            ("symbol:upper", Some("symbol")),
            ("symbol_lower", Some("symbol:lower")),
            ("Symbols", Some("symbols")),
            ("topic", Some("topics")),
            ("ID", Some("id")),
            ("price", None),
            ("ticker", None),
            ("i", None),
        ] {
            assert_eq!(nearest(word), meant, "{word}");
        }
    }

    /// Each passed `check`, and went to the venue as it was written.
    #[test]
    fn placeholders_that_nothing_fills_are_told() {
        let feed = |lines: &str| format!("out = 'o'\n[feed.a]\n{lines}");
        let symbol = "feeds.toml:3: [feed.a] url: '{symbol}' stands for symbols, and 'a' has none";
        told(&feed("url = 'ws://x/{symbol}'"), &[symbol]);
        told(&feed("url = 'ws://x/{symbol}'\nsymbols = []"), &[symbol]);
        let ws = "url = 'ws://x/'\n";
        let slip = "[feed.a] url: '{symbl}' is no placeholder; did you mean '{symbol}'?";
        told(&feed("url = 'ws://x/{symbl}'\nsymbols = ['a']"), &[slip]);
        told(&feed("url = 'ws://x/{topics}'\nsymbols = ['a']"), &["'{topics}' stands for topics"]);
        told(&feed(&format!("{ws}subscribe = '[{{topics}}]'")), &["4: [feed.a] subscribe: '{top"]);
        told(&feed(&format!("{ws}subscribe = '{{Symbol}}'")), &["did you mean '{symbol}'?"]);
        told(&feed("url = 'ws://x/{id}'"), &["'{id}' is filled in subscriptions only"]);
        let lists = "url = 'ws://x/'\nsymbols = ['a']\ntopics = ['t']\n";
        let both = "subscribe: '{symbol}' is not filled where the text has '{topics}' too";
        told(&feed(&format!("{lists}subscribe = '{{topics}}{{symbol}}'")), &[both]);
        let here = "topics: '{symbols}' can't stand here";
        told(&feed("url = 'ws://x/{topics}'\nsymbols = ['a']\ntopics = ['{symbols}']"), &[here]);
        let keys = "keys-expect: '{symbol}' stands for symbols";
        told(&feed(&format!("{ws}keys-after = 's'\nkeys-expect = '{{symbol}}'")), &[keys]);
        let common = "[defaults]\nsubscribe = '{symbol}'\n[feed.b]\nurl = 'ws://x/'\nsymbols = ['s']\n\
                      [feed.c]\nurl = 'ws://x/'\n";
        told(common, &["2: [defaults] subscribe: '{symbol}' stands for symbols, and 'c' has none"]);
        let fine = r#"subscribe = '{"query":"{ symbol } {price}","x":{}}'"#;
        check_file(&feed(&format!("{ws}{fine}")), "").unwrap();
    }

    #[test]
    fn lists_that_nothing_uses_are_told() {
        let feed = |lines: &str| format!("out = 'o'\n[feed.a]\nurl = 'ws://x/'\n{lines}");
        let symbols = "4: [feed.a] symbols 'a,b': nothing is made of them";
        told(&feed("symbols = ['a', 'b']"), &[symbols]);
        told(
            &feed("symbols = ['a', 'b']\nper-connection = 1"),
            &["the same connection many times"],
        );
        told(&feed("topics = ['a', 'b', 'c', 'd']"), &["topics 'a,b,c,..': nothing"]);
        told(&feed("per-connection = 5"), &["4: [feed.a] per-connection '5': needs --symbols or"]);
        let cut = "batch-items '5': needs '{topics}' or '{symbols}'";
        told(&feed("subscribe = 'x'\nbatch-items = 5"), &[cut]);
        let keys = "symbols = ['a']\nkeys-after = 's'\nkeys-expect = '{symbol}'";
        check_file(&feed(keys), "").unwrap();
        let defaults = "out = 'o'\n[defaults]\nsymbols = ['a']\ntopics = ['b']\n\
                        [feed.a]\nurl = 'ws://x/'\n[feed.b]\nurl = 'http://x/'\nevery = '1m'\n";
        check_file(defaults, "").unwrap();
        let split = defaults.replace("[feed.a]", "per-connection = 1\n[feed.a]");
        told(&split, &["3: [defaults] symbols 'a'", "4: [defaults] topics 'b'"]);
    }
}
