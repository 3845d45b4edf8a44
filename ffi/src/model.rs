use std::ffi::{CString, c_char, c_void};
use std::fs::File;
use std::sync::Arc;

use runtime::plan::{SiteKind, Task};
use runtime::{Classifier, Model};

use crate::arg;
use crate::engine::lbk_engine;
use crate::error::{LBK_INVALID, c_string, lbk_error};
use crate::guard::{Outcome, guard, guard_value};
use crate::log::{UserData, lbk_release_fn};
use crate::options::{self, growing};

/// What a student does; one of the `LBK_TASK_*` numbers.
pub type lbk_task = i32;

/// It continues text: `lbk_session_new`, `lbk_forward_new`.
pub const LBK_TASK_TEXT: lbk_task = 0;
/// It makes embeddings: `lbk_encoder_new`, `lbk_forward_new`.
pub const LBK_TASK_EMBED: lbk_task = 1;
/// It classifies images: `lbk_forward_new`.
pub const LBK_TASK_CLASSIFY: lbk_task = 2;
/// It makes tensors of tensors, with names of its own: `lbk_forward_new`.
pub const LBK_TASK_TENSORS: lbk_task = 3;
/// It makes samples of noise: `lbk_diffuser_new`; `lbk_forward_new` runs one call of the student.
pub const LBK_TASK_DIFFUSE: lbk_task = 4;

/// An opened plan, shared by what is opened from it. All functions take it as `const`: any number of
/// threads may use one at once.
pub struct lbk_model {
    pub(crate) model: Model,
    texts: Vec<(lbk_model_text_kind, CString)>,
    sites: Vec<CString>,
    quality: CString,
}

/// What a plan holds in numbers.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lbk_model_info {
    /// What the student does.
    pub task: lbk_task,
    /// Whether there is a tokenizer: 1 or 0. It is not read before its first use.
    pub has_tokenizer: i32,
    /// Positions that a sequence may have.
    pub context_length: usize,
    /// Size of the vocabulary.
    pub vocab_size: usize,
    /// Elements of an embedding; 0 where the student makes none.
    pub embedding_size: usize,
    /// Channels, height and width of an image; 0 where the student sees none.
    pub image: [usize; 3],
    /// Classes of a classifier.
    pub classes: usize,
    /// Places where compute can vary per token.
    pub sites: usize,
    /// Points of the calibrated table; 0 where nothing was measured.
    pub calibration_points: usize,
    /// Names the plan.
    pub hash: u64,
    /// Bytes of the plan.
    pub bytes: u64,
}

growing!(lbk_model_info: size_of::<lbk_model_info>());

/// A text that a plan holds; one of the `LBK_TEXT_*` numbers.
pub type lbk_model_text_kind = i32;

/// The student's name.
pub const LBK_TEXT_STUDENT: lbk_model_text_kind = 0;
/// Its architecture.
pub const LBK_TEXT_ARCHITECTURE: lbk_model_text_kind = 1;
/// Its licence, as its checkpoint states it.
pub const LBK_TEXT_LICENCE: lbk_model_text_kind = 2;
/// The checkpoint that it was compiled from.
pub const LBK_TEXT_SOURCE: lbk_model_text_kind = 3;
/// Its chat template, in Jinja.
pub const LBK_TEXT_CHAT_TEMPLATE: lbk_model_text_kind = 4;
/// What the qualities of the calibrated table are: `perplexity`, `cosine`, `agreement`, `accuracy`.
pub const LBK_TEXT_QUALITY: lbk_model_text_kind = 5;

/// The kind of a site; one of the `LBK_SITE_*` numbers.
pub type lbk_site_kind = i32;

/// How many learners of an adaptive module.
pub const LBK_SITE_ACM: lbk_site_kind = 0;
/// How many experts.
pub const LBK_SITE_EXPERTS: lbk_site_kind = 1;
/// How small an input channel is left out.
pub const LBK_SITE_SPARSITY: lbk_site_kind = 2;
/// How wide a nested MLP is.
pub const LBK_SITE_WIDTH: lbk_site_kind = 3;
/// Another kind, of a later version.
pub const LBK_SITE_OTHER: lbk_site_kind = 4;
/// How many steps a sampler takes.
pub const LBK_SITE_STEPS: lbk_site_kind = 5;

/// A place where compute can vary per token.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lbk_site {
    /// Its name, which ends in a 0 byte and lives as long as the model.
    pub name: *const c_char,
    /// Its kind.
    pub kind: lbk_site_kind,
    /// Its smallest choice.
    pub first: i32,
    /// Its largest choice. Choices are ordered by cost.
    pub last: i32,
    /// 0.
    pub reserved: i32,
    /// What the price is multiplied by here.
    pub weight: f64,
}

growing!(lbk_site: size_of::<lbk_site>());

/// What one price led to when the plan was calibrated.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lbk_calibration_point {
    /// The price.
    pub price: f64,
    /// Multiply-adds spent over those of full compute.
    pub fraction: f64,
    /// The same over adaptive ops alone.
    pub site_fraction: f64,
    /// As `LBK_TEXT_QUALITY` says.
    pub quality: f64,
    /// Milliseconds per token on the machine that calibrated it; 0 where that is not known.
    pub ms_per_token: f64,
}

growing!(lbk_calibration_point: size_of::<lbk_calibration_point>());

impl lbk_model {
    fn new(model: Model) -> lbk_model {
        let manifest = model.manifest();
        let quality = model.calibration().map_or("", |c| c.quality.name());
        let texts = [
            (LBK_TEXT_STUDENT, Some(&manifest.student)),
            (LBK_TEXT_ARCHITECTURE, Some(&manifest.architecture)),
            (LBK_TEXT_LICENCE, manifest.licence.as_ref()),
            (LBK_TEXT_SOURCE, Some(&manifest.provenance.source)),
            (LBK_TEXT_CHAT_TEMPLATE, manifest.chat_template.as_ref()),
        ];
        let texts = texts.into_iter().filter_map(|(kind, text)| Some((kind, c_string(text?))));
        let texts = texts.collect();
        let sites = model.plan().program().sites.iter().map(|s| c_string(&s.name)).collect();
        lbk_model { texts, sites, quality: c_string(quality), model }
    }

    fn info(&self) -> Outcome<lbk_model_info> {
        let (manifest, plan) = (self.model.manifest(), self.model.plan());
        let (task, image, classes) = match manifest.task {
            Task::Text => (LBK_TASK_TEXT, [0; 3], 0),
            Task::Embed => (LBK_TASK_EMBED, [0; 3], 0),
            Task::Classify => {
                let classifier = Classifier::new(&self.model)?;
                (LBK_TASK_CLASSIFY, classifier.image(), classifier.classes())
            }
            Task::Tensors => (LBK_TASK_TENSORS, [0; 3], 0),
            Task::Diffuse => (LBK_TASK_DIFFUSE, [0; 3], 0),
        };
        Ok(lbk_model_info {
            task,
            has_tokenizer: plan.tokenizer(self.model.bytes()).is_some().into(),
            context_length: manifest.context_length,
            vocab_size: manifest.vocab_size,
            embedding_size: manifest.embedding_size,
            image,
            classes,
            sites: self.sites.len(),
            calibration_points: self.model.calibration().map_or(0, |c| c.points.len()),
            hash: plan.hash(),
            bytes: plan.file_len() as u64,
        })
    }
}

/// Opens the plan file at `path`, a text in UTF-8 that ends in a 0 byte. The caller owns `*model`,
/// which is written on success alone; the model keeps the engine.
///
/// The file is mapped: while anything opened from it lives, it must be neither written to nor made
/// shorter. Reading what it no longer has ends the process (`SIGBUS`). Replace a plan by a file that is
/// written beside it and renamed over it: what is open keeps the old one.
///
/// Fails with `LBK_IO` for a file that cannot be read and with `LBK_PLAN` for one that is damaged,
/// hostile, or of another version.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_model_open(
    engine: *const lbk_engine,
    path: *const c_char,
    model: *mut *mut lbk_model,
) -> *mut lbk_error {
    guard(|| {
        let (engine, out) = (arg::shared(engine, "engine")?, arg::out(model, "model")?);
        let opened = engine.engine.open(arg::c_text(path, "path")?)?;
        out.give(lbk_model::new(opened));
        Ok(())
    })
}

/// Opens a plan that is `length` bytes of an open file from `offset` on, a multiple of 64, as an
/// asset in an Android package is. The bytes are mapped, as by `lbk_model_open`; `fd` stays the
/// caller's and may be closed when the call returns. `LBK_UNSUPPORTED` where the system has no file
/// descriptors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_model_open_fd(
    engine: *const lbk_engine,
    fd: i32,
    offset: u64,
    length: u64,
    model: *mut *mut lbk_model,
) -> *mut lbk_error {
    guard(|| {
        let (engine, out) = (arg::shared(engine, "engine")?, arg::out(model, "model")?);
        let opened = engine.engine.open_file(&file(fd)?, offset, length)?;
        out.give(lbk_model::new(opened));
        Ok(())
    })
}

/// EBADF, the same on all systems with file descriptors.
#[cfg(unix)]
const BAD_DESCRIPTOR: i32 = 9;

#[cfg(unix)]
fn file(fd: i32) -> Outcome<File> {
    use std::os::fd::BorrowedFd;
    if fd < 0 {
        return Err(lbk_error::argument("fd", &format!("fd: {fd} is no file descriptor")));
    }
    // SAFETY: it is not -1, and the header demands that it is open during the call; one that is not
    // is refused by the system when it is duplicated.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let owned = borrowed.try_clone_to_owned();
    owned.map(File::from).map_err(|e| match e.raw_os_error() {
        Some(BAD_DESCRIPTOR) => lbk_error::argument("fd", &format!("fd {fd}: {e}")),
        _ => lbk_error::new(crate::error::LBK_IO, &format!("fd {fd}: {e}")),
    })
}

#[cfg(not(unix))]
fn file(_fd: i32) -> Outcome<File> {
    let message = "this system has no file descriptors: open a path or bytes";
    Err(lbk_error::new(crate::error::LBK_UNSUPPORTED, message))
}

/// Bytes of the app's.
struct AppBytes {
    data: &'static [u8],
    _user: UserData,
}

impl AsRef<[u8]> for AppBytes {
    fn as_ref(&self) -> &[u8] {
        self.data
    }
}

/// Opens a plan from bytes that the app owns, without a copy. They must not change until `release` is
/// called with `user_data`: once, when the model and all that was opened from it are gone, or before
/// a failing call returns. `release` may be NULL for bytes that live for ever. Weights are read
/// fastest where `data` is a multiple of 64.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_model_open_bytes(
    engine: *const lbk_engine,
    data: *const c_void,
    length: usize,
    release: lbk_release_fn,
    user_data: *mut c_void,
    model: *mut *mut lbk_model,
) -> *mut lbk_error {
    guard(|| {
        let user = UserData { data: user_data, release };
        let (engine, out) = (arg::shared(engine, "engine")?, arg::out(model, "model")?);
        let data = arg::slice(data.cast::<u8>(), length, "data")?;
        let bytes = AppBytes { data, _user: user };
        let opened = engine.engine.open_shared(Arc::new(bytes))?;
        out.give(lbk_model::new(opened));
        Ok(())
    })
}

/// What the plan holds in numbers. `size` is `sizeof *info`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_model_get_info(
    model: *const lbk_model,
    info: *mut lbk_model_info,
    size: usize,
) -> *mut lbk_error {
    guard(|| options::write(&arg::shared(model, "model")?.info()?, info, size, "info"))
}

/// A text that the plan holds, which ends in a 0 byte and lives as long as the model. NULL where it
/// has none of this kind, and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_model_text(
    model: *const lbk_model,
    kind: lbk_model_text_kind,
) -> *const c_char {
    guard_value(std::ptr::null(), || {
        let Some(model) = arg::maybe(model) else { return std::ptr::null() };
        if kind == LBK_TEXT_QUALITY && model.model.calibration().is_some() {
            return model.quality.as_ptr();
        }
        let found = model.texts.iter().find(|(k, _)| *k == kind);
        found.map_or(std::ptr::null(), |(_, text)| text.as_ptr())
    })
}

/// A site of the plan, by its index. `size` is `sizeof *site`. `LBK_INVALID` for an index that is not
/// below the number of sites.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_model_get_site(
    model: *const lbk_model,
    index: usize,
    site: *mut lbk_site,
    size: usize,
) -> *mut lbk_error {
    guard(|| {
        let model = arg::shared(model, "model")?;
        let found = model.model.plan().program().sites.get(index).zip(model.sites.get(index));
        let (found, name) = found.ok_or_else(|| no_such("site", index, model.sites.len()))?;
        let choice = |k: usize| i32::try_from(k).unwrap_or(i32::MAX);
        let kind = match found.kind {
            SiteKind::Acm => LBK_SITE_ACM,
            SiteKind::Experts => LBK_SITE_EXPERTS,
            SiteKind::Sparsity => LBK_SITE_SPARSITY,
            SiteKind::Width => LBK_SITE_WIDTH,
            SiteKind::Steps => LBK_SITE_STEPS,
            _ => LBK_SITE_OTHER,
        };
        let (first, last) = (choice(found.first), choice(found.last()));
        let (name, weight) = (name.as_ptr(), found.weight);
        let found = lbk_site { name, kind, first, last, reserved: 0, weight };
        options::write(&found, site, size, "site")
    })
}

/// A point of the calibrated table, by its index; points are ordered by price. `size` is
/// `sizeof *point`. `LBK_INVALID` for an index that is not below the number of points.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_model_get_calibration(
    model: *const lbk_model,
    index: usize,
    point: *mut lbk_calibration_point,
    size: usize,
) -> *mut lbk_error {
    guard(|| {
        let table = arg::shared(model, "model")?.model.calibration();
        let points = table.map_or(&[][..], |table| &table.points);
        let found = points.get(index).ok_or_else(|| no_such("point", index, points.len()))?;
        let found = lbk_calibration_point {
            price: found.price,
            fraction: found.fraction,
            site_fraction: found.site_fraction,
            quality: found.quality,
            ms_per_token: found.ms_per_token.unwrap_or(0.0),
        };
        options::write(&found, point, size, "point")
    })
}

fn no_such(what: &str, index: usize, count: usize) -> lbk_error {
    lbk_error::new(LBK_INVALID, &format!("{what} {index} is none of {count}"))
}

/// Compares every byte of the plan with its checksums. It reads the whole plan, which opening does
/// not. `LBK_PLAN` where they differ.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_model_verify(model: *const lbk_model) -> *mut lbk_error {
    guard(|| Ok(arg::shared(model, "model")?.model.verify()?))
}

/// Gives up a model; NULL is fine. What was opened from it lives on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_model_free(model: *mut lbk_model) {
    arg::free(model);
}
