use std::ffi::CStr;

use limbeck_ffi::*;
use runtime::{SiteUsage, Unmet, Usage};

use super::{Handle, check};

pub fn unmet(reason: lbk_unmet) -> Option<Unmet> {
    match reason {
        LBK_UNMET_NOT => None,
        LBK_UNMET_DENSE => Some(Unmet::Dense),
        LBK_UNMET_FLOOR => Some(Unmet::Floor),
        LBK_UNMET_BELOW_FLOOR => Some(Unmet::BelowFloor),
        LBK_UNMET_REACH => Some(Unmet::Reach),
        LBK_UNMET_TIME => Some(Unmet::Time),
        LBK_UNMET_OFF_TARGET => Some(Unmet::OffTarget),
        other => panic!("unmet for {other}"),
    }
}

pub struct UsageHandle(Handle<lbk_usage>);

impl UsageHandle {
    pub fn new() -> UsageHandle {
        // SAFETY: a place for a handle.
        let usage = Handle::new(lbk_usage_free, |out| unsafe { lbk_usage_new(out) });
        UsageHandle(usage.expect("a usage"))
    }

    pub fn pointer(&self) -> *mut lbk_usage {
        self.0.pointer
    }

    pub fn read(&self) -> Usage {
        // SAFETY: of zeros, all fields have a value; the library fills a struct of this size.
        let totals = unsafe {
            let mut totals: lbk_totals = std::mem::zeroed();
            let size = size_of::<lbk_totals>();
            check(lbk_usage_get_totals(self.0.pointer, &mut totals, size)).expect("totals");
            totals
        };
        Usage {
            tokens: totals.tokens,
            macs: totals.macs,
            full_macs: totals.full_macs,
            bytes: totals.bytes,
            fraction: totals.fraction,
            site_macs: totals.site_macs,
            site_full_macs: totals.site_full_macs,
            site_fraction: (totals.site_full_macs > 0).then_some(totals.site_fraction),
            ms: totals.ms,
            sites: (0..totals.sites).map(|index| self.site(index)).collect(),
            unmet: unmet(totals.unmet),
        }
    }

    fn site(&self, index: usize) -> SiteUsage {
        // SAFETY: as in `read`; name and histogram live until the usage is used again.
        unsafe {
            let mut site: lbk_site_usage = std::mem::zeroed();
            let size = size_of::<lbk_site_usage>();
            check(lbk_usage_get_site(self.0.pointer, index, &mut site, size)).expect("a site");
            SiteUsage {
                name: CStr::from_ptr(site.name).to_str().expect("UTF-8").to_owned(),
                histogram: std::slice::from_raw_parts(site.histogram, site.choices).to_vec(),
            }
        }
    }
}
