//! The tokens of a vocabulary, flat: all texts in one string, found by id and by text.

use std::fmt;
use std::hash::{BuildHasher, RandomState};

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};

use super::index::Index;

/// Token texts and their ids; both are distinct.
pub(super) struct Vocab {
    text: String,
    /// By ascending id.
    entries: Vec<Entry>,
    by_text: Index,
    /// Keyed, so that no file can be made to collide.
    hasher: RandomState,
}

#[derive(Clone, Copy)]
struct Entry {
    id: u32,
    begin: u32,
    end: u32,
}

impl Vocab {
    /// Number of tokens.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The id of a token.
    pub(super) fn id(&self, token: &str) -> Option<u32> {
        let position = self.position(token)?;
        self.entries.get(position).map(|entry| entry.id)
    }

    /// The token of an id.
    pub(super) fn token(&self, id: u32) -> Option<&str> {
        // Ids mostly are 0, 1, 2, ..., and then an id is its own position.
        let dense = self.entries.get(id as usize).filter(|entry| entry.id == id);
        let entry = dense.or_else(|| {
            let position = self.entries.binary_search_by_key(&id, |entry| entry.id).ok()?;
            self.entries.get(position)
        })?;
        Some(text_of(&self.text, *entry))
    }

    /// All tokens with their ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        self.entries.iter().map(|entry| (text_of(&self.text, *entry), entry.id))
    }

    fn position(&self, token: &str) -> Option<usize> {
        let matches = |at: usize| text_of(&self.text, self.entries[at]) == token;
        self.by_text.find(self.hasher.hash_one(token), matches)
    }

    fn new(mut text: String, mut entries: Vec<Entry>) -> Result<Vocab, &'static str> {
        text.shrink_to_fit();
        entries.shrink_to_fit();
        entries.sort_unstable_by_key(|entry| entry.id);
        if entries.windows(2).any(|pair| pair[0].id == pair[1].id) {
            return Err("two tokens have one id");
        }
        let hasher = RandomState::new();
        let mut by_text = Index::new(entries.len());
        for (position, &entry) in (0u32..).zip(&entries) {
            let token = text_of(&text, entry);
            let matches = |at: usize| text_of(&text, entries[at]) == token;
            if by_text.insert(hasher.hash_one(token), position, matches).is_some() {
                return Err("a token has two ids");
            }
        }
        Ok(Vocab { text, entries, by_text, hasher })
    }
}

/// Entries are only made with the places of whole tokens.
fn text_of(text: &str, entry: Entry) -> &str {
    text.get(entry.begin as usize..entry.end as usize).unwrap_or_default()
}

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Vocab, D::Error> {
        deserializer.deserialize_map(VocabVisitor)
    }
}

struct VocabVisitor;

impl<'de> Visitor<'de> for VocabVisitor {
    type Value = Vocab;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tokens with their ids")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
        let place = |text: &String| {
            u32::try_from(text.len()).map_err(|_| A::Error::custom("the vocabulary is too long"))
        };
        let mut text = String::new();
        let mut entries = Vec::new();
        let mut begin = 0;
        while map.next_key_seed(Append(&mut text))?.is_some() {
            let (id, end) = (map.next_value()?, place(&text)?);
            entries.push(Entry { id, begin, end });
            begin = end;
        }
        if u32::try_from(entries.len()).is_err() {
            return Err(A::Error::custom("the vocabulary is too long"));
        }
        Vocab::new(text, entries).map_err(A::Error::custom)
    }
}

/// Appends a JSON string to a text.
pub(super) struct Append<'a>(pub(super) &'a mut String);

impl<'de> DeserializeSeed<'de> for Append<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Append<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token")
    }

    fn visit_str<E: Error>(self, token: &str) -> Result<(), E> {
        self.0.push_str(token);
        Ok(())
    }
}
