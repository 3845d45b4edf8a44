//! Hostile input: systematic mutations, and the limits that whatever reads them must keep.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::memory;

/// Beside a file's own size, what reading and running it may allocate.
pub const SPARE_BYTES: usize = 64 << 20;
/// What reading and running a small file may take.
const TIME: Duration = Duration::from_secs(1);
/// A busy machine may delay a call; the quickest of so many counts.
const TRIES: usize = 4;

/// Numbers that look random and never change (xorshift64*).
#[derive(Clone, Debug)]
pub struct Noise(u64);

impl Noise {
    /// The sequence of this seed, which is not 0.
    pub fn new(seed: u64) -> Noise {
        Noise(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// The next number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next_u64() % limit as u64) as usize
    }
}

thread_local! {
    /// Within a checked call: what its last panic said.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the panics of checked calls, the ones that are caught deep inside too, from printing
/// backtraces: those take memory and time that are none of the call's.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |info| {
            let kept = PANIC.with_borrow_mut(|last| {
                last.as_mut().map(|last| *last = info.to_string()).is_some()
            });
            if !kept {
                usual(info);
            }
        }));
    });
}

/// How many mutations were read, and how many of them to the end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// All.
    pub tried: usize,
    /// Those that were accepted.
    pub accepted: usize,
}

impl Tally {
    /// Runs a mutation and holds it to the limits. `call` gives an error as text.
    ///
    /// # Panics
    /// When it panics, takes too long or too much memory, or when an error does not say where.
    pub fn check(
        &mut self,
        name: &str,
        bytes: usize,
        mut call: impl FnMut() -> Result<(), String>,
    ) {
        watch_panics();
        self.tried += 1;
        let mut quickest = Duration::MAX;
        for _ in 0..TRIES {
            let start = Instant::now();
            PANIC.set(Some(String::new()));
            let (result, peak) = memory::peak(|| catch_unwind(AssertUnwindSafe(&mut call)));
            let last = PANIC.take().unwrap_or_default();
            quickest = quickest.min(start.elapsed());
            let result = result.unwrap_or_else(|_| panic!("{name}: {last}"));
            let spare = peak.saturating_sub(bytes);
            assert!(spare <= SPARE_BYTES, "{name}: {peak} bytes for a file of {bytes}: {result:?}");
            if quickest < TIME {
                self.accepted += usize::from(result.is_ok());
                if let Err(message) = result {
                    assert!(says_where(&message), "{name}: no place: {message}");
                }
                return;
            }
        }
        panic!("{name}: {quickest:?}");
    }
}

/// What errors call the parts of a plan, of a checkpoint and of a call.
const PLACES: [&str; 20] = [
    "calibration",
    "entry",
    "header",
    "key",
    "logits",
    "manifest",
    "metadata",
    "models",
    "node",
    "operand",
    "program",
    "sampler",
    "section",
    "sequence",
    "site",
    "step",
    "table",
    "tensor",
    "tokenizer",
    "weight",
];

/// An error names a place, `place: message`, or a file, or something by its name in quotes.
fn says_where(message: &str) -> bool {
    let names = message.matches('"').count() >= 2;
    names
        || message.split_once(": ").is_some_and(|(place, _)| {
            let word = place.split([' ', ',']).next().unwrap_or_default();
            PLACES.contains(&word) || place.contains(['/', '.'])
        })
}

/// Values to put in the place of a value.
fn replacements(value: &Value, noise: &mut Noise) -> Vec<Value> {
    let mut numbers = |old: &Value| {
        let mut all = vec![json!(0), json!(1), json!(-1), json!(u64::MAX), json!(i64::MIN)];
        all.extend([json!(1u64 << 31), json!(1u64 << 32), json!(0.5), json!(-1e-30), json!(1e300)]);
        all.extend([json!(noise.next_u64()), json!(noise.next_u64() % 64), json!("1")]);
        if let Some(n) = old.as_u64() {
            all.extend([json!(n.wrapping_add(1)), json!(n.wrapping_sub(1)), json!(n / 2)]);
            all.extend([json!(n.wrapping_mul(2)), json!(n.wrapping_mul(1 << 20))]);
        }
        all
    };
    let mut all = match value {
        Value::Number(_) => numbers(value),
        Value::Null => numbers(value).into_iter().chain([json!({}), json!([])]).collect(),
        Value::Bool(b) => vec![json!(!b), json!(1)],
        Value::String(s) => {
            let mut all = vec![json!(""), json!("no such thing"), json!("x".repeat(100_000))];
            all.extend([json!(format!("{s}\u{0}")), json!(s.to_uppercase()), json!(7), json!({})]);
            all
        }
        Value::Array(items) => {
            let mut all = vec![json!([]), json!({})];
            if let (Some(first), Some(last)) = (items.first(), items.last()) {
                let repeated = |item: &Value, n| std::iter::repeat_n(item.clone(), n);
                all.push(items.iter().skip(1).cloned().collect());
                all.push(items.iter().take(items.len() - 1).cloned().collect());
                all.push(items.iter().rev().cloned().collect());
                all.push(items.iter().chain(items).cloned().collect());
                all.push(items.iter().cloned().chain(repeated(last, 1000)).collect());
                all.push(repeated(first, items.len()).collect());
            }
            all
        }
        Value::Object(map) => {
            let without = |key: &String| {
                let rest = map.iter().filter(|(k, _)| *k != key);
                Value::Object(rest.map(|(k, v)| (k.clone(), v.clone())).collect())
            };
            let mut all: Vec<Value> = map.keys().map(without).collect();
            let mut more = map.clone();
            more.insert("unheard_of".into(), json!(1));
            all.extend([Value::Object(more), json!([]), json!({}), json!(1)]);
            all
        }
    };
    if !value.is_null() {
        all.push(Value::Null);
    }
    all.retain(|v| v != value);
    all
}

fn pointers(value: &Value, path: String, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, v)| {
            let key = key.replace('~', "~0").replace('/', "~1");
            pointers(v, format!("{path}/{key}"), out);
        }),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, v)| pointers(v, format!("{path}/{i}"), out));
        }
        _ => {}
    }
    out.push(path);
}

/// Calls `each` with every value of a document replaced by hostile ones: numbers by 0, 1, -1, the
/// largest and random ones, strings by others, arrays shortened, lengthened and turned around,
/// objects with a key less or more.
pub fn each_mutation(document: &Value, seed: u64, mut each: impl FnMut(&str, &Value)) {
    let mut noise = Noise::new(seed);
    let mut all = Vec::new();
    pointers(document, String::new(), &mut all);
    let mut changed = document.clone();
    for path in &all {
        let Some(original) = document.pointer(path) else { continue };
        for value in replacements(original, &mut noise) {
            let mut shown = value.to_string();
            shown.truncate(shown.floor_char_boundary(80));
            if let Some(place) = changed.pointer_mut(path) {
                *place = value;
            }
            each(&format!("{path} = {shown}"), &changed);
        }
        if let Some(place) = changed.pointer_mut(path) {
            *place = original.clone();
        }
    }
}

/// A document with a few values replaced at random, and what was done.
pub fn mutate(document: &Value, changes: usize, noise: &mut Noise) -> (String, Value) {
    let mut changed = document.clone();
    let mut name = String::new();
    for _ in 0..changes {
        let mut all = Vec::new();
        pointers(&changed, String::new(), &mut all);
        // Not the root, which is last.
        let Some(path) = all.get(noise.below(all.len().saturating_sub(1).max(1))) else { break };
        let Some(place) = changed.pointer_mut(path) else { break };
        let values = replacements(place, noise);
        let value = values[noise.below(values.len())].clone();
        let mut shown = value.to_string();
        shown.truncate(shown.floor_char_boundary(80));
        name.push_str(&format!("{path} = {shown}; "));
        *place = value;
    }
    (name, changed)
}
