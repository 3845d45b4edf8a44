//! The KV cache's bookkeeping: sharing, copying, capacity, snapshots of any bytes.

mod common;

use common::Random;
use limbeck_kernels::{ErrorKind, KV_BLOCK, KvCache, KvConfig, KvLayer, KvType, SeqId};

const TYPES: [KvType; 3] = [KvType::F32, KvType::F16, KvType::Q8];

fn cache(dtype: KvType, max_blocks: usize) -> KvCache {
    let layers = vec![KvLayer { kv_heads: 2, head_dim: 5 }, KvLayer { kv_heads: 1, head_dim: 8 }];
    KvCache::new(KvConfig { layers, dtype, max_blocks }).unwrap()
}

/// Writes positions `from..to` of all heads with numbers made from `tag`, and commits them.
fn write(cache: &mut KvCache, seq: SeqId, to: usize, tag: f32) {
    let from = cache.len(seq).unwrap();
    cache.reserve(seq, to - from).unwrap();
    for position in from..to {
        for (layer, heads, dim) in [(0, 2, 5), (1, 1, 8)] {
            for head in 0..heads {
                let key = vec![tag + position as f32; dim];
                let value = vec![-tag - head as f32; dim];
                cache.write(seq, layer, head, position, &key, &value).unwrap();
            }
        }
    }
    cache.commit(seq, to - from).unwrap();
}

fn key_at(cache: &KvCache, seq: SeqId, position: usize) -> f32 {
    let (mut key, mut value) = ([f32::NAN; 5], [f32::NAN; 5]);
    cache.read(seq, 0, 1, position, &mut key, &mut value).unwrap();
    assert!(key.iter().all(|k| *k == key[0]));
    key[0]
}

#[test]
fn stored_values_are_rounded_as_their_type_says() {
    let mut random = Random::new(1);
    let (k, v) = (random.floats(5), random.floats(5));
    for (dtype, tolerance) in [(KvType::F32, 0.0), (KvType::F16, 5e-4), (KvType::Q8, 4e-3)] {
        let mut cache = cache(dtype, 4);
        let seq = cache.create();
        cache.reserve(seq, 40).unwrap();
        for position in [0, 31, 32, 39] {
            cache.write(seq, 0, 1, position, &k, &v).unwrap();
        }
        for position in [0, 31, 32, 39] {
            let (mut key, mut value) = ([f32::NAN; 5], [f32::NAN; 5]);
            cache.read(seq, 0, 1, position, &mut key, &mut value).unwrap();
            for (got, want) in key.iter().chain(&value).zip(k.iter().chain(&v)) {
                assert!((got - want).abs() <= tolerance, "{dtype:?}: {got}, expected {want}");
            }
        }
    }
}

#[test]
fn forks_share_until_they_write() {
    for dtype in TYPES {
        let mut cache = cache(dtype, 8);
        let a = cache.create();
        write(&mut cache, a, 40, 0.0);
        assert_eq!(cache.blocks_used(), 2);
        let b = cache.fork(a).unwrap();
        assert_eq!((cache.blocks_used(), cache.len(b).unwrap()), (2, 40));
        write(&mut cache, b, 41, 100.0);
        assert_eq!(cache.blocks_used(), 3);
        write(&mut cache, a, 41, 50.0);
        assert_eq!(cache.blocks_used(), 3);
        let close = |got: f32, want: f32| (got - want).abs() <= want.abs() * 1e-2;
        assert!(close(key_at(&cache, a, 40), 90.0) && close(key_at(&cache, b, 40), 140.0));
        for position in [1, 31, 32, 39] {
            assert!(close(key_at(&cache, a, position), position as f32));
            assert_eq!(key_at(&cache, a, position), key_at(&cache, b, position));
        }
        let refused = cache.write(a, 0, 0, 3, &[0.0; 5], &[0.0; 5]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Range, "block 0 is shared");
        cache.free(a).unwrap();
        assert_eq!(cache.blocks_used(), 2);
        assert_eq!(cache.bytes_allocated(), 3 * cache.block_bytes());
        assert_eq!(cache.len(a).unwrap_err().kind(), ErrorKind::Sequence);
        let c = cache.create();
        assert_eq!(cache.len(a).unwrap_err().kind(), ErrorKind::Sequence);
        write(&mut cache, c, KV_BLOCK, 1.0);
        assert_eq!(cache.bytes_allocated(), 3 * cache.block_bytes());
        assert!(close(key_at(&cache, b, 40), 140.0));
    }
}

#[test]
fn a_fork_after_a_reservation_does_not_share_what_will_be_written() {
    let mut cache = cache(KvType::F32, 8);
    let a = cache.create();
    write(&mut cache, a, 10, 0.0);
    cache.reserve(a, 30).unwrap();
    let b = cache.fork(a).unwrap();
    let refused = cache.write(a, 0, 0, 10, &[0.0; 5], &[0.0; 5]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Range);
    write(&mut cache, a, 40, 7.0);
    write(&mut cache, b, 12, 9.0);
    assert_eq!((key_at(&cache, a, 11), key_at(&cache, b, 11)), (18.0, 20.0));
    assert_eq!(cache.blocks_used(), 3);
}

#[test]
fn a_reservation_that_does_not_fit_changes_nothing() {
    let mut cache = cache(KvType::F16, 3);
    let a = cache.create();
    write(&mut cache, a, 40, 0.0);
    let b = cache.fork(a).unwrap();
    for n in [usize::MAX, 1000, 8 + 33] {
        let e = cache.reserve(b, n).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Capacity);
        assert_eq!((cache.blocks_used(), cache.bytes_allocated()), (2, 2 * cache.block_bytes()));
    }
    cache.reserve(b, 1).unwrap();
    assert_eq!(cache.blocks_used(), 3);
    let e = cache.commit(b, 25).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Range);
    cache.truncate(b, 0).unwrap();
    assert_eq!(cache.truncate(b, 1).unwrap_err().kind(), ErrorKind::Range);
    assert_eq!((cache.blocks_used(), cache.len(b).unwrap()), (2, 0));
    cache.reserve(b, 0).unwrap();
    assert_eq!(cache.blocks_used(), 2);
}

#[test]
fn random_use_against_plain_lists() {
    let mut random = Random::new(77);
    let mut cache = cache(KvType::F32, 24);
    let mut live: Vec<(SeqId, Vec<f32>)> = Vec::new();
    for round in 0..4000 {
        let pick = random.below(live.len().max(1));
        match random.below(6) {
            0 if live.len() < 6 => live.push((cache.create(), Vec::new())),
            1 if (1..6).contains(&live.len()) => {
                let (seq, list) = live[pick].clone();
                live.push((cache.fork(seq).unwrap(), list));
            }
            2 if live.len() > 1 => cache.free(live.swap_remove(pick).0).unwrap(),
            3 if !live.is_empty() => {
                let (seq, list) = &mut live[pick];
                list.truncate(random.below(list.len() + 1));
                cache.truncate(*seq, list.len()).unwrap();
            }
            _ if !live.is_empty() => {
                let (seq, list) = &mut live[pick];
                let n = random.below(45);
                if cache.reserve(*seq, n).is_ok() {
                    let tag = (round * 100) as f32;
                    write(&mut cache, *seq, list.len() + n, tag);
                    list.extend((list.len()..list.len() + n).map(|p| tag + p as f32));
                }
            }
            _ => {}
        }
        assert!(cache.blocks_used() <= 24);
        for (seq, list) in &live {
            assert_eq!(cache.len(*seq).unwrap(), list.len());
            let at = random.below(list.len().max(1));
            if let Some(want) = list.get(at) {
                assert_eq!(key_at(&cache, *seq, at), *want);
            }
        }
    }
    for (seq, _) in live {
        cache.free(seq).unwrap();
    }
    assert_eq!((cache.blocks_used(), cache.bytes_used()), (0, 0));
}

#[test]
fn snapshots_that_do_not_fit_are_refused() {
    let mut source = cache(KvType::F16, 4);
    let seq = source.create();
    write(&mut source, seq, 40, 0.0);
    source.truncate(seq, 33).unwrap();
    let mut bytes = Vec::new();
    source.save(seq, &mut bytes).unwrap();
    let mut target = cache(KvType::F16, 3);
    let loaded = target.load(&bytes).unwrap();
    assert_eq!(key_at(&target, loaded, 32), 32.0);
    // The room is taken: a second one does not fit, and leaves nothing behind.
    assert_eq!(target.load(&bytes).unwrap_err().kind(), ErrorKind::Capacity);
    assert_eq!(target.blocks_used(), 2);
    target.free(loaded).unwrap();
    for cut in [0, 3, 4, 20, 40, bytes.len() - 1] {
        assert_eq!(target.load(&bytes[..cut]).unwrap_err().kind(), ErrorKind::Snapshot, "{cut}");
    }
    let mut wrong_type = cache(KvType::Q8, 4);
    assert_eq!(wrong_type.load(&bytes).unwrap_err().kind(), ErrorKind::Snapshot);
    let header = bytes.len() - 2 * source.block_bytes();
    for at in 0..header {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bad = bytes.clone();
            if bad[at] == value {
                continue;
            }
            bad[at] = value;
            if let Ok(seq) = target.load(&bad) {
                // Another number of positions in the same number of blocks.
                assert_eq!(target.len(seq).unwrap().div_ceil(KV_BLOCK), 2);
                target.free(seq).unwrap();
            }
            assert_eq!(target.blocks_used(), 0);
        }
    }
}

#[test]
fn positions_past_the_end_are_not_saved() {
    for dtype in TYPES {
        let (mut dirty, mut clean) = (cache(dtype, 4), cache(dtype, 4));
        let (a, b) = (dirty.create(), clean.create());
        write(&mut dirty, a, 60, 5.0);
        dirty.truncate(a, 37).unwrap();
        write(&mut clean, b, 37, 5.0);
        let (mut from_dirty, mut from_clean) = (Vec::new(), Vec::new());
        dirty.save(a, &mut from_dirty).unwrap();
        clean.save(b, &mut from_clean).unwrap();
        assert!(from_dirty == from_clean, "{dtype:?}");
    }
}

#[test]
fn impossible_layers_are_refused() {
    for (kv_heads, head_dim) in
        [(0, 1), (1, 0), (usize::MAX, 1), (1, usize::MAX), (1 << 40, 1 << 40)]
    {
        let layers = vec![KvLayer { kv_heads, head_dim }];
        let config = KvConfig { layers, dtype: KvType::Q8, max_blocks: 1 };
        assert_eq!(KvCache::new(config).unwrap_err().kind(), ErrorKind::Shape);
    }
}
