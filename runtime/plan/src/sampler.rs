//! Samplers: how a student that denoises is called to make a sample, as tables of steps.
//!
//! Every first-order rule is affine: from a sample `x` and what the entry gives for it, `out`, a step makes
//! `clip(a x + b out) + c z`, where `z` is noise of variance 1. The compiler turns a student's rule into one
//! table for each number of steps; the runtime knows no rules.

use serde::{Deserialize, Serialize};

use crate::check::invalid;
use crate::error::Error;
use crate::{DType, Dim, Entry, Fact, OperandKind, Program, SiteKind};

/// A sample may take as many bytes as the weights and these: a small file must not ask for a large one.
const SPARE_SAMPLE_BYTES: u64 = 8 << 20;

/// One call of an entry, and what is made of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRow {
    /// The entry that runs.
    pub entry: String,
    /// The time that it is given.
    pub t_model: f64,
    /// The second time, that the step goes to, for [`Sampler::second_time`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub r_model: f64,
    /// For [`Sampler::guidance`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub guidance: f64,
    /// What the sample is multiplied with before it is given.
    pub input_scale: f64,
    /// Factor of the sample.
    pub a: f64,
    /// Factor of what the entry gives.
    pub b: f64,
    /// Factor of fresh noise.
    pub c: f64,
    /// Bound on the magnitude of `a x + b out`, > 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
}

impl StepRow {
    /// Whether another row's entry is called with the same, for the same sample.
    pub fn same_call(&self, other: &StepRow) -> bool {
        let call = |row: &StepRow| (row.t_model, row.r_model, row.guidance, row.input_scale);
        self.entry == other.entry && call(self) == call(other)
    }
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

/// The steps from noise to a sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepTable {
    /// Factor of the noise that the first step begins with, > 0.
    pub start: f64,
    /// What so many steps gain, in the terms in which the price weighs them; more steps never gain less.
    pub gain: f64,
    /// In order.
    pub rows: Vec<StepRow>,
}

/// An input that the caller sets: what the sample is to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    /// The input's name.
    pub name: String,
    /// Its value where the caller gives none; without one the caller must.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<f64>,
    /// Least value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub least: Option<f64>,
    /// Largest value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<f64>,
}

/// How samples are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampler {
    /// The rule that the tables come from, for people.
    pub rule: String,
    /// The site of kind [`SiteKind::Steps`] whose choice is the number of steps.
    pub site: usize,
    /// The input for the sample, `f32 [batch, ...]`, of known sizes but for the batch.
    pub sample: String,
    /// The output that the rows speak of, of the sample's shape.
    pub output: String,
    /// The input for the time, of one element or `[batch]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The input for the second time, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_time: Option<String>,
    /// The input for the guidance, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance: Option<String>,
    /// The other inputs.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Values of the finished sample that stand for black and white, or for the lowest and the highest.
    pub values: [f64; 2],
    /// By number of steps, the fewest first.
    pub tables: Vec<StepTable>,
}

impl Sampler {
    /// Most tables.
    pub const MAX_TABLES: usize = 64;
    /// Most steps of a table.
    pub const MAX_STEPS: usize = 1024;

    /// The table of so many steps.
    pub fn table(&self, steps: usize) -> Option<&StepTable> {
        self.tables.iter().find(|table| table.rows.len() == steps)
    }

    /// The numbers of steps that have tables, the least first.
    pub fn counts(&self) -> impl DoubleEndedIterator<Item = usize> {
        self.tables.iter().map(|table| table.rows.len())
    }

    /// Inputs that the tables fill.
    fn filled(&self) -> impl Iterator<Item = &str> {
        let times = [&self.time, &self.second_time, &self.guidance];
        let times = times.into_iter().flatten().map(String::as_str);
        std::iter::once(self.sample.as_str()).chain(times)
    }
}

impl Program {
    /// Checks that the sampler, if there is one, has sound numbers and that its entries take and give what
    /// it says; and that a site of kind steps belongs to it.
    pub(crate) fn check_sampler(&self, weight_bytes: u64) -> Result<(), Error> {
        let fail = |message: String| Err(invalid("sampler", message));
        let steps: Vec<usize> = (0..self.sites.len())
            .filter(|site| self.sites[*site].kind == SiteKind::Steps)
            .collect();
        let Some(sampler) = &self.sampler else {
            return match steps.first() {
                Some(site) => fail(format!("site {:?} chooses its steps", self.sites[*site].name)),
                None => Ok(()),
            };
        };
        check_numbers(sampler)?;
        let (least, most) = (sampler.counts().next(), sampler.counts().next_back());
        let (Some(least), Some(most)) = (least, most) else {
            return fail("it has no table".into());
        };
        if steps != [sampler.site] {
            return fail(format!("site {} is not the one that chooses its steps", sampler.site));
        }
        let site = &self.sites[sampler.site];
        if (site.first, site.last()) != (least, most) {
            let (name, first, last) = (&site.name, site.first, site.last());
            return fail(format!(
                "site {name:?} chooses {first} to {last} steps, not {least} to {most}"
            ));
        }
        let mut sample: Option<&Fact> = None;
        let mut checked: Vec<&str> = Vec::new();
        for row in sampler.tables.iter().flat_map(|table| &table.rows) {
            if checked.contains(&row.entry.as_str()) {
                continue;
            }
            let Some(entry) = self.entry(&row.entry) else {
                return fail(format!("the plan has no entry {:?}", row.entry));
            };
            let found = check_entry(sampler, entry)
                .map_err(|m| invalid("sampler", format!("entry {:?}: {m}", entry.name)))?;
            if sample.is_some_and(|sample| sample != found) {
                return fail(format!("entry {:?} takes samples of another shape", entry.name));
            }
            sample = Some(found);
            checked.push(&row.entry);
        }
        let sizes = sample.into_iter().flat_map(|fact| &fact.shape).filter_map(Dim::as_const);
        let bytes = sizes.fold(4u64, u64::saturating_mul);
        if bytes > weight_bytes.saturating_add(SPARE_SAMPLE_BYTES) {
            return fail(format!("a sample takes {bytes} bytes, all weights {weight_bytes}"));
        }
        for condition in &sampler.conditions {
            let name = &condition.name;
            if !checked.iter().filter_map(|e| self.entry(e)).any(|e| input(e, name).is_some()) {
                return fail(format!("no entry takes {name:?}"));
            }
        }
        Ok(())
    }
}

fn check_numbers(sampler: &Sampler) -> Result<(), Error> {
    let fail = |message: String| Err(invalid("sampler", message));
    let single = |v: f64| v.is_finite() && v.abs() <= f64::from(f32::MAX);
    if sampler.tables.len() > Sampler::MAX_TABLES {
        return fail(format!("{} tables are too many", sampler.tables.len()));
    }
    let mut before: Option<&StepTable> = None;
    for table in &sampler.tables {
        let count = table.rows.len();
        if !(1..=Sampler::MAX_STEPS).contains(&count) {
            return fail(format!("a table of {count} steps is not of 1 to {}", Sampler::MAX_STEPS));
        }
        if !(single(table.start) && table.start > 0.0) {
            return fail(format!("{count} steps: {} is no factor of noise", table.start));
        }
        if !table.gain.is_finite() {
            return fail(format!("{count} steps: a gain of {} is no number", table.gain));
        }
        if before.is_some_and(|b| b.rows.len() >= count || b.gain > table.gain) {
            return fail(format!(
                "{count} steps: the table or its gain is not beyond the one before"
            ));
        }
        before = Some(table);
        for (index, row) in table.rows.iter().enumerate() {
            let StepRow { t_model, r_model, guidance, input_scale, a, b, c, clip, entry: _ } = row;
            let numbers = [t_model, r_model, guidance, input_scale, a, b, c];
            if !numbers.into_iter().chain(clip).all(|v| single(*v)) {
                return fail(format!("{count} steps, row {index}: a number is out of range"));
            }
            if clip.is_some_and(|clip| clip <= 0.0) {
                return fail(format!("{count} steps, row {index}: its bound is not above 0"));
            }
        }
    }
    let [low, high] = sampler.values;
    if !(single(low) && single(high) && low < high) {
        return fail(format!("its values {low} to {high} are no range"));
    }
    for condition in &sampler.conditions {
        let Condition { name, default, least, most } = condition;
        let given = [*default, *least, *most];
        let order = [*least, *default, *most].into_iter().flatten();
        if !given.into_iter().flatten().all(single) || !order.is_sorted() {
            return fail(format!("condition {name:?}: its default is not a number in its range"));
        }
    }
    Ok(())
}

fn input<'a>(entry: &'a Entry, name: &str) -> Option<&'a Fact> {
    let mut inputs = entry.operands_of(OperandKind::Input);
    inputs.find(|(_, o)| o.name == name).map(|(_, o)| &o.fact)
}

/// Checks what an entry takes and gives; returns the fact of its samples.
fn check_entry<'a>(sampler: &Sampler, entry: &'a Entry) -> Result<&'a Fact, String> {
    let missing = |name: &str| format!("it has no input {name:?}");
    let sample = input(entry, &sampler.sample).ok_or_else(|| missing(&sampler.sample))?;
    let mut sizes = sample.shape.iter();
    let batch = sizes.next().filter(|dim| matches!(dim, Dim::Const(_) | Dim::Symbol(_)));
    let known = |dim: &Dim| dim.as_const().is_some_and(|size| size > 0);
    if sample.dtype != DType::F32 || !sample.is_tensor() || batch.is_none() || !sizes.all(known) {
        return Err(format!("{:?} is {sample}, not f32[batch, ...]", sampler.sample));
    }
    let mut outputs = entry.operands_of(OperandKind::Output);
    match outputs.find(|(_, o)| o.name == sampler.output) {
        Some((_, output)) if output.fact == *sample => {}
        Some((_, output)) => {
            return Err(format!("{:?} is {}, not {sample}", sampler.output, output.fact));
        }
        None => return Err(format!("it has no output {:?}", sampler.output)),
    }
    for name in sampler.filled().skip(1) {
        let fact = input(entry, name).ok_or_else(|| missing(name))?;
        let one = fact.shape.iter().all(|dim| dim.as_const() == Some(1));
        if !one && fact.shape.as_slice() != sample.shape.get(..1).unwrap_or_default() {
            return Err(format!("{name:?} is {fact}, not one number or [batch]"));
        }
    }
    let mut names: Vec<&str> = sampler.filled().collect();
    names.extend(sampler.conditions.iter().map(|c| c.name.as_str()));
    if (1..names.len()).any(|at| names[..at].contains(&names[at])) {
        return Err("an input is named twice".into());
    }
    for (_, operand) in entry.operands_of(OperandKind::Input) {
        if !names.contains(&operand.name.as_str()) {
            return Err(format!("nothing says what {:?} is given", operand.name));
        }
        if !operand.fact.is_tensor() {
            return Err(format!("{:?} is {}, no tensor", operand.name, operand.fact));
        }
    }
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Map, MapStep, Op, Operand, Segment, Site, Step};

    /// Doubles `x [batch, 4]`; `t [batch]` and `label []` change nothing.
    fn entry(name: &str) -> Entry {
        let batch = || Dim::symbol("batch");
        let operand = |name: &str, kind, dtype, shape: &[Dim]| Operand {
            name: name.into(),
            kind,
            fact: Fact::new(dtype, shape.to_vec()),
        };
        let sample = [batch(), Dim::from(4usize)];
        let operands = vec![
            operand("x", OperandKind::Input, DType::F32, &sample),
            operand("t", OperandKind::Input, DType::F32, &[batch()]),
            operand("label", OperandKind::Input, DType::I32, &[]),
            operand("y", OperandKind::Output, DType::F32, &sample),
        ];
        let double = vec![MapStep::Input(0), MapStep::Binary(crate::Binary::Add, 0, 0)];
        let step = Step {
            name: "double".into(),
            op: Op::Map(Map { inputs: 1, steps: double }),
            inputs: vec![0],
            outputs: vec![3],
            macs: Dim::Const(0),
        };
        let segments = vec![Segment { steps: vec![step] }];
        Entry { name: name.into(), operands, segments }
    }

    fn program() -> Program {
        let row = |t_model| StepRow {
            entry: "denoise".into(),
            t_model,
            r_model: 0.0,
            guidance: 0.0,
            input_scale: 1.0,
            a: 0.5,
            b: -0.5,
            c: 0.0,
            clip: Some(1.0),
        };
        let table = |rows: Vec<StepRow>| StepTable { start: 80.0, gain: rows.len() as f64, rows };
        let sampler = Sampler {
            rule: "consistency".into(),
            site: 0,
            sample: "x".into(),
            output: "y".into(),
            time: Some("t".into()),
            second_time: None,
            guidance: None,
            conditions: vec![Condition {
                name: "label".into(),
                default: Some(3.0),
                least: Some(0.0),
                most: Some(9.0),
            }],
            values: [-1.0, 1.0],
            tables: vec![table(vec![row(80.0)]), table(vec![row(80.0), row(20.0), row(1.0)])],
        };
        let site = Site {
            name: "steps".into(),
            kind: SiteKind::Steps,
            first: 1,
            costs: vec![1.0 / 3.0, 2.0 / 3.0, 1.0],
            weight: 1.0,
        };
        let entries = vec![entry("denoise")];
        let (sites, sampler) = (vec![site], Some(sampler));
        Program { entries, sites, sampler, ..Program::default() }
    }

    #[test]
    fn a_sampler_is_accepted_and_round_trips() {
        let program = program();
        program.check(0).unwrap();
        let json = serde_json::to_string(&program).unwrap();
        assert_eq!(serde_json::from_str::<Program>(&json).unwrap(), program);
        let sampler = program.sampler.unwrap();
        assert_eq!(sampler.counts().collect::<Vec<_>>(), [1, 3]);
        assert!(sampler.table(2).is_none());
        assert_eq!(sampler.table(3).unwrap().rows.len(), 3);
    }

    /// Each row goes to an entry of its own.
    #[test]
    fn rows_may_name_several_entries_of_one_shape() {
        let mut program = program();
        program.entries.push(entry("fine"));
        sampler(&mut program).tables[1].rows[2].entry = "fine".into();
        program.check(0).unwrap();
        program.entries[1].operands[0].fact.shape[1] = Dim::from(5usize);
        program.entries[1].operands[3].fact.shape[1] = Dim::from(5usize);
        let e = program.check(0).unwrap_err().to_string();
        assert!(e.contains("\"fine\"") && e.contains("another shape"), "{e}");
    }

    fn sampler(program: &mut Program) -> &mut Sampler {
        program.sampler.as_mut().unwrap()
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        type Change = fn(&mut Program);
        let cases: [(Change, &str); 22] = [
            (|p| p.sampler = None, "chooses its steps"),
            (|p| p.sites[0].first = 2, "not 1 to 3"),
            (|p| sampler(p).site = 1, "site 1"),
            (|p| p.sites.push(p.sites[0].clone()), "site 0"),
            (|p| sampler(p).tables.clear(), "no table"),
            (|p| sampler(p).tables.swap(0, 1), "not beyond"),
            (|p| sampler(p).tables[1].gain = 0.0, "not beyond"),
            (|p| sampler(p).tables[1].gain = f64::NAN, "no number"),
            (|p| sampler(p).tables[0].start = 0.0, "no factor of noise"),
            (|p| sampler(p).tables[0].start = f64::INFINITY, "no factor of noise"),
            (|p| sampler(p).tables[0].rows.clear(), "0 steps"),
            (|p| sampler(p).tables[1].rows[1].b = f64::NAN, "row 1"),
            (|p| sampler(p).tables[1].rows[2].t_model = 1e300, "row 2"),
            (|p| sampler(p).tables[0].rows[0].clip = Some(0.0), "bound"),
            (|p| sampler(p).tables[0].rows[0].entry = "other".into(), "no entry \"other\""),
            (|p| sampler(p).values = [1.0, -1.0], "no range"),
            (|p| sampler(p).sample = "t".into(), "\"y\" is"),
            (|p| sampler(p).output = "z".into(), "no output \"z\""),
            (|p| sampler(p).time = Some("s".into()), "no input \"s\""),
            (|p| sampler(p).guidance = Some("t".into()), "named twice"),
            (|p| sampler(p).conditions.clear(), "what \"label\" is given"),
            (|p| sampler(p).conditions[0].least = Some(4.0), "not a number in its range"),
        ];
        for (change, words) in cases {
            let mut program = program();
            change(&mut program);
            let e = program.check(0).unwrap_err().to_string();
            assert!(e.starts_with("sampler") && e.contains(words), "{words}: {e}");
        }
        let mut program = program();
        let many = sampler(&mut program).tables[0].clone();
        sampler(&mut program).tables = vec![many; Sampler::MAX_TABLES + 1];
        assert!(program.check(0).unwrap_err().to_string().contains("too many"));
    }

    #[test]
    fn a_small_file_asks_for_no_large_sample() {
        let mut program = program();
        let large = Dim::from((SPARE_SAMPLE_BYTES as usize + 8) / 4);
        program.entries[0].operands[0].fact.shape[1] = large.clone();
        program.entries[0].operands[3].fact.shape[1] = large;
        program.check(8).unwrap();
        let e = program.check(7).unwrap_err().to_string();
        assert!(e.contains("a sample takes"), "{e}");
    }

    #[test]
    fn samples_have_known_sizes() {
        let mut program = program();
        let open = Dim::symbol("width");
        program.entries[0].operands[0].fact.shape[1] = open.clone();
        program.entries[0].operands[3].fact.shape[1] = open;
        let e = program.check(0).unwrap_err().to_string();
        assert!(e.contains("not f32[batch, ...]"), "{e}");
    }
}
