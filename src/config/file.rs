//! The feeds file: TOML, with the options of the command line as its keys.
//!
//! Owns reading it into options, each with the line it was written on. A key is the name of an
//! option; a table inside stands for the options that begin with its name, so that
//! `heartbeat = { every = "15s" }` is `--heartbeat-every 15s`. What the values mean is checked
//! where options of the command line are.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::mistakes::{Mistakes, Place};
use super::typed::{Kind, Known, Options, nearest};

/// Largest feeds file, in bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Some editors begin a file of UTF-8 with it.
const BYTE_ORDER_MARK: char = '\u{feff}';
/// A relative path in the file is taken from the file's folder.
const PATHS: [&str; 5] = ["out", "subscribe-file", "cacert", "cert", "key"];
/// Keys whose usual plural, or singular, is no option's name.
const OTHER_NAMES: [(&str, &str); 2] = [("headers", "header"), ("subprotocols", "subprotocol")];

/// A feeds file, read.
pub(super) struct File {
    /// Options of the recorder, and where they stand.
    pub(super) recorder: Options,
    pub(super) place: Place,
    /// In the order of the file.
    pub(super) feeds: Vec<FeedTable>,
}

/// One `[feed.NAME]`, with what it takes from `[defaults]`.
pub(super) struct FeedTable {
    pub(super) name: String,
    pub(super) url: Option<String>,
    pub(super) options: Options,
    /// Those of them that stand in its own table.
    pub(super) own: BTreeSet<String>,
    pub(super) place: Place,
}

/// Which options there are, and where each belongs.
pub(super) struct Schema {
    pub(super) recorder: Known,
    pub(super) feed: Known,
}

/// Reads the file. What is wrong with it is noted, and what is right of it returned.
///
/// # Errors
/// It can't be read at all, or is no TOML: all that is wrong, with lines.
pub(super) fn read(path: &Path, schema: &Schema, mistakes: &mut Mistakes) -> Option<File> {
    let shown = path.display().to_string();
    let text = match read_text(path, FILE_BYTES_MAX) {
        Ok(text) => text,
        Err(error) => {
            mistakes.say(format!("can't read '{shown}': {error}"));
            return None;
        }
    };
    let (document, errors) = DeTable::parse_recoverable(&text);
    let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
    let mut reader = Reader { shown, folder, text: &text, schema, mistakes };
    for error in &errors {
        let span = error.span().unwrap_or_default();
        let line = reader.line(&span);
        let key = key_at(&text, &span).map(|key| format!(" '{key}'")).unwrap_or_default();
        let what = error.message().trim_end_matches('.');
        reader.mistakes.say(format!("{line}: {what}{key}"));
    }
    // What was made of broken lines would only lead to further mistakes.
    errors.is_empty().then(|| reader.file(document.get_ref()))
}

/// Reads a file of text; one that an editor began with a byte order mark is read without it.
///
/// # Errors
/// What is wrong with it. No FIFO or device is opened: reading would wait, or never end.
pub(super) fn read_text(path: &Path, bytes_max: u64) -> Result<String, String> {
    let data = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !data.is_file() {
        let what = if data.is_dir() { "a directory" } else { "a FIFO or device" };
        return Err(format!("it is {what}; name a file"));
    }
    if data.len() > bytes_max {
        return Err(format!("it has {} bytes, the limit is {bytes_max}", data.len()));
    }
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    // It may have grown since, and files of /proc don't tell their length.
    file.take(bytes_max).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = memchr::memchr_iter(b'\n', before).count() + 1;
        format!("line {line} is not UTF-8; save it as UTF-8")
    })?;
    match text.strip_prefix(BYTE_ORDER_MARK) {
        Some(rest) => Ok(rest.to_string()),
        None => Ok(text),
    }
}

/// Options of a table, with where each stands.
#[derive(Default, Clone)]
struct Table {
    options: Options,
    written: BTreeMap<String, String>,
}

impl Table {
    /// These, and those of `below` that are not among them.
    fn over(mut self, below: &Table) -> Table {
        for (name, values) in &below.options {
            if !self.options.contains_key(name) {
                self.options.insert(name.clone(), values.clone());
                if let Some(place) = below.written.get(name) {
                    self.written.insert(name.clone(), place.clone());
                }
            }
        }
        self
    }
}

struct Reader<'a> {
    shown: String,
    folder: PathBuf,
    text: &'a str,
    schema: &'a Schema,
    mistakes: &'a mut Mistakes,
}

type Key<'i> = Spanned<DeString<'i>>;
type Value<'i> = Spanned<DeValue<'i>>;

impl Reader<'_> {
    fn file(&mut self, document: &DeTable<'_>) -> File {
        let mut top = Table::default();
        let (mut defaults, mut feeds) = (Table::default(), Vec::new());
        for (key, value) in in_order(document) {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("defaults", DeValue::Table(table)) => {
                    for (key, value) in in_order(table) {
                        self.option("[defaults]", key, value, &mut defaults);
                    }
                }
                ("feed", DeValue::Table(table)) => feeds = in_order(table),
                ("defaults" | "feed", _) => {
                    self.say(key, "", "must be a table: [defaults] and [feed.NAME]");
                }
                (written, found) => {
                    let is_table = matches!(found, DeValue::Table(_));
                    match table_meant(written, self.schema).filter(|_| is_table) {
                        Some(meant) => {
                            let what = format!("is no table of options; did you mean {meant}?");
                            self.say(key, "", &what);
                        }
                        None => self.option("", key, value, &mut top),
                    }
                }
            }
        }
        let feeds = feeds.into_iter();
        let feeds = feeds.filter_map(|(key, value)| self.feed(key, value, &defaults)).collect();
        let place = Place::File { table: format!("{}:", self.shown), written: top.written };
        File { recorder: top.options, place, feeds }
    }

    fn feed(&mut self, key: &Key<'_>, value: &Value<'_>, defaults: &Table) -> Option<FeedTable> {
        let name = key.get_ref().to_string();
        let DeValue::Table(table) = value.get_ref() else {
            self.say(key, "[feed]", "must be a table: [feed.NAME] with its options below");
            return None;
        };
        let label = format!("[feed.{name}]");
        let (mut own, mut url) = (Table::default(), None);
        for (key, value) in in_order(table) {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("url", DeValue::String(text)) => {
                    own.written.insert("url".to_string(), self.place(&key.span(), &label, "url"));
                    url = Some(text.to_string());
                }
                ("url", _) => self.say(key, &label, "must be a text"),
                _ => self.option(&label, key, value, &mut own),
            }
        }
        if url.is_none() && !table.keys().any(|key| key.get_ref() == "url") {
            let line = self.line(&key.span());
            self.mistakes.say(format!("{line}: {label} has no url"));
        }
        let names = own.options.keys().cloned().collect();
        let Table { options, written } = own.over(defaults);
        let table = format!("{}: {label}", self.line(&key.span()));
        Some(FeedTable { name, url, options, own: names, place: Place::File { table, written } })
    }

    /// One key: an option, or a table of options that begin with its name.
    fn option(&mut self, label: &str, key: &Key<'_>, value: &Value<'_>, table: &mut Table) {
        let written = key.get_ref().as_ref();
        let name = OTHER_NAMES.iter().find(|(other, _)| *other == written);
        let name = name.map_or(written, |(_, name)| name);
        let (known, others) = match label {
            "" => (&self.schema.recorder, &self.schema.feed),
            _ => (&self.schema.feed, &self.schema.recorder),
        };
        match (known.kind(name), value.get_ref()) {
            // A table stands for the options that begin with its name, even if one has that name.
            (kind, DeValue::Table(inner))
                if known.has_group(written) && kind != Some(Kind::Many) =>
            {
                for (inner_key, value) in in_order(inner) {
                    let joined = format!("{written}-{}", inner_key.get_ref());
                    let joined = Spanned::new(inner_key.span(), DeString::Owned(joined));
                    self.option(label, &joined, value, table);
                }
            }
            (Some(kind), value) => {
                if let Some(values) = self.values(label, key, name, kind, value) {
                    let place = self.place(&key.span(), label, written);
                    table.written.insert(name.to_string(), place);
                    table.options.insert(name.to_string(), values);
                }
            }
            (None, _) if known.has_group(written) => {
                let group = known.group(written).collect::<Vec<_>>().join(" = .., ");
                let what =
                    format!("must be a table: {written} = {{ {group} = .. }}, or parts of it");
                self.say(key, label, &what);
            }
            (None, value) => {
                let is_table = matches!(value, DeValue::Table(_));
                let what = unknown(written, is_table, (known, others), label);
                self.say(key, label, &what);
            }
        }
    }

    /// What the command line would have for it; `None` where it is noted as a mistake.
    fn values(
        &mut self,
        label: &str,
        key: &Key<'_>,
        name: &str,
        kind: Kind,
        value: &DeValue<'_>,
    ) -> Option<Vec<OsString>> {
        let texts = match (kind, value) {
            (Kind::Flag, DeValue::Boolean(is_on)) => {
                // `false` stands over a default that says true, and on the command line for none.
                return Some(if *is_on { vec![OsString::new()] } else { Vec::new() });
            }
            (Kind::Flag, _) => {
                self.say(key, label, "must be true or false");
                return None;
            }
            (Kind::Many, DeValue::Array(items)) => {
                items.iter().map(|item| item_text(item.get_ref())).collect()
            }
            (Kind::Many, DeValue::Table(table)) if name == "header" => {
                in_order(table).into_iter().map(|(key, value)| header(key, value)).collect()
            }
            (Kind::One | Kind::Many, value) => scalar(value).map(|text| vec![text]),
        };
        let Some(texts) = texts else {
            self.say(
                key,
                label,
                match kind {
                    Kind::Many => "must be a text, or a list of texts: [\"..\", \"..\"]",
                    Kind::One | Kind::Flag => "must be a text, as in \"10s\", or a whole number",
                },
            );
            return None;
        };
        let is_path = PATHS.contains(&name);
        let path = |text: String| match is_path {
            true => self.folder.join(text).into_os_string(),
            false => OsString::from(text),
        };
        Some(texts.into_iter().map(path).collect())
    }

    fn say(&mut self, key: &Key<'_>, label: &str, what: &str) {
        let place = self.place(&key.span(), label, key.get_ref());
        self.mistakes.say(format!("{place}: {what}"));
    }

    /// As in `feeds.toml:7: [defaults] stale-after`.
    fn place(&self, span: &Range<usize>, label: &str, key: &str) -> String {
        let space = if label.is_empty() { "" } else { " " };
        format!("{}: {label}{space}{key}", self.line(span))
    }

    fn line(&self, span: &Range<usize>) -> String {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        format!("{}:{}", self.shown, memchr::memchr_iter(b'\n', before).count() + 1)
    }
}

/// The table of feeds that was meant, perhaps, by this name of one at the top of the file.
fn table_meant(written: &str, schema: &Schema) -> Option<&'static str> {
    if schema.recorder.has_group(written) || schema.recorder.kind(written).is_some() {
        return None;
    }
    let (_, meant) = nearest(["defaults", "feed"].into_iter(), written)?;
    Some(if meant == "feed" { "[feed.NAME]" } else { "[defaults]" })
}

/// What is to be said about a key that is no option of its table.
fn unknown(
    written: &str,
    is_table: bool,
    (known, others): (&Known, &Known),
    label: &str,
) -> String {
    let elsewhere = match label {
        "" => "under [defaults] or [feed.NAME]: it is for feeds",
        _ => "at the top of the file: it is for the recorder",
    };
    if written == "url" {
        return "belongs under [feed.NAME]: each feed has one of its own".to_string();
    }
    if others.kind(written).is_some() || (is_table && others.has_group(written)) {
        return format!("belongs {elsewhere}");
    }
    // A feed's own table has its URL, too.
    let more: &[&str] = if label.starts_with("[feed.") { &["url"] } else { &[] };
    match (known.nearest(more, written), others.nearest(&[], written)) {
        (Some((near, _)), Some((nearer, name))) if nearer > near => {
            format!("is no option; did you mean '{name}'? It belongs {elsewhere}")
        }
        (Some((_, name)), _) => format!("is no option; did you mean '{name}'?"),
        (None, Some((_, name))) => {
            format!("is no option; did you mean '{name}'? It belongs {elsewhere}")
        }
        (None, None) => "is no option; 'feedtape help record' has them all".to_string(),
    }
}

/// The key or the table's name that stands there, if it is one: a value may be a secret.
fn key_at<'t>(text: &'t str, span: &Range<usize>) -> Option<&'t str> {
    let key = text.get(span.clone()).filter(|key| !key.is_empty())?;
    let is_key = key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    let rest = text[span.end..].trim_start_matches([' ', '\t']);
    (is_key && rest.starts_with(['=', '.', ']'])).then_some(key)
}

/// Keys and values as they stand in the file.
fn in_order<'t, 'i>(table: &'t DeTable<'i>) -> Vec<(&'t Key<'i>, &'t Value<'i>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_string()),
        DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => None,
    }
}

/// A text, or `{ match = "..", send = ".." }` for a rule of two parts.
fn item_text(value: &DeValue<'_>) -> Option<String> {
    let DeValue::Table(table) = value else { return scalar(value) };
    let part = |name: &str| scalar(table.get(name)?.get_ref());
    (table.len() == 2).then(|| Some(format!("{} => {}", part("match")?, part("send")?)))?
}

fn header(key: &Key<'_>, value: &Value<'_>) -> Option<String> {
    Some(format!("{}: {}", key.get_ref(), scalar(value.get_ref())?))
}
