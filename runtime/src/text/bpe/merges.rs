//! The merges of a model: which two tokens become which, and in what order.

use std::fmt;
use std::hash::{BuildHasher, RandomState};

use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};

use super::index::Index;
use super::vocab::{Append, Vocab};

/// Merges by rank, which is their place in the file, and by the pair that they merge.
pub(super) struct Merges {
    by_rank: Vec<Merge>,
    by_pair: Index,
    /// Keyed, so that no file can be made to collide.
    hasher: RandomState,
}

#[derive(Clone, Copy)]
struct Merge {
    pair: (u32, u32),
    merged: u32,
}

impl Merges {
    /// The rank of the merge of two tokens, and the token that it makes.
    pub(super) fn find(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let pair = (left, right);
        let matches = |rank: usize| self.by_rank[rank].pair == pair;
        let rank = self.by_pair.find(self.hasher.hash_one(pair), matches)?;
        self.by_rank.get(rank).map(|merge| (rank as u32, merge.merged))
    }

    /// The token that the merge of a rank makes.
    pub(super) fn merged(&self, rank: u32) -> Option<u32> {
        self.by_rank.get(rank as usize).map(|merge| merge.merged)
    }

    /// Where a pair is listed twice, the later place counts.
    fn new(mut by_rank: Vec<Merge>) -> Merges {
        by_rank.shrink_to_fit();
        let hasher = RandomState::new();
        let mut by_pair = Index::new(by_rank.len());
        for (rank, merge) in (0u32..).zip(&by_rank) {
            let matches = |at: usize| by_rank[at].pair == merge.pair;
            by_pair.insert(hasher.hash_one(merge.pair), rank, matches);
        }
        Merges { by_rank, by_pair, hasher }
    }
}

/// Reads the merges of tokens of this vocabulary, each as `"a b"` or as `["a", "b"]`.
pub(super) struct MergesOf<'v>(pub(super) &'v Vocab);

impl<'de> DeserializeSeed<'de> for MergesOf<'_> {
    type Value = Merges;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Merges, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for MergesOf<'_> {
    type Value = Merges;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of merges")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merges, A::Error> {
        let mut by_rank = Vec::new();
        let mut joined = String::new();
        while let Some(merge) =
            seq.next_element_seed(MergeOf { vocab: self.0, joined: &mut joined })?
        {
            by_rank.extend(merge);
        }
        if u32::try_from(by_rank.len()).is_err() {
            return Err(A::Error::custom("there are too many merges"));
        }
        Ok(Merges::new(by_rank))
    }
}

/// Reads one merge; `joined` is room to put its two tokens together. A line that begins with
/// `#version`, which files of merges begin with, is none.
struct MergeOf<'a> {
    vocab: &'a Vocab,
    joined: &'a mut String,
}

impl MergeOf<'_> {
    /// The merge of the two parts of `joined`.
    fn split<E: Error>(self, at: usize) -> Result<Option<Merge>, E> {
        let missing = || E::custom("a merge needs a token that is not in the vocabulary");
        let id = |token: &str| self.vocab.id(token).ok_or_else(missing);
        let (left, right) = self.joined.split_at(at);
        Ok(Some(Merge { pair: (id(left)?, id(right)?), merged: id(self.joined)? }))
    }
}

impl<'de> DeserializeSeed<'de> for MergeOf<'_> {
    type Value = Option<Merge>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MergeOf<'_> {
    type Value = Option<Merge>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("two tokens")
    }

    fn visit_str<E: Error>(self, line: &str) -> Result<Self::Value, E> {
        if line.starts_with("#version") {
            return Ok(None);
        }
        let tokens = line.split_once(' ').filter(|(_, right)| !right.contains(' '));
        let (left, right) = tokens.ok_or_else(|| E::custom("a merge that is not of two tokens"))?;
        self.joined.clear();
        self.joined.push_str(left);
        self.joined.push_str(right);
        self.split(left.len())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        self.joined.clear();
        let missing = || A::Error::custom("a merge that is not of two tokens");
        seq.next_element_seed(Append(self.joined))?.ok_or_else(missing)?;
        let at = self.joined.len();
        seq.next_element_seed(Append(self.joined))?.ok_or_else(missing)?;
        self.split(at)
    }
}
