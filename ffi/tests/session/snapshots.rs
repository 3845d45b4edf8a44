//! Snapshots, good and hostile.

use limbeck_compiler::Quant;
use limbeck_tests::{Compiled, golden};
use runtime::{ErrorKind, KvFormat, SessionOptions};
use xxhash_rust::xxh3::xxh3_64;

use crate::api::{ModelApi, SessionApi};
use crate::{both, fails, open, session, step, tiny};

both!(
    snapshots_restore_in_another_session_and_nowhere_else,
    snapshots_of_any_bytes_are_refused_or_used,
);

/// A snapshot of 37 tokens, and the logits after one more.
fn snapshot<M: ModelApi>(model: &M, ids: &[u32]) -> (Vec<u8>, Vec<f32>) {
    let mut session = session(model);
    let sequence = session.add();
    step(&mut session, sequence, &ids[..37]);
    let snapshot = session.snapshot(sequence).expect("a snapshot");
    (snapshot, step(&mut session, sequence, &ids[37..38]))
}

fn snapshots_restore_in_another_session_and_nowhere_else<M: ModelApi>() {
    let (plan, ids) = tiny();
    let model = open::<M>(&plan, 2);
    let (snapshot, expected) = snapshot(&model, &ids);
    let mut other = session(&model);
    let restored = other.restore(&snapshot).expect("restored");
    assert_eq!(other.position(restored).expect("a position"), 37);
    assert_eq!(step(&mut other, restored, &ids[37..38]), expected);

    let refused = |session: &mut M::Session, bytes: &[u8]| {
        fails(session.restore(bytes), ErrorKind::InvalidInput);
    };
    for cut in [0, 7, 8, 15, 16, 20, snapshot.len() - 1] {
        refused(&mut other, &snapshot[..cut]);
    }
    refused(&mut other, &[&snapshot[..], &[0]].concat());
    for place in (0..64).chain((64..snapshot.len()).step_by(977)) {
        let mut damaged = snapshot.clone();
        damaged[place] ^= 0x10;
        refused(&mut other, &damaged);
    }
    let options = SessionOptions { kv: KvFormat::Q8, ..SessionOptions::default() };
    refused(&mut model.session(&options).expect("a session"), &snapshot);
    let options = SessionOptions { context: 36, ..SessionOptions::default() };
    refused(&mut model.session(&options).expect("a session"), &snapshot);
    let qwen = Compiled::new(&golden().join("tiny/qwen2"), Quant::F32, true);
    refused(&mut session(&open::<M>(&qwen, 1)), &snapshot);
}

/// The bytes with the checksum of what follows it.
fn with_checksum(bytes: &[u8]) -> Vec<u8> {
    let (head, body) = bytes.split_at(24);
    [&head[..16], &xxh3_64(body).to_le_bytes(), body].concat()
}

fn snapshots_of_any_bytes_are_refused_or_used<M: ModelApi>() {
    let (plan, ids) = tiny();
    let model = open::<M>(&plan, 1);
    let (mut bytes, expected) = snapshot(&model, &ids);
    let mut session = session(&model);
    let (mut used, mut refused) = (0, 0);
    // All of the header, and some of the values.
    let places = (0..64).chain((64..bytes.len()).step_by(977));
    for (place, change) in places.flat_map(|place| [0x01, 0x80, 0xff].map(|c| (place, c))) {
        bytes[place] ^= change;
        let made_up = with_checksum(&bytes);
        match session.restore(&made_up) {
            Ok(sequence) => {
                let position = session.position(sequence).expect("a position");
                assert!(position <= 37, "byte {place}: {position} tokens");
                step(&mut session, sequence, &ids[37..38]);
                session.end(sequence).expect("ended");
                used += 1;
            }
            Err(failure) => {
                assert_eq!(failure.kind, Some(ErrorKind::InvalidInput), "{}", failure.message);
                refused += 1;
            }
        }
        bytes[place] ^= change;
    }
    assert!(used > 0 && refused >= 48, "{used} used, {refused} refused");
    let restored = session.restore(&bytes).expect("restored");
    assert_eq!(step(&mut session, restored, &ids[37..38]), expected);
}
