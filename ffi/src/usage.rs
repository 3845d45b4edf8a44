use std::ffi::{CString, c_char};
use std::sync::MutexGuard;

use runtime::Usage;

use crate::arg;
use crate::control::{lbk_unmet, unmet};
use crate::error::{c_string, lbk_error};
use crate::guard::{Exclusive, Outcome, guard};
use crate::options::{self, growing};

/// What calls spent: each call that is given it adds to it; steps of a session and generations also where
/// they fail, what their chunks took until then. One thread at a time
/// may use it, `LBK_BUSY` otherwise; it belongs to no session.
pub struct lbk_usage {
    pub(crate) usage: Exclusive<Spent>,
}

/// A usage and the names of its sites as C has them.
#[derive(Default)]
pub(crate) struct Spent {
    pub total: Usage,
    names: Vec<CString>,
}

impl Spent {
    /// Nothing yet.
    pub fn new() -> Spent {
        Spent { total: Usage { fraction: 1.0, ..Usage::default() }, names: Vec::new() }
    }
}

/// What was spent in sum.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lbk_totals {
    /// Tokens computed.
    pub tokens: u64,
    /// Multiply-adds spent.
    pub macs: u64,
    /// Multiply-adds with every site at its largest choice.
    pub full_macs: u64,
    /// Multiply-adds of the ops that follow a site's choices.
    pub site_macs: u64,
    /// The same with every site at its largest choice.
    pub site_full_macs: u64,
    /// Bytes of weights read.
    pub bytes: u64,
    /// `macs / full_macs`; 1 where nothing ran. The share of the steps where a sampler's student is a model whose
    /// multiply-adds are not known.
    pub fraction: f64,
    /// `site_macs / site_full_macs`; 1 where nothing adaptive ran.
    pub site_fraction: f64,
    /// Wall time in milliseconds.
    pub ms: f64,
    /// Sites whose choices were counted.
    pub sites: usize,
    /// Why the budget was not kept, as it stood at the end; `LBK_UNMET_NOT` where it was.
    pub unmet: lbk_unmet,
    /// 0.
    pub reserved: i32,
}

growing!(lbk_totals: 11 * 8);

/// What a site chose.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lbk_site_usage {
    /// Its name, which ends in a 0 byte.
    pub name: *const c_char,
    /// `histogram[k]` tokens chose `k`.
    pub histogram: *const u64,
    /// Elements of `histogram`.
    pub choices: usize,
}

growing!(lbk_site_usage: 3 * 8);

/// An empty usage, which the caller owns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_usage_new(usage: *mut *mut lbk_usage) -> *mut lbk_error {
    guard(|| {
        arg::out(usage, "usage")?.give(lbk_usage { usage: Exclusive::new(Spent::new()) });
        Ok(())
    })
}

/// Empties it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_usage_reset(usage: *mut lbk_usage) -> *mut lbk_error {
    guard(|| {
        *arg::shared(usage, "usage")?.usage.enter("usage")? = Spent::new();
        Ok(())
    })
}

/// What was spent in sum. `size` is `sizeof *totals`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_usage_get_totals(
    usage: *mut lbk_usage,
    totals: *mut lbk_totals,
    size: usize,
) -> *mut lbk_error {
    guard(|| {
        let usage = arg::shared(usage, "usage")?.usage.enter("usage")?;
        let u = &usage.total;
        let found = lbk_totals {
            tokens: u.tokens,
            macs: u.macs,
            full_macs: u.full_macs,
            site_macs: u.site_macs,
            site_full_macs: u.site_full_macs,
            bytes: u.bytes,
            fraction: u.fraction,
            site_fraction: u.site_fraction.unwrap_or(1.0),
            ms: u.ms,
            sites: u.sites.len(),
            unmet: unmet(u.unmet),
            reserved: 0,
        };
        options::write(&found, totals, size, "totals")
    })
}

/// What a site chose, by its index. `size` is `sizeof *site`. Name and histogram live until the usage
/// is used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_usage_get_site(
    usage: *mut lbk_usage,
    index: usize,
    site: *mut lbk_site_usage,
    size: usize,
) -> *mut lbk_error {
    guard(|| {
        let mut usage = arg::shared(usage, "usage")?.usage.enter("usage")?;
        let Spent { total, names } = &mut *usage;
        if names.len() != total.sites.len() {
            *names = total.sites.iter().map(|s| c_string(&s.name)).collect();
        }
        let found = total.sites.get(index).zip(names.get(index));
        let Some((found, name)) = found else {
            let message = format!("index: site {index} is none of {}", total.sites.len());
            return Err(lbk_error::argument("index", &message));
        };
        let (histogram, choices) = (found.histogram.as_ptr(), found.histogram.len());
        let found = lbk_site_usage { name: name.as_ptr(), histogram, choices };
        options::write(&found, site, size, "site")
    })
}

/// Frees it; NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_usage_free(usage: *mut lbk_usage) {
    arg::free(usage);
}

/// Adds a call's usage to what the caller gave, if anything.
pub(crate) fn add(usage: *mut lbk_usage, spent: &Usage) -> Outcome {
    spend(enter(usage)?, spent);
    Ok(())
}

/// Adds what a call spent to the usage that was taken for it.
pub(crate) fn spend(usage: Option<MutexGuard<'_, Spent>>, spent: &Usage) {
    if let Some(mut usage) = usage {
        usage.total.add(spent);
    }
}

/// Takes a usage, which may be NULL, for a call: before it computes, so that no work is lost to one that is
/// in use.
pub(crate) fn enter<'a>(usage: *mut lbk_usage) -> Outcome<Option<MutexGuard<'a, Spent>>> {
    if usage.is_null() {
        return Ok(None);
    }
    arg::shared(usage, "usage")?.usage.enter("usage").map(Some)
}
