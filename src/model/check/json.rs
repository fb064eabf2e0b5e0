//! A reader of JSON (RFC 8259) that keeps the place of every value. Depth and number of values are
//! bounded; a key that stands twice is an error, and reading goes on behind it.

use std::{
    collections::{BTreeMap, btree_map},
    ops::Range,
};

use super::{
    MAX_DEPTH, MAX_VALUES, Sort,
    tree::{Entry, Item, Node, Value},
};

/// What is wrong with the text, and where.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) span: Range<usize>,
    pub(super) reason: String,
    pub(super) fix: String,
    pub(super) sort: Sort,
}

impl SyntaxError {
    pub(super) fn new(span: Range<usize>, reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            span,
            reason: reason.into(),
            fix: fix.into(),
            sort: Sort::Syntax,
        }
    }

    /// A key that stands twice in a table. The text is plain all the same: the first one counts.
    pub(super) fn twice(span: Range<usize>) -> Self {
        Self {
            sort: Sort::Value,
            ..Self::new(span, "this key stands here twice", "remove one of the two")
        }
    }
}

/// Reads a whole text; `None` if it is no JSON at all.
pub(super) fn parse(text: &str) -> (Option<Node<'static>>, Vec<SyntaxError>) {
    let mut reader = Reader {
        text,
        at: 0,
        values: 0,
        errors: Vec::new(),
    };
    let node = reader.value(0).and_then(|node| {
        reader.white_space();
        match reader.peek() {
            None => Ok(node),
            Some(_) => Err(reader.unexpected("text follows the document", "remove what follows the last }")),
        }
    });
    match node {
        Ok(node) => (Some(node), reader.errors),
        Err(error) => {
            reader.errors.push(error);
            (None, reader.errors)
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    values: usize,
    errors: Vec<SyntaxError>,
}

type Read<T> = Result<T, SyntaxError>;

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn white_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// Takes `byte` if it is next.
    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn unexpected(&self, reason: &str, fix: &str) -> SyntaxError {
        let length = self.rest().chars().next().map_or(0, char::len_utf8);
        SyntaxError::new(self.at..self.at + length, reason, fix)
    }

    fn value(&mut self, depth: usize) -> Read<Node<'static>> {
        self.white_space();
        self.values += 1;
        if depth > MAX_DEPTH {
            return Err(self.unexpected("values are nested too deep", "write the document as the schema says"));
        }
        if self.values > MAX_VALUES {
            return Err(self.unexpected("the document has too many values", "split it over several appliances"));
        }
        let start = self.at;
        let value = match self.peek() {
            Some(b'{') => self.table(depth)?,
            Some(b'[') => self.list(depth)?,
            Some(b'"') => Value::Text(self.string()?.into()),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.word("true", Value::Boolean(true))?,
            Some(b'f') => self.word("false", Value::Boolean(false))?,
            Some(b'n') => self.word("null", Value::Null)?,
            None => return Err(self.unexpected("the document ends within a value", "write the rest of it")),
            Some(_) => return Err(self.unexpected("this is not a JSON value", "write text in double quotes")),
        };
        Ok(Node {
            span: start..self.at,
            value,
        })
    }

    fn word(&mut self, word: &str, value: Value<'static>) -> Read<Value<'static>> {
        if self.rest().starts_with(word) {
            self.at += word.len();
            return Ok(value);
        }
        Err(self.unexpected(
            "this is not a JSON value",
            &format!("write {word}, or text in double quotes"),
        ))
    }

    fn table(&mut self, depth: usize) -> Read<Value<'static>> {
        self.at += 1;
        let mut entries = BTreeMap::new();
        self.white_space();
        if self.take(b'}') {
            return Ok(Value::Table(entries.into_iter().collect()));
        }
        loop {
            self.white_space();
            let start = self.at;
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("a key is missing", "write a key in double quotes"));
            }
            let name = self.string()?;
            let key = start..self.at;
            self.white_space();
            if !self.take(b':') {
                return Err(self.unexpected("a key has no value", "write a colon and the value"));
            }
            let node = self.value(depth + 1)?;
            match entries.entry(name.into()) {
                btree_map::Entry::Vacant(vacant) => {
                    vacant.insert(Entry::new(key, node));
                }
                btree_map::Entry::Occupied(mut first) => {
                    first.get_mut().again.push(node);
                    self.errors.push(SyntaxError::twice(key));
                }
            }
            self.white_space();
            if self.take(b'}') {
                return Ok(Value::Table(entries.into_iter().collect()));
            }
            if !self.take(b',') {
                return Err(self.unexpected("a table goes on without a comma", "write , or }"));
            }
        }
    }

    fn list(&mut self, depth: usize) -> Read<Value<'static>> {
        self.at += 1;
        let mut items = Vec::new();
        self.white_space();
        if self.take(b']') {
            return Ok(Value::List(items));
        }
        loop {
            let node = self.value(depth + 1)?;
            items.push(Item {
                index: items.len(),
                node,
            });
            self.white_space();
            if self.take(b']') {
                return Ok(Value::List(items));
            }
            if !self.take(b',') {
                return Err(self.unexpected("a list goes on without a comma", "write , or ]"));
            }
        }
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - start
    }

    fn number(&mut self) -> Read<Value<'static>> {
        const FIX: &str = "write it without leading zeros, such as 10";
        let start = self.at;
        self.take(b'-');
        let zero = self.peek() == Some(b'0');
        let digits = self.digits();
        let mut whole = true;
        let mut good = digits == 1 || digits > 1 && !zero;
        if self.take(b'.') {
            whole = false;
            good &= self.digits() > 0;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            whole = false;
            let _ = self.take(b'+') || self.take(b'-');
            good &= self.digits() > 0;
        }
        match self.text.get(start..self.at) {
            Some(text) if good && whole => Ok(Value::Integer(text.parse().unwrap_or(i128::MAX))),
            _ if good => Ok(Value::Other("a number with a fraction")),
            _ => Err(SyntaxError::new(start..self.at, "this is not a JSON number", FIX)),
        }
    }

    fn string(&mut self) -> Read<String> {
        let start = self.at;
        self.at += 1;
        let mut result = String::new();
        loop {
            let plain = self
                .rest()
                .find(|c: char| c == '"' || c == '\\' || c.is_ascii_control())
                .unwrap_or(self.rest().len());
            result.push_str(self.rest().get(..plain).unwrap_or_default());
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(result);
                }
                Some(b'\\') => result.push(self.escape()?),
                Some(0x7f) => {
                    result.push('\x7f');
                    self.at += 1;
                }
                _ => {
                    let reason = "text is not closed on its line";
                    return Err(SyntaxError::new(
                        start..self.at,
                        reason,
                        "write the closing double quote",
                    ));
                }
            }
        }
    }

    fn escape(&mut self) -> Read<char> {
        let start = self.at;
        self.at += 1;
        let letter = self.peek();
        self.at += usize::from(letter.is_some_and(|byte| byte.is_ascii()));
        let decoded = match letter {
            Some(b @ (b'"' | b'\\' | b'/')) => Some(char::from(b)),
            Some(b'b') => Some('\x08'),
            Some(b'f') => Some('\x0c'),
            Some(b'n') => Some('\n'),
            Some(b'r') => Some('\r'),
            Some(b't') => Some('\t'),
            Some(b'u') => self.code_point(),
            _ => None,
        };
        let fix = "write \\\\ for a backslash, or \\u and four hexadecimal digits";
        decoded.ok_or_else(|| SyntaxError::new(start..self.at, "this is not an escape of JSON", fix))
    }

    /// What follows `\u`: a code unit, or a pair of surrogates.
    fn code_point(&mut self) -> Option<char> {
        let high = self.code_unit()?;
        if !(0xd800..0xdc00).contains(&high) {
            return char::from_u32(high);
        }
        if !(self.take(b'\\') && self.take(b'u')) {
            return None;
        }
        let low = self.code_unit()?;
        let low = (0xdc00..0xe000).contains(&low).then_some(low)?;
        char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00))
    }

    fn code_unit(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_serde_json() {
        let good = [
            r#"{}"#,
            r#" {"a": [1, -2, null, true, false, "x"], "b": {"c": []}} "#,
            r#"{"a": "\" \\ \/ \b \f \n \r \t \u00e9 \ud83d\ude00 é 😀"}"#,
            r#"{"": 0, "a": 18446744073709551615, "b": -9223372036854775808}"#,
        ];
        for text in good {
            let (node, errors) = parse(text);
            assert!(errors.is_empty(), "{text}: {errors:?}");
            let theirs: serde_json::Value = serde_json::from_str(text).unwrap();
            assert_eq!(node.unwrap().to_json(), theirs, "{text}");
        }
        let bad = [
            "",
            "{",
            "{]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "[1,]",
            "[1 2]",
            "01",
            "1.",
            "-",
            "1e",
            "tru",
            "\"\\x\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"\\u+123\"",
            "\"a\nb\"",
            "{} {}",
            "'a'",
            "\"\\é\"",
            "\"\\u00é\"",
        ];
        for text in bad {
            let (node, errors) = parse(text);
            assert!(node.is_none() && errors.len() == 1, "{text}");
            assert!(serde_json::from_str::<serde_json::Value>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_key_twice_is_found_and_reading_goes_on() {
        let (node, errors) = parse(r#"{"a": 1, "a": 2, "b": 3}"#);
        assert_eq!(errors[0].span, 9..12);
        assert_eq!(node.unwrap().to_json(), serde_json::json!({"a": 1, "b": 3}));
    }

    #[test]
    fn depth_and_number_are_bounded() {
        let (node, errors) = parse(&"[".repeat(100_000));
        assert!(node.is_none() && errors[0].reason.contains("too deep"));
        let many = format!("[{}0]", "0,".repeat(MAX_VALUES));
        assert!(parse(&many).1[0].reason.contains("too many"));
    }
}
