//! Arguments of every command.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use limbeck::text::SamplerOptions;
use limbeck::{
    Budget, Classifier, Diffuser, Encoder, Engine, EngineOptions, Forward, KvFormat, Limits,
    MAX_CHUNK, MAX_THREADS, Model, OnnxOptions, Session, SessionOptions, Unmet, Usage,
};
use limbeck_compiler::Quant;
use limbeck_plan::Op;

use crate::output::{Failure, note};
use crate::score::LEAST_CONTEXT;
use crate::tune::PRICES;
use crate::values::{self, Requested, at_least, within};

/// Most continuations of a prompt, and most sequences that are decoded together.
const MAX_BATCH: usize = 1024;

/// Compile distilled students to plan files and run them.
#[derive(Parser)]
#[command(name = "limbeck", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Compile a checkpoint (a folder of safetensors, a .gguf or a .onnx file) to a plan.
    Compile(CompileArgs),
    /// Show what a plan holds.
    Inspect(InspectArgs),
    /// Write a dense student as plain ONNX, with f32 weights.
    Export(ExportArgs),
    /// Continue a prompt.
    Run(RunArgs),
    /// Talk with a text student, a line at a time. Lines that begin with a slash are commands: /budget B,
    /// /stop, /reset, /quit. With --json one object at the end holds all answers, their usage and the budget.
    Chat(ChatArgs),
    /// Embed the lines of standard input, a JSON array a line. Lines beyond the student's context are
    /// cut, which is said on stderr.
    Embed(EmbedArgs),
    /// Measure a text student's perplexity on a text.
    Perplexity(PerplexityArgs),
    /// Run an entry on tensors from an .npz file.
    Forward(ForwardArgs),
    /// Make samples of noise with a student that denoises: a picture, or tensors.
    Generate(GenerateArgs),
    /// Measure speed and memory.
    Bench(BenchArgs),
    /// Measure what prices of compute lead to on data, and store the table in the plan.
    Tune(TuneArgs),
    /// List what can compute on this machine.
    Devices(DevicesArgs),
}

#[derive(Args)]
pub struct CompileArgs {
    /// Checkpoint: a folder with config.json and safetensors, a .gguf file, or a .onnx file with its
    /// external data beside it.
    pub source: PathBuf,
    /// Plan file to write.
    #[arg(short, long, value_name = "OUT.lbk")]
    pub output: PathBuf,
    /// Number format of the weights: f32, f16, q8, q4, or keep (as the checkpoint stores them).
    #[arg(long, default_value = "keep")]
    pub quant: Quant,
    /// Multiply activations of 15 bits instead of 8 with quantised weights, but for those of experts and
    /// learners: results then agree between backends and CPUs (SmolLM2 in q4 within .1 % instead of 4), and
    /// prefill takes up to twice as long.
    #[arg(long)]
    pub precise: bool,
    /// Folder of safetensors (adaptive modules) to lay over the checkpoint; may be repeated.
    #[arg(long, value_name = "DIR")]
    pub with: Vec<PathBuf>,
    /// Who runs the dense parts: native kernels, or ONNX Runtime as segments of the plan. Nodes of a .onnx
    /// model that have no native operator are such segments in any case.
    #[arg(long, value_parser = ["native", "onnx"], default_value = "native")]
    pub prefer: String,
    /// Nodes that ONNX Runtime runs, by name; `*` stands for any text, and it may be repeated.
    #[arg(long, value_name = "PATTERN")]
    pub onnx_for: Vec<String>,
    /// Configuration key to ignore, where it does not change the computation; may be repeated.
    #[arg(long, value_name = "KEY")]
    pub ignore_key: Vec<String>,
    /// Keep a mixture's limit on the tokens of an expert, as DeepSpeed has it: what finds no room is
    /// dropped, so that a token depends on the others of its call.
    #[arg(long)]
    pub moe_capacity: bool,
    /// Fold gates of several linears to one: faster, but choices that are nearly ties may change.
    #[arg(long)]
    pub fold_gates: bool,
    /// Height and width of images, or one number for both, for a student that takes any size
    /// (default: what the checkpoint's preprocessor_config.json says).
    #[arg(long, value_name = "HEIGHTxWIDTH", value_parser = image_size)]
    pub image_size: Option<ImageSize>,
    /// Make an input of an ONNX model, a single number, a constant of this value, or give a named size of
    /// its inputs this value; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = named_number)]
    pub fix: Vec<(String, f64)>,
    /// How samples are made with a student that denoises: a sampler.json, or diffusers'
    /// scheduler_config.json (default: the one beside the model, or what the model says; docs/samplers.md).
    #[arg(long, value_name = "FILE.json")]
    pub sampler: Option<PathBuf>,
    /// Leave out the passes that make a graph cheaper to run, to look for a defect in them.
    #[arg(long)]
    pub no_passes: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Height and width.
pub type ImageSize = [usize; 2];

fn image_size(text: &str) -> Result<ImageSize, String> {
    let (height, width) = text.split_once('x').unwrap_or((text, text));
    let side = |side: &str| side.parse().ok().filter(|n| *n > 0);
    let sides = side(height).zip(side(width)).map(|(height, width)| [height, width]);
    sides.ok_or_else(|| "it is not HEIGHTxWIDTH, as 224x224".into())
}

fn named_number(text: &str) -> Result<(String, f64), String> {
    let parts = text.rsplit_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = parts.ok_or("it is not NAME=VALUE")?;
    match value.parse() {
        Ok(number) if f64::is_finite(number) => Ok((name.to_owned(), number)),
        _ => Err(format!("{value:?} is no finite number")),
    }
}

#[derive(Args)]
pub struct InspectArgs {
    /// Plan file.
    pub plan: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Compare every byte with its checksum.
    #[arg(long)]
    pub verify: bool,
}

#[derive(Args)]
pub struct ExportArgs {
    /// Plan file of a dense student.
    pub plan: PathBuf,
    /// Folder to write model.onnx to, with large weights in model.onnx.data and the sampler of a student that
    /// denoises in sampler.json; it is made where it is missing.
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// A plan, and how to run it.
#[derive(Args, Clone)]
pub struct PlanArgs {
    /// Plan file.
    pub plan: PathBuf,
    #[command(flatten)]
    pub runner: RunnerArgs,
}

/// What runs the ONNX segments of a plan that has such.
#[derive(Args, Clone)]
pub struct OnnxArgs {
    /// Execution provider of ONNX Runtime, as `devices` lists them; may be repeated, the first comes first.
    #[arg(long, value_name = "NAME")]
    pub ep: Vec<String>,
    /// ONNX Runtime's library, 1.20 or later [default: what LIMBECK_ORT or ORT_DYLIB_PATH names, or one
    /// beside this program].
    #[arg(long, value_name = "FILE")]
    pub ort_library: Option<PathBuf>,
}

impl OnnxArgs {
    pub fn options(&self) -> OnnxOptions {
        OnnxOptions { library: self.ort_library.clone(), providers: self.ep.clone() }
    }
}

/// Options of every command that runs a plan.
#[derive(Args, Clone)]
pub struct RunnerArgs {
    /// What computes: cpu, wgpu (a GPU, see `limbeck devices`), auto (a GPU that is not software where there is
    /// one, else the CPU) or fake (slow reference kernels).
    #[arg(long, default_value = "cpu", value_parser = values::backend)]
    pub backend: String,
    #[command(flatten)]
    pub onnx: OnnxArgs,
    /// Threads; 0 takes one per core.
    #[arg(long, default_value_t = 0, value_parser = within(0..=MAX_THREADS))]
    pub threads: usize,
    /// How keys and values are kept: f32, f16 or q8.
    #[arg(long, default_value = "f16")]
    pub kv: KvFormat,
    /// Compute allowed: full, 0.6, price:0.02, latency:8ms or deadline:400ms.
    #[arg(long, default_value = "full", allow_negative_numbers = true)]
    pub budget: Requested,
    /// Lowest fraction of compute, whatever the budget.
    #[arg(long, default_value_t = 0.0, value_parser = values::limit, allow_negative_numbers = true)]
    pub floor: f64,
    /// Highest fraction of compute, whatever the budget.
    #[arg(long, default_value_t = 1.0, value_parser = values::limit, allow_negative_numbers = true)]
    pub ceiling: f64,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Clone)]
pub struct SamplingArgs {
    /// Temperature; 0 takes the likeliest token [default: the student's, else 0].
    #[arg(long, value_parser = values::temperature, allow_negative_numbers = true)]
    pub temp: Option<f32>,
    /// Keep the K likeliest tokens; 0 keeps all.
    #[arg(long)]
    pub top_k: Option<usize>,
    /// Keep the smallest set of tokens with this probability.
    #[arg(long, value_parser = values::top_p)]
    pub top_p: Option<f32>,
    /// Keep tokens with at least this share of the likeliest one's probability.
    #[arg(long, value_parser = values::min_p)]
    pub min_p: Option<f32>,
    /// Divide the logits of tokens seen.
    #[arg(long, value_parser = values::repetition_penalty)]
    pub repetition_penalty: Option<f32>,
    /// Subtract from the logits of tokens seen.
    #[arg(long, value_parser = values::presence_penalty)]
    pub presence_penalty: Option<f32>,
    /// Seed of the sampling.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Text that ends the answer; may be repeated.
    #[arg(long, value_name = "TEXT", value_parser = values::stop)]
    pub stop: Vec<String>,
}

#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub plan: PlanArgs,
    /// Text to continue.
    #[arg(long)]
    pub prompt: String,
    /// Not available in this build: an image that the prompt speaks of.
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Most tokens to make.
    #[arg(long, default_value_t = 128)]
    pub max_tokens: usize,
    /// Put the prompt through the student's chat template as a user's message.
    #[arg(long)]
    pub chat: bool,
    /// Continuations to sample; they share the prompt and are decoded as one batch. At temperature 0
    /// they are equal.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = within(1..=MAX_BATCH))]
    pub samples: usize,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

#[derive(Args)]
pub struct ChatArgs {
    #[command(flatten)]
    pub plan: PlanArgs,
    /// Text that sets the student's role.
    #[arg(long)]
    pub system: Option<String>,
    /// Most tokens of an answer.
    #[arg(long, default_value_t = 512)]
    pub max_tokens: usize,
    /// Follow /budget and /stop as they arrive, in the midst of an answer: always so on a terminal,
    /// while lines from a pipe are otherwise taken in turn.
    #[arg(long)]
    pub live: bool,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

#[derive(Args)]
pub struct EmbedArgs {
    #[command(flatten)]
    pub plan: PlanArgs,
    /// Lines embedded at a time.
    #[arg(long, default_value_t = 32, value_parser = at_least(1))]
    pub batch: usize,
}

#[derive(Args)]
pub struct PerplexityArgs {
    #[command(flatten)]
    pub plan: PlanArgs,
    /// Text file.
    #[arg(long)]
    pub file: PathBuf,
    /// Tokens of one window; the second half of each is scored.
    #[arg(long, default_value_t = 512, value_parser = at_least(LEAST_CONTEXT))]
    pub context: usize,
}

#[derive(Args)]
pub struct ForwardArgs {
    #[command(flatten)]
    pub plan: PlanArgs,
    /// Tensors to give: `input_ids` `[tokens]` for a text student; `input_ids` and, where some are
    /// padding, `attention_mask`, both `[batch, tokens]`, for an encoder; `pixel_values` `[batch,
    /// channels, height, width]` for a classifier; those of an ONNX model by its own names. Where the plan
    /// has sites, `choices` forces theirs.
    /// `inspect` shows the names and shapes of a plan.
    #[arg(long, value_name = "IN.npz")]
    pub inputs: PathBuf,
    /// Where the results go.
    #[arg(long, value_name = "OUT.npz")]
    pub outputs: PathBuf,
    /// Entry to run [default: the plan's task].
    #[arg(long)]
    pub entry: Option<String>,
    /// Tokens computed at a time.
    #[arg(long, default_value_t = 256, value_parser = within(1..=MAX_CHUNK))]
    pub chunk: usize,
    /// How often to run; `--json` tells the median time of a run, the first left out where there are more.
    #[arg(short, long, default_value_t = 1, value_parser = at_least(1))]
    pub repeat: usize,
}

#[derive(Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    pub plan: PlanArgs,
    /// Where the sample goes: a picture (OUT.png; of one channel in 16 bits, of three in 8), or its values as
    /// they are (OUT.npz, a tensor `samples`).
    #[arg(short, long, value_name = "OUT.png|OUT.npz")]
    pub output: PathBuf,
    /// Draw the sample too as heights in the light, as of a terrain.
    #[arg(long, value_name = "OUT.png")]
    pub preview: Option<PathBuf>,
    /// Steps to take, of those that the plan has tables for [default: what the budget allows].
    #[arg(long, value_name = "N", value_parser = at_least(1))]
    pub steps: Option<usize>,
    /// Seed of the noise.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// What the sample is to be: a condition of the student, by its name; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = named_number)]
    pub set: Vec<(String, f64)>,
    /// Samples to make together, each with the next seed.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = within(1..=MAX_BATCH))]
    pub samples: usize,
}

#[derive(Args)]
pub struct BenchArgs {
    /// Plan file.
    #[arg(required_unless_present = "kernels")]
    plan: Option<PathBuf>,
    /// Instead of a plan, measure every kernel that reads a weight against what this machine can do at
    /// most (reading memory, f32 and 8-bit multiply-adds), in about half a minute and with 350 MiB of
    /// memory. Fails when a kernel that is selected is not the fastest of its kind within 5 %. Takes
    /// --threads and --json alone; LIMBECK_ISA is not asked. To be run beside nothing else.
    #[arg(long, conflicts_with_all = [
        "plan", "backend", "ep", "ort_library", "kv", "budget", "floor", "ceiling", "prompt", "decode", "batch",
        "repeat", "trace", "ceilings",
    ])]
    pub kernels: bool,
    /// Measure too what this machine can do at most, and report the share of it that is used; of a GPU how fast it reads
    /// its memory.
    #[arg(long)]
    pub ceilings: bool,
    #[command(flatten)]
    pub runner: RunnerArgs,
    /// Tokens of the prompt.
    #[arg(
        short = 'p', long = "prompt-tokens", default_value_t = 512, value_parser = at_least(1)
    )]
    pub prompt: usize,
    /// Tokens to decode.
    #[arg(short = 'n', long = "decode-tokens", default_value_t = 64)]
    pub decode: usize,
    /// Sequences decoded as one batch.
    #[arg(long, default_value_t = 1, value_parser = within(1..=MAX_BATCH))]
    pub batch: usize,
    /// Repetitions; the median is printed.
    #[arg(short = 'r', long, default_value_t = 3, value_parser = at_least(1))]
    pub repeat: usize,
    /// Write each decoded step's milliseconds, fraction, price and target.
    #[arg(long, value_name = "OUT.csv")]
    pub trace: Option<PathBuf>,
}

#[derive(Args)]
pub struct TuneArgs {
    /// Plan file.
    pub plan: PathBuf,
    /// What to measure on: for an encoder sentences, one a line; for a text student running text;
    /// for a classifier an .npz file with `pixel_values` `[images, channels, height, width]` of f32
    /// and, where they are known, `labels` `[images]` of i32 or i64.
    #[arg(long, value_name = "FILE", required_unless_present = "levels")]
    data: Option<PathBuf>,
    /// Plan file to write [default: the plan itself].
    #[arg(short, long, value_name = "OUT.lbk")]
    pub output: Option<PathBuf>,
    /// Draw quality and time against the fraction of compute.
    #[arg(long, value_name = "OUT.svg")]
    pub plot: Option<PathBuf>,
    /// Prices to measure, 12 at least, 0 among them.
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = within(PRICES))]
    pub prices: usize,
    /// Fit the weights of the sites to the data first.
    #[arg(long)]
    pub search: bool,
    /// Instead of measuring prices, make a dense text student's linears in f16, q8 or q4 leave
    /// out small input channels, with thresholds fitted to the data.
    #[arg(long, conflicts_with_all = ["search", "search_rounds", "plot", "prices", "context", "max_tokens"])]
    pub sparsity: bool,
    /// With --sparsity: take thresholds from a file, the JSON object that an earlier run for the
    /// same student printed with --json, instead of fitting them.
    #[arg(long, value_name = "FILE.json", requires = "sparsity", conflicts_with = "data")]
    pub levels: Option<PathBuf>,
    /// Rounds of the search over all sites, at most.
    #[arg(long, default_value_t = 3, value_name = "N", requires = "search")]
    pub search_rounds: usize,
    /// Tokens of one window of a text student; the second half of each is scored.
    #[arg(long, default_value_t = 512, value_parser = at_least(LEAST_CONTEXT))]
    pub context: usize,
    /// Most tokens of the data to use.
    #[arg(long, value_name = "N", value_parser = at_least(1))]
    pub max_tokens: Option<usize>,
    /// What computes: cpu, wgpu (a GPU, see `limbeck devices`), auto (a GPU that is not software where there is
    /// one, else the CPU) or fake (slow reference kernels).
    #[arg(long, default_value = "cpu", value_parser = values::backend)]
    pub backend: String,
    /// Threads; 0 takes one per core.
    #[arg(long, default_value_t = 0, value_parser = within(0..=MAX_THREADS))]
    pub threads: usize,
    /// How keys and values are kept: f32, f16 or q8.
    #[arg(long, default_value = "f16")]
    pub kv: KvFormat,
    #[command(flatten)]
    pub onnx: OnnxArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

impl BenchArgs {
    /// The plan; empty where kernels stand in for it.
    pub fn plan(&self) -> &Path {
        self.plan.as_deref().unwrap_or(Path::new(""))
    }
}

impl TuneArgs {
    /// The data; empty where stored levels stand in for it.
    pub fn data(&self) -> &Path {
        self.data.as_deref().unwrap_or(Path::new(""))
    }
}

#[derive(Args)]
pub struct DevicesArgs {
    /// ONNX Runtime's library [default: what LIMBECK_ORT or ORT_DYLIB_PATH names, or one beside this program].
    #[arg(long, value_name = "FILE")]
    pub ort_library: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// An engine over the backend of this name.
pub fn engine(backend: &str, threads: usize, onnx: &OnnxArgs) -> Result<Engine, Failure> {
    Ok(Engine::new(EngineOptions {
        backend: backend.parse()?,
        threads,
        onnx: onnx.options(),
        ..EngineOptions::default()
    })?)
}

impl PlanArgs {
    /// Opens the plan with the backend that was asked for.
    pub fn open(&self) -> Result<Model, Failure> {
        self.runner.open(&self.plan)
    }
}

impl RunnerArgs {
    /// Opens a plan with the backend that was asked for.
    pub fn open(&self, plan: &Path) -> Result<Model, Failure> {
        self.budget()?;
        let model = engine(&self.backend, self.threads, &self.onnx)?.open(plan)?;
        let mut steps = model.plan().program().entries.iter().flat_map(|entry| entry.steps());
        if !self.onnx.ep.is_empty() && !steps.any(|step| matches!(step.op, Op::Onnx(_))) {
            note("the plan has no ONNX segments, for which --ep is");
        }
        drop(steps);
        Ok(model)
    }

    /// The budget with its limits, checked.
    pub fn budget(&self) -> Result<(Budget, Limits), Failure> {
        let limits = Limits::new(self.floor, self.ceiling).map_err(Failure::usage)?;
        Ok((self.budget.budget, limits))
    }

    /// How the budget fared by the usage of the last call, with a note where it was not kept.
    pub fn report(&self, usage: &Usage) -> BudgetReport {
        note_unmet(&self.budget.text, usage);
        BudgetReport::new(&self.budget.text, usage)
    }

    /// A session with these options and the budget that was asked for.
    pub fn session(&self, model: &Model, options: SessionOptions) -> Result<Session, Failure> {
        let session = model.session(SessionOptions { kv: self.kv, ..options })?;
        let (budget, limits) = self.budget()?;
        session.control().set_budget(budget, limits)?;
        Ok(session)
    }

    /// A classifier with the budget that was asked for.
    pub fn classifier(&self, model: &Model) -> Result<Classifier, Failure> {
        let classifier = Classifier::new(model)?;
        let (budget, limits) = self.budget()?;
        classifier.control().set_budget(budget, limits)?;
        Ok(classifier)
    }

    /// The task of named tensors with the budget that was asked for.
    pub fn forward(&self, model: &Model, options: SessionOptions) -> Result<Forward, Failure> {
        let forward = Forward::new(model, SessionOptions { kv: self.kv, ..options })?;
        let (budget, limits) = self.budget()?;
        forward.control().set_budget(budget, limits)?;
        Ok(forward)
    }

    /// A diffuser with the budget that was asked for.
    pub fn diffuser(&self, model: &Model) -> Result<Diffuser, Failure> {
        let diffuser = Diffuser::new(model)?;
        let (budget, limits) = self.budget()?;
        diffuser.control().set_budget(budget, limits)?;
        Ok(diffuser)
    }

    /// An encoder with the budget that was asked for.
    pub fn encoder(&self, model: &Model) -> Result<Encoder, Failure> {
        let encoder = Encoder::new(model)?;
        let (budget, limits) = self.budget()?;
        encoder.control().set_budget(budget, limits)?;
        Ok(encoder)
    }
}

/// Tells people that a budget was not kept, and why.
pub fn note_unmet(budget: impl std::fmt::Display, usage: &Usage) {
    if let Some(reason) = usage.unmet {
        note(format!("the budget {budget} is not met: {reason}"));
    }
}

/// Whether a budget was kept.
#[derive(Clone, Debug, serde::Serialize)]
pub struct BudgetReport {
    /// As it was asked for.
    pub requested: String,
    /// Whether it was kept.
    pub met: bool,
    /// Why not.
    pub unmet: Option<Unmet>,
}

impl BudgetReport {
    /// How a budget fared by a usage.
    pub fn new(requested: impl std::fmt::Display, usage: &Usage) -> BudgetReport {
        let requested = requested.to_string();
        BudgetReport { requested, met: usage.unmet.is_none(), unmet: usage.unmet }
    }
}

impl SamplingArgs {
    /// The options given, the student's defaults for the others where it samples.
    pub fn options(&self, model: &Model) -> SamplerOptions {
        let student = model.sampler_options();
        SamplerOptions {
            temperature: self.temp.unwrap_or(student.temperature),
            top_k: self.top_k.unwrap_or(student.top_k),
            top_p: self.top_p.unwrap_or(student.top_p),
            min_p: self.min_p.unwrap_or(student.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(student.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(student.presence_penalty),
            seed: self.seed,
            ..student
        }
    }
}
