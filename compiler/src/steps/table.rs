//! Steps that are given as a plan has them: what `limbeck export` writes of a sampler, and reads again.

use limbeck_models::Config;
use limbeck_plan::{Condition, Sampler, StepRow, StepTable};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Affine, Rule, Step};
use crate::error::{Error, Result};

/// The rule: a table for each number of steps.
pub struct Tables(Vec<Table>);

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Table {
    start: f64,
    steps: Vec<Row>,
}

/// The numbers of a [`StepRow`].
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Row {
    t: f64,
    #[serde(default)]
    r: f64,
    #[serde(default = "one")]
    input_scale: f64,
    a: f64,
    b: f64,
    #[serde(default)]
    c: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clip: Option<f64>,
}

fn one() -> f64 {
    1.0
}

/// Reads its settings.
pub fn read(config: &Config) -> Result<Box<dyn Rule>> {
    let tables: Option<Vec<Table>> = config.get("tables")?;
    let tables = tables.filter(|tables| !tables.is_empty());
    let tables = tables.ok_or_else(|| Error::missing("the rule \"table\" has no tables"))?;
    Ok(Box::new(Tables(tables)))
}

impl Rule for Tables {
    fn table(&self, steps: usize) -> Result<(f64, Vec<Step>)> {
        let found = self.0.iter().find(|table| table.steps.len() == steps);
        let missing = || Error::missing(format!("no table of {steps} steps is given"));
        let Table { start, steps } = found.ok_or_else(missing)?;
        let step = |row: &Row| {
            let Row { t, r, input_scale, a, b, c, clip } = *row;
            Step { t, r, input_scale, x: Affine { x: a, out: b }, c, clip }
        };
        Ok((*start, steps.iter().map(step).collect()))
    }

    fn counts(&self) -> Option<Vec<usize>> {
        Some(self.0.iter().map(|table| table.steps.len()).collect())
    }
}

/// The declaration (`docs/samplers.md`) that a sampler's tables are made of again.
///
/// # Errors
/// Steps that differ in their guidance, for which a declaration has one number.
pub fn declare(sampler: &Sampler) -> Result<Value> {
    let guidances = sampler.tables.iter().flat_map(|table| &table.rows).map(|row| row.guidance);
    let guidance = guidances.clone().next().unwrap_or(0.0);
    if guidances.into_iter().any(|other| other != guidance) {
        return Err(Error::unsupported("its steps differ in their guidance"));
    }
    let row = |row: &StepRow| {
        let StepRow { t_model: t, r_model: r, input_scale, a, b, c, clip, .. } = *row;
        Row { t, r, input_scale, a, b, c, clip }
    };
    let table = |table: &StepTable| Table {
        start: table.start,
        steps: table.rows.iter().map(row).collect(),
    };
    let tables: Vec<Table> = sampler.tables.iter().map(table).collect();
    let condition = |condition: &Condition| {
        let Condition { name, default, least, most } = condition;
        let bounds = [("default", default), ("least", least), ("most", most)];
        let said =
            bounds.into_iter().filter_map(|(key, value)| Some((key.into(), json!((*value)?))));
        (name.clone(), Value::Object(said.collect()))
    };
    let mut declared = json!({
        "scheduler": {"rule": "table", "tables": tables},
        "gains": sampler.tables.iter().map(|table| table.gain).collect::<Vec<f64>>(),
        "sample": sampler.sample,
        "output": sampler.output,
        "values": sampler.values,
        "conditions": sampler.conditions.iter().map(condition).collect::<Map<String, Value>>(),
    });
    let inputs = [
        ("time", &sampler.time),
        ("second_time", &sampler.second_time),
        ("guidance", &sampler.guidance),
    ];
    for (key, name) in inputs {
        if let Some(name) = name {
            declared[key] = json!(name);
        }
    }
    if sampler.guidance.is_some() {
        declared["guidance_value"] = json!(guidance);
    }
    Ok(declared)
}
