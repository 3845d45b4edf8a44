//! A model: an opened plan, shared by any number of sessions.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use limbeck_plan::{
    Calibration, DType, Dim, Manifest, Op, Operand, OperandKind, Plan, Program, Site, SiteKind,
    Symbol, Task,
};

use crate::backend::cost::Cost;
use crate::backend::{Bounds, PlanData, Prepared, State};
use crate::bytes::PlanBytes;
use crate::classify;
use crate::controller::Curve;
use crate::engine::Shared;
use crate::error::{Error, ErrorKind, Result};
use crate::log::{Level, Logger};
use crate::memory::Account;
use crate::session::{Session, SessionOptions};
use crate::sync::OnceLock;
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
        check_interface(&data.plan)?;
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

/// The runtime's tasks rely on the inputs, outputs and sizes that the manifest promises.
fn check_interface(plan: &Plan) -> Result<()> {
    let manifest = plan.manifest();
    type Output = (&'static str, &'static str, Option<usize>);
    let (name, inputs, outputs): (_, &[&str], &[Output]) = match manifest.task {
        Task::Text => (
            Manifest::TEXT_ENTRY,
            &["input_ids"],
            &[("logits", Symbol::OUTPUTS, Some(manifest.vocab_size))],
        ),
        Task::Embed => (
            Manifest::EMBED_ENTRY,
            &["input_ids", "positions"],
            &[
                ("last_hidden_state", Symbol::TOKENS, None),
                ("embedding", Symbol::SEQUENCES, Some(manifest.embedding_size)),
            ],
        ),
        Task::Classify => (
            Manifest::CLASSIFY_ENTRY,
            &[classify::PIXELS, "positions"],
            &[("logits", Symbol::SEQUENCES, None)],
        ),
        Task::Tensors => {
            return check_tensors(plan, Manifest::TENSORS_ENTRY, plan.program().sites.first());
        }
        Task::Diffuse => return check_sampler(plan),
    };
    let fail = |message: String| Err(Error::new(ErrorKind::Plan, message));
    if plan.program().sampler.is_some() {
        return fail("the plan has a sampler, which its task has no use for".into());
    }
    let Some(entry) = plan.program().entry(name) else {
        return fail(format!("the plan has no entry {name:?}"));
    };
    if manifest.context_length == 0 || manifest.context_length > Manifest::MAX_CONTEXT {
        return fail(format!("manifest: a context of {} is out of range", manifest.context_length));
    }
    let text = manifest.task == Task::Text;
    for step in entry.steps() {
        if let Op::Attention(p) = &step.op
            && (p.causal, p.state.is_some()) != (text, text)
        {
            let wanted = if text { "causal with a state" } else { "neither causal nor stateful" };
            return fail(format!("step {:?}: its attention is not {wanted}", step.name));
        }
    }
    let mut seen = HashSet::new();
    for (_, input) in entry.operands_of(OperandKind::Input) {
        if !inputs.contains(&input.name.as_str()) || !seen.insert(&input.name) {
            return fail(format!("entry {name:?} has an unknown input {:?}", input.name));
        }
        let floats = input.fact.dtype == DType::F32;
        if !input.fact.is_of_call() || floats != (input.name == classify::PIXELS) {
            return fail(format!("entry {name:?}: input {:?} is {}", input.name, input.fact));
        }
    }
    let tokens = classify::interface(entry).map(|found| found.tokens);
    if manifest.task == Task::Classify && tokens != Some(manifest.context_length) {
        let found = tokens.map_or("no image".into(), |n| format!("images of {n} tokens"));
        let context = manifest.context_length;
        return fail(format!("entry {name:?} takes {found}, the manifest says {context} tokens"));
    }
    for (output, rows, cols) in outputs {
        let found = entry.operands_of(OperandKind::Output).find(|(_, o)| o.name == *output);
        let Some((_, operand)) = found else {
            return fail(format!("entry {name:?} has no output {output:?}"));
        };
        let fits = match operand.fact.shape.as_slice() {
            [r, c] => {
                let wanted = cols.map(Dim::from);
                *r == Dim::symbol(rows) && wanted.is_none_or(|wanted| *c == wanted)
            }
            _ => false,
        };
        if !fits {
            let cols = cols.map_or("...".into(), |cols| cols.to_string());
            return fail(format!(
                "output {output:?} is {}, the manifest says [{rows}, {cols}]",
                operand.fact
            ));
        }
    }
    Ok(())
}

/// A student that denoises has a sampler, whose entries are of tensors, and no other site.
fn check_sampler(plan: &Plan) -> Result<()> {
    let program = plan.program();
    let Some(sampler) = &program.sampler else {
        return Err(Error::new(ErrorKind::Plan, "the plan does not say how samples are made"));
    };
    let others = program.sites.iter().find(|site| site.kind != SiteKind::Steps);
    check_tensors(plan, Manifest::DENOISE_ENTRY, others)?;
    let rows = sampler.tables.iter().flat_map(|table| &table.rows);
    let names: HashSet<&str> = rows.map(|row| row.entry.as_str()).collect();
    names.into_iter().try_for_each(|name| check_tensors(plan, name, others))
}

/// A call of tensors has neither tokens nor sequences, and no choices: `site` is one that it would have.
fn check_tensors(plan: &Plan, name: &str, site: Option<&Site>) -> Result<()> {
    let fail = |message: String| Err(Error::new(ErrorKind::Plan, message));
    let Some(entry) = plan.program().entry(name) else {
        return fail(format!("the plan has no entry {name:?}"));
    };
    if let Some(site) = site {
        return fail(format!("site {:?} chooses for tokens, which tensors have not", site.name));
    }
    let mut seen = HashSet::new();
    for operand in &entry.operands {
        // What is given and what is returned have names of their own.
        let is_output = operand.kind == OperandKind::Output;
        let outside = is_output || operand.kind == OperandKind::Input;
        if outside && !seen.insert((is_output, &operand.name)) {
            return fail(format!("entry {name:?} has two tensors {:?}", operand.name));
        }
        if operand.fact.is_of_rows() {
            let Operand { name: operand, fact, .. } = operand;
            return fail(format!("entry {name:?}: {operand:?} is {fact}, of tokens or sequences"));
        }
    }
    Ok(())
}
