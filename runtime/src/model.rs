//! A model: an opened plan, shared by any number of sessions.

use std::fmt;
use std::sync::Arc;

use limbeck_plan::{Calibration, Manifest, Plan, Program, Task};

use crate::backend::cost::Cost;
use crate::backend::{Bounds, PlanData, Prepared, State};
use crate::bytes::PlanBytes;
use crate::controller::Curve;
use crate::engine::Shared;
use crate::error::{Error, ErrorKind, Result};
use crate::log::{Level, Logger};
use crate::memory::Account;
use crate::session::{Session, SessionOptions};
use crate::sync::OnceLock;
use crate::task;
use crate::text::{ChatMessage, ChatOptions, ChatTemplate, SamplerOptions, Tokenizer};

/// An opened plan. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Model {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Arc<Shared>,
    data: Arc<PlanData>,
    prepared: Arc<dyn Prepared>,
    tokenizer: OnceLock<Arc<Tokenizer>>,
}

impl Model {
    pub(crate) fn new(engine: Arc<Shared>, bytes: PlanBytes) -> Result<Model> {
        let plan = Plan::parse(bytes.as_slice())?;
        let model = Model::prepare(engine, PlanData { plan, bytes }, OnceLock::new())?;
        model.logger().tell(Level::Info, || {
            let (plan, student) = (model.plan(), &model.manifest().student);
            let (bytes, sites) = (plan.file_len(), plan.program().sites.len());
            format!("plan: {student}, {bytes} bytes, hash {:016x}, {sites} sites", plan.hash())
        });
        Ok(model)
    }

    fn prepare(
        engine: Arc<Shared>,
        data: PlanData,
        tokenizer: OnceLock<Arc<Tokenizer>>,
    ) -> Result<Model> {
        task::check(&data.plan)?;
        let data = Arc::new(data);
        let prepared = engine.backend.prepare(data.clone())?;
        Ok(Model { inner: Arc::new(Inner { engine, data, prepared, tokenizer }) })
    }

    /// The same student with another program over its weights: other weights of its sites, say, to
    /// try them without writing a plan.
    ///
    /// # Errors
    /// A program that does not fit the plan's weights or manifest, or that the backend cannot run.
    pub fn with_program(&self, program: Program) -> Result<Model> {
        let Inner { engine, data, tokenizer, .. } = &*self.inner;
        let plan = data.plan.with_program(program)?;
        let data = PlanData { plan, bytes: data.bytes.clone() };
        Model::prepare(engine.clone(), data, tokenizer.clone())
    }

    /// What the student is.
    pub fn manifest(&self) -> &Manifest {
        self.inner.data.plan.manifest()
    }

    /// The parsed plan.
    pub fn plan(&self) -> &Plan {
        &self.inner.data.plan
    }

    /// The bytes of the plan file.
    pub fn bytes(&self) -> &[u8] {
        self.inner.data.bytes.as_slice()
    }

    /// What prices lead to, where it was measured (`limbeck tune`).
    pub fn calibration(&self) -> Option<&Calibration> {
        self.plan().calibration()
    }

    /// Compares every byte of the plan with its checksums.
    ///
    /// # Errors
    /// The first section that does not match.
    pub fn verify(&self) -> Result<()> {
        Ok(self.plan().verify(self.inner.data.bytes.as_slice())?)
    }

    /// What computes, for people.
    pub fn backend(&self) -> String {
        self.inner.engine.backend.description()
    }

    /// Bytes a second at which the GPU that computes reads its memory, which bounds its decoding: measured now, in some
    /// tenths of a second and with 512 MiB of its memory. `None` where a CPU computes.
    ///
    /// # Errors
    /// Those of the device, such as too little memory.
    pub fn read_rate(&self) -> Result<Option<f64>> {
        self.inner.engine.backend.read_rate()
    }

    /// The tokenizer, loaded at its first use.
    ///
    /// # Errors
    /// A plan without a tokenizer, or with one that cannot be read.
    pub fn tokenizer(&self) -> Result<&Arc<Tokenizer>> {
        if let Some(tokenizer) = self.inner.tokenizer.get() {
            return Ok(tokenizer);
        }
        let bytes = self.plan().tokenizer(self.inner.data.bytes.as_slice()).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "the plan has no tokenizer: give token ids")
        })?;
        let tokenizer = Tokenizer::from_bytes(bytes)?;
        let (tokens, rows) = (tokenizer.vocab_size(), self.manifest().vocab_size);
        if tokens > rows {
            let message = format!(
                "the tokenizer has {tokens} tokens, the student {rows}: it belongs to another student"
            );
            return Err(Error::new(ErrorKind::Plan, message));
        }
        Ok(self.inner.tokenizer.get_or_init(|| Arc::new(tokenizer)))
    }

    /// The chat template.
    ///
    /// # Errors
    /// A plan without one, or with one that does not parse.
    pub fn chat_template(&self) -> Result<ChatTemplate> {
        let source =
            self.manifest().chat_template.as_deref().ok_or_else(|| {
                Error::new(ErrorKind::Unsupported, "the plan has no chat template")
            })?;
        ChatTemplate::new(source)
    }

    /// The tokens of a prompt, with the student's token that begins a text where it wants one.
    ///
    /// # Errors
    /// A plan without a tokenizer.
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>> {
        let manifest = self.manifest();
        let mut ids = self.tokenizer()?.encode(text, true)?;
        let bos = manifest.special.bos.filter(|_| manifest.add_bos);
        if let Some(bos) = bos.filter(|bos| ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// Messages through the student's chat template; with `answer` up to the student's turn. The
    /// text holds its special tokens already: tokenise it without more.
    ///
    /// # Errors
    /// A plan without a tokenizer or a template, or messages that the template refuses.
    pub fn render_chat(&self, messages: &[ChatMessage<'_>], answer: bool) -> Result<String> {
        let tokenizer = self.tokenizer()?;
        let special = &self.manifest().special;
        let token =
            |id: Option<u32>| id.and_then(|id| tokenizer.id_to_token(id)).unwrap_or_default();
        let (bos, eos) = (token(special.bos), token(special.eos.first().copied()));
        let options =
            ChatOptions { add_generation_prompt: answer, bos_token: &bos, eos_token: &eos };
        self.chat_template()?.render(messages, &options)
    }

    /// How the checkpoint says that tokens are chosen; greedily where it says nothing.
    pub fn sampler_options(&self) -> SamplerOptions {
        let defaults = SamplerOptions::default();
        let student = &self.manifest().generation;
        SamplerOptions {
            temperature: student.temperature.unwrap_or(defaults.temperature),
            top_k: student.top_k.map_or(defaults.top_k, |k| k as usize),
            top_p: student.top_p.unwrap_or(defaults.top_p),
            repetition_penalty: student.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            ..defaults
        }
    }

    /// Opens a session.
    ///
    /// # Errors
    /// Options out of range.
    pub fn session(&self, options: SessionOptions) -> Result<Session> {
        Session::new(self.clone(), options)
    }

    /// What one session owns, charged to `account`.
    pub(crate) fn state(&self, bounds: &Bounds, account: &Account) -> Result<Box<dyn State>> {
        self.inner.prepared.state(bounds, account)
    }

    /// An account of a session or of what `owner` says, with a limit of its own; 0 for none.
    pub(crate) fn account(&self, owner: &'static str, limit: usize) -> Account {
        self.inner.engine.account(owner, limit)
    }

    /// The engine's logger.
    pub(crate) fn logger(&self) -> &Logger {
        &self.inner.engine.logger
    }

    /// How the fraction follows the price in this plan; `None` where it has no site. Where it was not measured, levels
    /// of sparsity tell it, and of other choices the controller learns it.
    pub(crate) fn curve(&self) -> Option<Curve> {
        let program = self.plan().program();
        if program.sites.is_empty() {
            return None;
        }
        let name = match self.manifest().task {
            Task::Text => Manifest::TEXT_ENTRY,
            Task::Embed => Manifest::EMBED_ENTRY,
            Task::Classify => Manifest::CLASSIFY_ENTRY,
            Task::Tensors => Manifest::TENSORS_ENTRY,
            // Its one site is chosen for a call, and no price of a token moves it.
            Task::Diffuse => return None,
        };
        let entry = program.entry(name)?;
        let cost = Cost::new(program, entry);
        let lowest = cost.lowest_fraction(program);
        let measured = self.calibration().and_then(|c| Curve::calibrated(c, lowest).ok());
        let stated = || Curve::new(&cost.level_fractions(program, entry)?).ok();
        measured.or_else(stated).or_else(|| Curve::uncalibrated(lowest).ok())
    }

    /// Index of an entry.
    pub(crate) fn entry(&self, name: &str) -> Result<usize> {
        let found = self.plan().program().entries.iter().position(|e| e.name == name);
        found.ok_or_else(|| {
            let task = match self.manifest().task {
                Task::Text => "continues text",
                Task::Embed => "makes embeddings",
                Task::Classify => "classifies images",
                Task::Tensors => "makes tensors of tensors",
                Task::Diffuse => "makes samples of noise",
            };
            let message = format!("the plan has no entry {name:?}; it {task}");
            Error::new(ErrorKind::Unsupported, message)
        })
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Model({}, {})", self.manifest().student, self.backend())
    }
}
