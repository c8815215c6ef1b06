//! The derived index of a split: one tantivy segment whose document numbers are the row numbers.
//! It only narrows: what it can't say exactly is verified on the record by [`super::Plan`].

use super::block::{Damage, Footer};
use super::bundle::{Bundle, pack};
use super::text::{Fragment, LONG_TOKEN, TOKEN_BYTES_MAX, TextTokenizer};
use super::{Clause, Kind};
use ahash::AHashMap;
use model::LabelSet;
use std::path::Path;
use std::sync::LazyLock;
use tantivy::columnar::Column;
use tantivy::directory::{Directory, RamDirectory};
use tantivy::query::{BooleanQuery, EnableScoring, Occur, PhraseQuery, Query, RegexQuery, TermQuery, TermSetQuery};
use tantivy::schema::{FAST, Field, INDEXED, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::TokenizerManager;
use tantivy::{DocSet, Index, SegmentReader, TERMINATED, TantivyDocument, TantivyError, Term};

/// A value over this is indexed as [`LONG_TOKEN`] and verified on the record.
pub const TERM_VALUE_BYTES_MAX: usize = 512;
/// Terms a regular expression may select before narrowing by it costs more than it saves.
const TERMS_MAX: usize = 4096;
/// tantivy sizes its first hash table by this; splits are small.
const WRITER_BYTES: usize = 16 << 20;

struct Fields {
    schema: Schema,
    time: Field,
    number: Field,
    stream: Field,
    trace: Field,
    span: Field,
    term: Field,
    text: Field,
}

static FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    let mut b = Schema::builder();
    let indexing = |tokenizer: &str, record| {
        let indexing = TextFieldIndexing::default().set_tokenizer(tokenizer).set_index_option(record).set_fieldnorms(false);
        TextOptions::default().set_indexing_options(indexing)
    };
    Fields {
        time: b.add_i64_field("time", FAST),
        number: b.add_u64_field("number", FAST),
        stream: b.add_u64_field("stream", INDEXED | FAST),
        trace: b.add_bytes_field("trace", INDEXED),
        span: b.add_bytes_field("span", INDEXED),
        term: b.add_text_field("term", indexing("raw", IndexRecordOption::Basic)),
        text: b.add_text_field("text", indexing("orchestrix", IndexRecordOption::WithFreqsAndPositions)),
        schema: b.build(),
    }
});

fn tokenizers() -> TokenizerManager {
    let tokenizers = TokenizerManager::default();
    tokenizers.register("orchestrix", TextTokenizer);
    tokenizers
}

/// Builds the index of rows in order, as bytes of the `index` file.
pub struct IndexWriter {
    ram: RamDirectory,
    writer: tantivy::SingleSegmentIndexWriter,
}

impl IndexWriter {
    pub fn new() -> tantivy::Result<Self> {
        let ram = RamDirectory::create();
        let writer = Index::builder()
            .schema(FIELDS.schema.clone())
            .tokenizers(tokenizers())
            .single_segment_index_writer(ram.clone(), WRITER_BYTES)?;
        Ok(Self { ram, writer })
    }

    pub fn push<K: Kind>(&mut self, record: &K::Record, stream: u32) -> tantivy::Result<()> {
        let f = &*FIELDS;
        let mut doc = TantivyDocument::default();
        doc.add_i64(f.time, K::time(record));
        doc.add_u64(f.number, K::number(record));
        doc.add_u64(f.stream, u64::from(stream));
        let [trace, span] = K::ids(record);
        for (field, id) in [(f.trace, trace), (f.span, span)] {
            if !id.is_empty() {
                doc.add_bytes(field, id);
            }
        }
        K::terms(record, &mut |name, value| doc.add_text(f.term, term_text(name, value)));
        doc.add_text(f.text, K::text(record));
        self.writer.add_document(doc)
    }

    pub fn finish(self) -> tantivy::Result<Vec<u8>> {
        let index = self.writer.finalize()?;
        let mut files = vec![("meta.json".to_owned(), self.ram.atomic_read(Path::new("meta.json"))?)];
        let mut names: Vec<_> = index.load_metas()?.list_segment_files().into_iter().collect();
        names.sort();
        for name in names {
            if self.ram.exists(&name)? {
                let bytes = self.ram.open_read(&name)?.read_bytes()?.as_slice().to_vec();
                files.push((name.to_string_lossy().into_owned(), bytes));
            }
        }
        Ok(pack(&files))
    }
}

fn term_text(name: &str, value: &str) -> String {
    let value = if value.len() > TERM_VALUE_BYTES_MAX { LONG_TOKEN } else { value };
    format!("{name}\0{value}")
}

/// An open index.
pub struct IndexReader {
    segment: SegmentReader,
    pub times: Column<i64>,
    pub numbers: Column<u64>,
    pub streams: Column<u64>,
}

impl IndexReader {
    pub fn open(file: cap_std::fs::File, rows: u32) -> Result<Self, Damage> {
        let bundle = Bundle::open(file)?;
        Self::of(bundle, rows).map_err(|e| Damage::Io(std::io::Error::other(e)))
    }

    fn of(bundle: Bundle, rows: u32) -> tantivy::Result<Self> {
        let mut index = Index::open(bundle)?;
        index.set_tokenizers(tokenizers());
        let wrong = |what: &str| TantivyError::InternalError(what.to_owned());
        if index.schema() != FIELDS.schema {
            return Err(wrong("the index has another schema"));
        }
        let segments = index.searchable_segments()?;
        let [segment] = &segments[..] else { return Err(wrong("the index has not one segment")) };
        let segment = SegmentReader::open(segment)?;
        if segment.max_doc() != rows {
            return Err(wrong("the index has another number of rows"));
        }
        let fast = segment.fast_fields();
        Ok(Self { times: fast.i64("time")?, numbers: fast.u64("number")?, streams: fast.u64("stream")?, segment })
    }

    pub fn time(&self, row: u32) -> i64 {
        self.times.values.get_val(row)
    }
    pub fn number(&self, row: u32) -> u64 {
        self.numbers.values.get_val(row)
    }
    pub fn stream(&self, row: u32) -> u64 {
        self.streams.values.get_val(row)
    }

    /// The rows whose time lies in `[start, end)`. Rows are in order of time.
    pub fn rows_between(&self, start: i64, end: i64) -> std::ops::Range<u32> {
        let first_at = |bound: i64| {
            let (mut low, mut high) = (0, self.segment.max_doc());
            while low < high {
                let middle = low + (high - low) / 2;
                if self.time(middle) < bound { low = middle + 1 } else { high = middle }
            }
            low
        };
        let from = first_at(start);
        from..first_at(end).max(from)
    }

    /// Rows of a range that the clauses leave, ascending. A superset of what matches.
    pub fn narrow(&self, clauses: &[Clause], footer: &Footer, rows: std::ops::Range<u32>) -> tantivy::Result<Vec<u32>> {
        let mut parts: Vec<(Occur, Box<dyn Query>)> = Vec::new();
        for clause in clauses {
            match self.query(clause, footer)? {
                Narrowed::All => {}
                Narrowed::None => return Ok(Vec::new()),
                Narrowed::To(query) => parts.push((Occur::Must, query)),
                Narrowed::Without(query) => parts.push((Occur::MustNot, query)),
            }
        }
        if parts.is_empty() {
            return Ok(rows.collect());
        }
        if parts.iter().all(|(occur, _)| *occur == Occur::MustNot) {
            parts.push((Occur::Must, Box::new(tantivy::query::AllQuery)));
        }
        let weight = BooleanQuery::new(parts).weight(EnableScoring::disabled_from_schema(&FIELDS.schema))?;
        let mut scorer = weight.scorer(&self.segment, 1.0)?;
        let mut out = Vec::new();
        let mut row = scorer.doc();
        if row < rows.start {
            row = scorer.seek(rows.start);
        }
        while row != TERMINATED && row < rows.end {
            out.push(row);
            row = scorer.advance();
        }
        Ok(out)
    }

    fn query(&self, clause: &Clause, footer: &Footer) -> tantivy::Result<Narrowed> {
        let f = &*FIELDS;
        let basic = |term| Box::new(TermQuery::new(term, IndexRecordOption::Basic)) as Box<dyn Query>;
        let text = |word: &str| Term::from_field_text(f.text, if word.len() > TOKEN_BYTES_MAX { LONG_TOKEN } else { word });
        Ok(match clause {
            Clause::Streams(matches) => return Ok(self.streams_query(footer, &**matches)),
            Clause::Trace(id) => Narrowed::To(basic(Term::from_field_bytes(f.trace, id))),
            Clause::Span(id) => Narrowed::To(basic(Term::from_field_bytes(f.span, id))),
            Clause::Term { name, value } => Narrowed::To(basic(Term::from_field_text(f.term, &term_text(name, value)))),
            Clause::TermWhere { name, matches } => self.terms_query(name, &**matches)?,
            Clause::Word(word) => Narrowed::To(basic(text(word))),
            Clause::Phrase(words) if words.iter().any(|w| w.len() > TOKEN_BYTES_MAX) => Narrowed::All,
            Clause::Phrase(words) => Narrowed::To(Box::new(PhraseQuery::new(words.iter().map(|w| text(w)).collect()))),
            Clause::Fragment(fragment) => fragment_query(f.text, fragment),
            Clause::Any(clauses) => {
                let mut any: Vec<Box<dyn Query>> = Vec::new();
                for clause in clauses {
                    match self.query(clause, footer)? {
                        Narrowed::All | Narrowed::Without(_) => return Ok(Narrowed::All),
                        Narrowed::None => {}
                        Narrowed::To(query) => any.push(query),
                    }
                }
                if any.is_empty() { Narrowed::None } else { Narrowed::To(Box::new(BooleanQuery::union(any))) }
            }
            Clause::Not(clause) => match self.query(clause, footer)? {
                Narrowed::All => Narrowed::None,
                Narrowed::None => Narrowed::All,
                Narrowed::To(query) => Narrowed::Without(query),
                Narrowed::Without(query) => Narrowed::To(query),
            },
        })
    }

    fn streams_query(&self, footer: &Footer, matches: &(dyn Fn(&LabelSet) -> bool + Send + Sync)) -> Narrowed {
        let chosen: Vec<u64> =
            footer.streams.iter().enumerate().filter(|(_, s)| matches(&s.labels)).map(|(i, _)| i as u64).collect();
        if chosen.is_empty() {
            Narrowed::None
        } else if chosen.len() == footer.streams.len() {
            Narrowed::All
        } else {
            let terms = chosen.into_iter().map(|i| Term::from_field_u64(FIELDS.stream, i));
            Narrowed::To(Box::new(TermSetQuery::new(terms)))
        }
    }

    fn terms_query(&self, name: &str, matches: &(dyn Fn(&str) -> bool + Send + Sync)) -> tantivy::Result<Narrowed> {
        let field = FIELDS.term;
        let inverted = self.segment.inverted_index(field)?;
        let prefix = format!("{name}\0");
        let mut stream = inverted.terms().range().ge(prefix.as_bytes()).lt(format!("{name}\u{1}").as_bytes()).into_stream()?;
        let mut terms = Vec::new();
        while stream.advance() {
            let Ok(value) = std::str::from_utf8(&stream.key()[prefix.len()..]) else { continue };
            if value == LONG_TOKEN || matches(value) {
                terms.push(Term::from_field_text(field, &format!("{prefix}{value}")));
            }
            if terms.len() > TERMS_MAX {
                return Ok(Narrowed::All);
            }
        }
        Ok(if terms.is_empty() { Narrowed::None } else { Narrowed::To(Box::new(TermSetQuery::new(terms))) })
    }
}

enum Narrowed {
    All,
    None,
    To(Box<dyn Query>),
    Without(Box<dyn Query>),
}

/// Over-long tokens are in the dictionary only as [`LONG_TOKEN`], so that one always counts as a hit.
fn fragment_query(field: Field, fragment: &Fragment) -> Narrowed {
    if fragment.text.len() > TOKEN_BYTES_MAX {
        let term = Term::from_field_text(field, LONG_TOKEN);
        return Narrowed::To(Box::new(TermQuery::new(term, IndexRecordOption::Basic)));
    }
    if !fragment.is_open_left && !fragment.is_open_right {
        let term = Term::from_field_text(field, &fragment.text);
        return Narrowed::To(Box::new(TermQuery::new(term, IndexRecordOption::Basic)));
    }
    let open = |is_open| if is_open { "(.|\n)*" } else { "" };
    let (left, right) = (open(fragment.is_open_left), open(fragment.is_open_right));
    // A token is alphanumeric, so there is nothing to escape but what lower-casing may add, and that is no syntax either.
    let pattern = format!("({left}{}{right})|{LONG_TOKEN}", fragment.text);
    // The automaton's size is bounded by tantivy; a piece too long for it just does not narrow.
    RegexQuery::from_pattern(&pattern, field).map_or(Narrowed::All, |query| Narrowed::To(Box::new(query)))
}

/// Numbers for streams in order of first appearance, with a memory of the bytes that make one.
pub struct StreamTable {
    by_key: AHashMap<Vec<u8>, u32>,
    key: Vec<u8>,
}

impl StreamTable {
    pub fn new() -> Self {
        Self { by_key: AHashMap::new(), key: Vec::new() }
    }

    /// The record's stream; `create` is called for a new one.
    pub fn number<K: Kind>(&mut self, record: &K::Record, create: impl FnOnce(LabelSet) -> u32) -> u32 {
        self.key.clear();
        K::stream_key(record, &mut self.key);
        if let Some(number) = self.by_key.get(&self.key) {
            return *number;
        }
        let number = create(K::stream(record));
        self.by_key.insert(self.key.clone(), number);
        number
    }
}
