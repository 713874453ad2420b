//! The data of venues, and the files made of it: every venue's file is one that `record` takes.

use clap::{CommandFactory, FromArgMatches};
use expect_test::expect_file;

use super::*;
use crate::config::{RecordArgs, RecorderOptions};
use crate::feed::FeedPlan;

#[derive(Debug, clap::Parser)]
struct Typed {
    #[command(flatten)]
    record: RecordArgs,
}

/// What `record` makes of a feeds file.
fn read(text: &str) -> RecorderOptions {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("feeds.toml");
    std::fs::write(&path, text).unwrap();
    let words = ["feedtape", "--config", path.to_str().unwrap()];
    let matches = Typed::command().try_get_matches_from(words).unwrap();
    let typed = Typed::from_arg_matches(&matches).unwrap();
    typed.record.check().unwrap_or_else(|mistakes| panic!("{mistakes:#?}\n{text}"))
}

fn new(venue: &str, symbols: &[String], channels: &[&str]) -> Result<String, Vec<String>> {
    let channels = channels.iter().map(ToString::to_string).collect();
    NewArgs { venue: venue.to_string(), symbols: symbols.to_vec(), channels }.text()
}

fn symbols(venue: &Venue, n: usize) -> Vec<String> {
    (0..n).map(|n| if n == 0 { venue.example.clone() } else { format!("X{n}-Y") }).collect()
}

#[test]
fn every_venue_gives_a_file_that_record_takes() {
    for venue in Book::read().venues {
        let channels: Vec<&str> = venue.channels.iter().map(|c| c.name.as_str()).collect();
        assert!(venue.channels.iter().any(|channel| channel.default), "{}", venue.name);
        assert_eq!(venue.checked, "not checked live", "{}", venue.name);
        for n in [1, 500] {
            let symbols = symbols(&venue, n);
            let options = read(&new(&venue.name, &symbols, &channels).unwrap());
            assert!(options.feeds.len() >= channels.len(), "{}", venue.name);
            read(&new(&venue.name, &symbols, &[]).unwrap());
        }
    }
}

#[test]
fn facts_are_whole_and_have_sources() {
    for venue in Book::read().venues {
        let facts = venue.channels.iter().flat_map(|channel| &channel.facts).chain(&venue.facts);
        for fact in facts {
            assert_eq!(fact.key.is_some(), fact.value.is_some(), "{}: {fact:?}", venue.name);
            assert!(fact.key.is_some() || fact.why.is_some(), "{}: {fact:?}", venue.name);
            assert!(!fact.source.is_empty(), "{}: {fact:?}", venue.name);
        }
        for channel in &venue.channels {
            let has_url = channel.facts.iter().any(|fact| fact.key.as_deref() == Some("url"));
            assert!(has_url, "{} {}", venue.name, channel.name);
        }
    }
}

/// The file for many symbols is short: options, and the list.
#[test]
fn five_hundred_symbols_are_one_list() {
    for venue in Book::read().venues {
        let text = new(&venue.name, &symbols(&venue, 500), &["trades"]).unwrap();
        let is_option = |line: &&str| line.contains(" = ") && !line.starts_with('#');
        let options = text.lines().filter(is_option).count();
        assert!(options <= 20, "{}: {options} options\n{text}", venue.name);
        assert_eq!(text.matches("symbols = [").count(), 1, "{text}");
    }
}

/// What is sent where, for two symbols and all channels.
#[test]
fn subscriptions_are_as_the_venues_want_them() {
    let mut lines = String::new();
    for venue in Book::read().venues {
        let channels: Vec<&str> = venue.channels.iter().map(|c| c.name.as_str()).collect();
        let second = venue.example.replace("BTC", "ETH").replace("btc", "eth");
        let text = new(&venue.name, &[venue.example.clone(), second], &channels).unwrap();
        for plan in read(&text).feeds {
            lines += &format!("{} {}\n", plan.name(), plan.url());
            if let FeedPlan::Stream(options) = plan {
                for text in options.subscriptions.iter() {
                    lines += &format!("  {}\n", text.value);
                }
            }
        }
    }
    expect_file!["tests/subscriptions.txt"].assert_eq(&lines);
}

#[test]
fn a_file_as_it_is_written() {
    let symbols: Vec<String> = (0..12).map(|n| format!("btc{n}usdt")).collect();
    let text = new("binance", &symbols, &["snapshots"]).unwrap();
    expect_file!["tests/binance.toml"].assert_eq(&text);
}

#[test]
fn mistakes_are_told_with_what_is_right() {
    let check = |venue: &str, symbols: &[&str], channels: &[&str], says: &[&str]| {
        let symbols: Vec<String> = symbols.iter().map(ToString::to_string).collect();
        let mistakes = new(venue, &symbols, channels).unwrap_err();
        assert_eq!(mistakes.len(), says.len(), "{mistakes:?}");
        for (mistake, says) in mistakes.iter().zip(says) {
            assert!(mistake.contains(says), "'{says}' is not in '{mistake}'");
        }
    };
    let near = "'binence' is no venue; did you mean 'binance'? There are: binance, binance-usdm,";
    check("binence", &["x"], &[], &[near]);
    check("zzz", &["x"], &[], &["'zzz' is no venue; there are: binance"]);
    let odd = r"symbol 'a\nb': '\n' is odd in a symbol of okx; write one such as BTC-USDT";
    check("okx", &["a\nb", "BTC-USDT", "btc-usdt"], &[], &[odd, "'btc-usdt': stands there twice"]);
    let channel = "'trade' is no channel of okx; did you mean 'trades'? There are: trades, book";
    check("okx", &["\"", ""], &["trade"], &["'\\\"': '\"' is odd", "1 to 64", channel]);
}

#[test]
fn symbols_are_written_as_the_venue_does() {
    let feeds = |venue: &str, symbol: &str, channels: &[&str]| {
        let options = read(&new(venue, &[symbol.to_string()], channels).unwrap());
        options.feeds.iter().map(|plan| plan.url().to_string()).collect::<Vec<_>>()
    };
    assert!(new("binance", &["BTCUSDT".to_string()], &[]).unwrap().contains("\"btcusdt\""));
    assert!(new("deribit", &["X-1d5".to_string()], &[]).unwrap().contains("\"X-1d5\""));
    // Snapshots are no use without the book, and ask for the symbol in upper case.
    let urls = feeds("binance", "btcusdt", &["snapshots"]);
    assert_eq!(urls.len(), 2);
    assert!(urls[1].contains("symbol=BTCUSDT"), "{urls:?}");
}
