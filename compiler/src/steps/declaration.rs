//! What a checkpoint says of its sampler, and its place in a student.

use std::collections::{BTreeMap, BTreeSet};

use limbeck_graph::{Graph, ValueSource};
use limbeck_models::{Config, Student};
use limbeck_plan::{
    Condition, DType, Fact, Manifest, Sampler, Site, SiteKind, StepRow, StepTable, Task,
};
use serde::Deserialize;
use serde_json::Value;

use super::{RULES, Rule};
use crate::error::{At, Error, Result};

/// Numbers of steps where none are named.
const STEPS: [usize; 3] = [1, 2, 4];
/// Names that exporters give to the input for the time.
const TIMES: [&str; 6] = ["timestep", "timesteps", "t", "time", "sigma", "noise_level"];

/// A sampler as it is declared, before it meets a graph.
pub struct Declaration {
    name: &'static str,
    rule: Box<dyn Rule>,
    steps: Vec<usize>,
    gains: Option<Vec<f64>>,
    sample: Option<String>,
    output: Option<String>,
    time: Option<String>,
    second_time: Option<String>,
    guidance: Option<String>,
    guidance_value: f64,
    values: [f64; 2],
    conditions: BTreeMap<String, ConditionRange>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConditionRange {
    default: Option<f64>,
    least: Option<f64>,
    most: Option<f64>,
}

impl Declaration {
    /// Reads `sampler.json`, or diffusers' `scheduler_config.json`.
    ///
    /// # Errors
    /// A rule, key or value that is not known.
    pub fn read(value: &Value, ignored_keys: &BTreeSet<String>) -> Result<Declaration> {
        let config = Config::new(value)?;
        let scheduler = match config.get::<Value>("scheduler")? {
            Some(scheduler) => Config::nested(&scheduler, "scheduler")?,
            None => Config::new(value)?,
        };
        let class: Option<String> = scheduler.get("_class_name")?;
        let name: Option<String> = scheduler.get("rule")?;
        let known = RULES.iter().find(|(rule, of, _)| match (&name, &class) {
            (Some(name), _) => name == rule,
            (None, class) => !of.is_empty() && class.as_deref() == Some(*of),
        });
        let Some((name, _, reader)) = known else {
            let rules: Vec<&str> = RULES.iter().map(|(rule, _, _)| *rule).collect();
            let rules = rules.join(", ");
            let Some(found) = name.or(class) else {
                let message = format!("it has no scheduler whose rule is one of {rules}");
                return Err(Error::missing(message));
            };
            let message = format!("the sampler's rule {found:?} is not one of {rules}");
            return Err(Error::unsupported(message));
        };
        let rule = reader(&scheduler)?;
        let whole = value.get("scheduler").is_none_or(Value::is_null);
        scheduler.finish(ignored_keys)?;
        let declaration = if whole {
            Declaration::of_rule(name, rule)
        } else {
            let declaration = Declaration::of_rule(name, rule).complete(&config)?;
            config.finish(ignored_keys)?;
            declaration
        };
        declaration.check()
    }

    fn of_rule(name: &'static str, rule: Box<dyn Rule>) -> Declaration {
        let mut steps = rule.counts().unwrap_or_else(|| STEPS.to_vec());
        steps.sort_unstable();
        Declaration {
            name,
            rule,
            steps,
            gains: None,
            sample: None,
            output: None,
            time: None,
            second_time: None,
            guidance: None,
            guidance_value: 0.0,
            values: [-1.0, 1.0],
            conditions: BTreeMap::new(),
        }
    }

    /// With what stands beside the scheduler.
    fn complete(self, config: &Config) -> Result<Declaration> {
        Ok(Declaration {
            steps: config.get("steps")?.unwrap_or(self.steps),
            gains: config.get("gains")?,
            sample: config.get("sample")?,
            output: config.get("output")?,
            time: config.get("time")?,
            second_time: config.get("second_time")?,
            guidance: config.get("guidance")?,
            guidance_value: config.get("guidance_value")?.unwrap_or(0.0),
            values: config.get("values")?.unwrap_or(self.values),
            conditions: config.get("conditions")?.unwrap_or_default(),
            ..self
        })
    }

    fn check(self) -> Result<Declaration> {
        let steps = &self.steps;
        let rising = steps.iter().zip(steps.iter().skip(1)).all(|(a, b)| a < b);
        let most = Sampler::MAX_STEPS;
        if steps.is_empty() || !rising || steps.iter().any(|n| !(1..=most).contains(n)) {
            let message = format!("steps {steps:?} are not rising numbers of 1 to {most}");
            return Err(Error::mismatch(message));
        }
        let count = self.gains.as_ref().map_or(steps.len(), Vec::len);
        if count != steps.len() {
            let message =
                format!("{count} gains are not those of {} numbers of steps", steps.len());
            return Err(Error::mismatch(message));
        }
        Ok(self)
    }

    /// Makes a student's entry of tensors one that denoises: the sampler and its site, of which there must
    /// be no other.
    ///
    /// # Errors
    /// A student that is not one of a sampler: inputs or an output that are missing or not of their shapes.
    pub fn lay_on(&self, student: &mut Student) -> Result<(Sampler, Site)> {
        let [(entry, graph)] = student.entries.as_mut_slice() else {
            return Err(Error::mismatch("a student with several entries takes no sampler"));
        };
        if !matches!(student.task, Task::Tensors | Task::Diffuse) || !graph.sites().is_empty() {
            return Err(Error::mismatch("a sampler is given, but the student does not denoise"));
        }
        let mut sampler = self.names(graph)?;
        sampler.tables = self.tables()?;
        *entry = Manifest::DENOISE_ENTRY.into();
        student.task = Task::Diffuse;
        let (first, last) = (self.steps.first().copied(), self.steps.last().copied());
        let (first, last) = (first.unwrap_or(1), last.unwrap_or(1));
        let costs = (first..=last).map(|n| n as f64 / last as f64).collect();
        let site = Site { name: "steps".into(), kind: SiteKind::Steps, first, costs, weight: 1.0 };
        Ok((sampler, site))
    }

    fn tables(&self) -> Result<Vec<StepTable>> {
        let table = |(at, steps): (usize, &usize)| {
            let (start, rows) =
                self.rule.table(*steps).at(format_args!("sampler of {steps} steps"))?;
            let row = |step: super::Step| StepRow {
                entry: Manifest::DENOISE_ENTRY.into(),
                t_model: step.t,
                r_model: step.r,
                guidance: self.guidance_value,
                input_scale: step.input_scale,
                a: step.x.x,
                b: step.x.out,
                c: step.c,
                clip: step.clip,
            };
            let gain = self.gains.as_ref().and_then(|gains| gains.get(at)).copied();
            // Where nothing was measured, each step is taken to gain less than the one before.
            let gain = gain.unwrap_or(1.0 - 1.0 / *steps as f64);
            Ok(StepTable { start, gain, rows: rows.into_iter().map(row).collect() })
        };
        self.steps.iter().enumerate().map(table).collect()
    }

    /// Which of the graph's values are what; names that are not declared are found.
    fn names(&self, graph: &Graph) -> Result<Sampler> {
        let inputs: Vec<(&str, &Fact)> = graph
            .values()
            .iter()
            .filter(|value| value.source == ValueSource::Input)
            .map(|value| (value.name.as_str(), &value.fact))
            .collect();
        let output_fact = |name: &str| {
            let found = graph.outputs().iter().find(|(output, _)| output == name);
            found.map(|(_, value)| &graph.value(*value).fact)
        };
        let known = |name: &Option<String>| -> Result<()> {
            match name.as_deref().filter(|name| inputs.iter().all(|(input, _)| input != name)) {
                Some(name) => Err(Error::missing(format!("the student has no input {name:?}"))),
                None => Ok(()),
            }
        };
        for name in [&self.sample, &self.time, &self.second_time, &self.guidance] {
            known(name)?;
        }
        for name in self.conditions.keys() {
            known(&Some(name.clone()))?;
        }
        let gives = |fact: &Fact| {
            let same = |(_, value): &&(String, _)| graph.value(*value).fact == *fact;
            graph.outputs().iter().find(same).map(|(name, _)| name.clone())
        };
        let sample = self.sample.clone().or_else(|| {
            let like = |(_, fact): &&(&str, &Fact)| {
                fact.dtype == DType::F32 && fact.shape.len() > 1 && gives(fact).is_some()
            };
            inputs.iter().find(like).map(|(name, _)| (*name).to_owned())
        });
        let fact = inputs.iter().find(|(name, _)| Some(*name) == sample.as_deref());
        let (Some(sample), Some((_, fact))) = (sample, fact) else {
            return Err(Error::mismatch("no output of the student has the shape of an input"));
        };
        let output = self.output.clone().or_else(|| gives(fact));
        let Some(output) = output.filter(|output| output_fact(output) == Some(*fact)) else {
            let message = format!("no output has the shape of its sample {sample:?}, {fact}");
            return Err(Error::mismatch(message));
        };
        let time = self.time.clone().or_else(|| {
            let named = |name: &&&str| inputs.iter().any(|(input, _)| input == *name);
            TIMES.iter().find(named).map(|name| (*name).to_owned())
        });
        let (second_time, guidance) = (self.second_time.clone(), self.guidance.clone());
        let filled = [Some(&sample), time.as_ref(), second_time.as_ref(), guidance.as_ref()];
        let given = |name: &str| filled.into_iter().flatten().any(|filled| filled == name);
        let conditions = inputs.iter().filter(|(name, _)| !given(name)).map(|(name, _)| {
            let ConditionRange { default, least, most } =
                self.conditions.get(*name).unwrap_or(&NO_RANGE);
            let (default, least, most) = (*default, *least, *most);
            Condition { name: (*name).to_owned(), default, least, most }
        });
        Ok(Sampler {
            rule: self.name.into(),
            site: 0,
            conditions: conditions.collect(),
            sample,
            output,
            time,
            second_time,
            guidance,
            values: self.values,
            tables: Vec::new(),
        })
    }
}

const NO_RANGE: ConditionRange = ConditionRange { default: None, least: None, most: None };
