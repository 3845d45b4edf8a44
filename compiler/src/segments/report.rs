//! What is said of a plan's segments.

use std::collections::BTreeMap;

/// A segment of a plan.
#[derive(Clone, Debug)]
pub struct SegmentReport {
    /// The entry it is in.
    pub entry: String,
    /// Its step.
    pub step: String,
    /// Why ONNX Runtime computes its nodes.
    pub reasons: Vec<Reason>,
}

impl SegmentReport {
    /// How many nodes it has.
    pub fn nodes(&self) -> usize {
        self.reasons.iter().map(|reason| reason.nodes.len()).sum()
    }
}

/// Why ONNX Runtime computes nodes, with what they are called.
#[derive(Clone, Debug)]
pub struct Reason {
    /// Why.
    pub reason: String,
    /// Names, with the operator.
    pub nodes: Vec<String>,
}

/// Reasons in one line: how many nodes each is for, those of most nodes first, with the names of a few.
pub fn summary<'a>(reasons: impl IntoIterator<Item = &'a Reason>) -> String {
    /// Reasons that are told, and nodes that are named for each.
    const TOLD: (usize, usize) = (4, 3);
    let mut merged: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for Reason { reason, nodes } in reasons {
        merged.entry(reason).or_default().extend(nodes.iter().map(String::as_str));
    }
    let mut merged: Vec<(&str, Vec<&str>)> = merged.into_iter().collect();
    merged.sort_by_key(|(_, nodes)| std::cmp::Reverse(nodes.len()));
    let told = merged.iter().take(TOLD.0).map(|(reason, nodes)| {
        let named = nodes[..nodes.len().min(TOLD.1)].join(", ");
        let more = if nodes.len() > TOLD.1 { ", ..." } else { "" };
        format!("{} x {reason} ({named}{more})", nodes.len())
    });
    let mut told: Vec<String> = told.collect();
    if merged.len() > TOLD.0 {
        let nodes: usize = merged[TOLD.0..].iter().map(|(_, nodes)| nodes.len()).sum();
        told.push(format!("{nodes} for other reasons"));
    }
    told.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_most_nodes_are_told_with_a_few_names() {
        let of = |reason: &str, count: usize| Reason {
            reason: reason.into(),
            nodes: (0..count).map(|n| format!("\"{reason}{n}\" (Op)")).collect(),
        };
        assert_eq!(summary([]), "");
        assert_eq!(summary(&[of("a", 1)]), "1 x a (\"a0\" (Op))");
        let many = [of("a", 2), of("b", 500), of("b", 1), of("c", 4), of("d", 1), of("e", 1)];
        let told = summary(&many);
        assert_eq!(
            told,
            "501 x b (\"b0\" (Op), \"b1\" (Op), \"b2\" (Op), ...); \
             4 x c (\"c0\" (Op), \"c1\" (Op), \"c2\" (Op), ...); \
             2 x a (\"a0\" (Op), \"a1\" (Op)); 1 x d (\"d0\" (Op)); 1 for other reasons"
        );
    }
}
