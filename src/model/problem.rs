//! Something to say about a place in a document, before it is known where that place is in the text.

use std::{borrow::Cow, fmt};

/// A place in a document, such as `wireguard[0].peers[1].allowed-ips[0]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(Vec<Segment>);

/// One step into a document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Segment {
    /// Into a table.
    Key(Cow<'static, str>),
    /// Into a list, from 0.
    Index(usize),
}

impl Path {
    /// The place of `name` in the document itself.
    pub fn new(name: &'static str) -> Self {
        Self(vec![Segment::Key(Cow::Borrowed(name))])
    }

    /// The place of `name` in the table that is here.
    #[must_use]
    pub fn key(mut self, name: &'static str) -> Self {
        self.push(Segment::Key(Cow::Borrowed(name)));
        self
    }

    /// The place of the element with this number, from 0, in the list that is here.
    #[must_use]
    pub fn index(mut self, index: usize) -> Self {
        self.push(Segment::Index(index));
        self
    }

    /// Goes one step further.
    pub fn push(&mut self, segment: Segment) {
        self.0.push(segment);
    }

    /// Goes one step back.
    pub fn pop(&mut self) {
        self.0.pop();
    }

    /// The steps from the document's root.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// The innermost key.
    pub fn last_key(&self) -> Option<&str> {
        self.0.iter().rev().find_map(|segment| match segment {
            Segment::Key(name) => Some(name.as_ref()),
            Segment::Index(_) => None,
        })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(name) if position == 0 => f.write_str(name)?,
                Segment::Key(name) => write!(f, ".{name}")?,
            }
        }
        Ok(())
    }
}

/// What is the matter with a place in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The place.
    pub path: Path,
    /// What is wrong, without the value itself; `{}` in it is where `other` is.
    pub reason: String,
    /// What to write instead.
    pub fix: String,
    /// Another place that has to do with it.
    pub other: Option<Path>,
    /// The problem is that something else is not there. Not worth a word while that may be in a part of the
    /// document which could not be read.
    pub absence: Option<Absence>,
}

/// What would be no problem if one of some keys were there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// In the same element of one of the document's lists.
    Here(&'static [&'static str]),
    /// Anywhere in some of the document's sections.
    In {
        /// The sections.
        sections: &'static [&'static str],
        /// The keys, of which a section may be one.
        keys: &'static [&'static str],
    },
}

impl Absence {
    /// Whether what is missing at `place` may be what is wrong at `unread`: one of the keys, something around or
    /// within it, or, if its key is `unknown`, one of them misspelt.
    pub fn may_be(&self, place: &Path, unread: &Path, unknown: bool) -> bool {
        let around = |segments: &[Segment]| unknown || matches!(segments.last(), None | Some(Segment::Index(_)));
        let (keys, inside) = match self {
            Self::In { sections, keys } => {
                let (section, rest) = unread.segments().split_first().unzip();
                // Of the document's own keys, an unknown one may be a section, misspelt.
                let own = rest.is_none_or(|rest| rest.is_empty() && unknown);
                let one_of = |name: &Segment| matches!(name, Segment::Key(name) if sections.contains(&name.as_ref()));
                let inside = own || section.is_some_and(one_of);
                (keys, Some(unread.segments()).filter(|_| inside))
            }
            Self::Here(keys) => {
                let element = place.segments().get(..2).unwrap_or(place.segments());
                (keys, unread.segments().strip_prefix(element))
            }
        };
        let within = |segment: &Segment| matches!(segment, Segment::Key(name) if keys.contains(&name.as_ref()));
        inside.is_some_and(|segments| around(segments) || segments.iter().any(within))
    }
}

impl Problem {
    /// Something that is wrong whatever else the document says.
    pub fn new(path: Path, reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            path,
            reason: reason.into(),
            fix: fix.into(),
            other: None,
            absence: None,
        }
    }

    /// The same, with another place that has to do with it: `{}` in the reason.
    #[must_use]
    pub fn with(self, other: Path) -> Self {
        Self {
            other: Some(other),
            ..self
        }
    }

    /// Something that is wrong because something else is missing.
    pub fn absence(path: Path, absence: Absence, reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            absence: Some(absence),
            ..Self::new(path, reason, fix)
        }
    }
}
