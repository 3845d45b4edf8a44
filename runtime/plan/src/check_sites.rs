//! Validation of sites: their numbers, the one step that chooses at each, and the steps that follow
//! its choices.

use crate::check::invalid;
use crate::error::Error;
use crate::{Dim, Entry, Op, OperandKind, Program, Site, SiteKind, Step};

impl Program {
    /// Checks that each site has sound numbers and one step that chooses there, and that choices
    /// are read by steps that have exactly those choices.
    pub(crate) fn check_sites(&self) -> Result<(), Error> {
        for site in &self.sites {
            check_site(site).map_err(|m| invalid(format!("site {:?}", site.name), m))?;
        }
        let mut chosen = vec![false; self.sites.len()];
        for entry in &self.entries {
            let mut site_of: Vec<Option<&Site>> = vec![None; entry.operands.len()];
            for step in entry.steps() {
                self.check_step_sites(entry, step, &mut site_of, &mut chosen)
                    .map_err(|m| invalid(entry.place(&step.name), m))?;
            }
        }
        let unchosen = |(site, chosen): &(&Site, bool)| !chosen && site.kind != SiteKind::Steps;
        match self.sites.iter().zip(chosen).find(unchosen) {
            Some((s, _)) => Err(invalid(format!("site {:?}", s.name), "no step chooses there")),
            None => Ok(()),
        }
    }

    /// `site_of` has for each operand the site whose choices it holds.
    fn check_step_sites<'a>(
        &'a self,
        entry: &Entry,
        step: &Step,
        site_of: &mut [Option<&'a Site>],
        chosen: &mut [bool],
    ) -> Result<(), String> {
        let choices = |index: usize| step.inputs.get(index).and_then(|id| site_of[*id]);
        let followed = match &step.op {
            Op::AdaptiveMlp(p) => {
                let Some(site) = choices(1) else {
                    return Err("its choice is not one that a step made".into());
                };
                if site.last() != p.learners {
                    let last = site.last();
                    return Err(format!(
                        "site {:?} chooses up to {last}, not {} learners",
                        site.name, p.learners
                    ));
                }
                Some(1)
            }
            Op::SparseLinear(p) => {
                let at = step.inputs.len().saturating_sub(2);
                let Some(site) = choices(at) else {
                    return Err("its choice is not one that a step made".into());
                };
                if (site.first, site.costs.len()) != (0, p.thresholds.len()) {
                    return Err(format!("its thresholds are not the choices of {:?}", site.name));
                }
                Some(at)
            }
            _ => None,
        };
        if let Some(index) =
            (0..step.inputs.len()).find(|i| choices(*i).is_some() && Some(*i) != followed)
        {
            return Err(format!("input {index} is a choice, which it cannot follow"));
        }
        let (index, first, count) = match &step.op {
            Op::Choose(p) => {
                let gate = step.inputs.get(1).and_then(|id| entry.operands[*id].fact.shape.first());
                (p.site, p.first, gate.and_then(Dim::as_const))
            }
            Op::MoeMlp(p) => (p.site, 1, Some(p.top_k as u64)),
            Op::Level(p) => (p.site, 0, Some(p.gains.len() as u64)),
            _ => return Ok(()),
        };
        let site = self.sites.get(index).ok_or_else(|| format!("site {index} does not exist"))?;
        if std::mem::replace(&mut chosen[index], true) {
            return Err(format!("site {:?} is chosen at a second time", site.name));
        }
        let level = matches!(step.op, Op::Level(_));
        if count != Some(site.costs.len() as u64)
            || first != site.first
            || (level && site.kind != SiteKind::Sparsity)
            || site.kind == SiteKind::Steps
        {
            return Err(format!("its choices are not those of site {:?}", site.name));
        }
        if matches!(step.op, Op::MoeMlp(_)) {
            return Ok(());
        }
        if let Some(&id) = step.outputs.first() {
            if entry.operands[id].kind != OperandKind::Scratch {
                return Err("a choice cannot be an output".into());
            }
            site_of[id] = Some(site);
        }
        Ok(())
    }
}

fn check_site(site: &Site) -> Result<(), String> {
    if !(site.weight.is_finite() && site.weight > 0.0) {
        return Err(format!("its weight {} is not a positive number", site.weight));
    }
    if site.costs.is_empty() || site.costs.iter().any(|c| !(0.0..=1.0).contains(c)) {
        return Err("its costs are not numbers in 0..=1".into());
    }
    if !site.costs.is_sorted() {
        return Err("its costs fall".into());
    }
    if site.first > i32::MAX as usize - site.costs.len() {
        return Err(format!("its first choice {} is out of range", site.first));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::*;

    fn operand(name: &str, kind: OperandKind, dtype: DType, shape: &[Dim]) -> Operand {
        Operand { name: name.into(), kind, fact: Fact::new(dtype, shape.to_vec()) }
    }

    /// A choice among 0..=2 learners, and an MLP that follows it.
    fn program() -> Program {
        let tokens = || Dim::symbol(Symbol::TOKENS);
        let shapes = [(100, 8), (3, 8), (1, 3), (64, 8), (8, 64)];
        let formats = [true, true, true, false, false];
        let mut offset = 0;
        let weights = shapes.into_iter().zip(formats).map(|((rows, cols), vector)| {
            let format = if vector { PackFormat::F32_ROW } else { PackFormat::linear(Values::F32) };
            let bytes = format.byte_len(rows, cols).unwrap() as u64;
            let weight = Weight { name: format!("{rows}"), format, rows, cols, offset, bytes };
            offset += bytes.next_multiple_of(WEIGHT_ALIGN);
            weight
        });
        let weights: Vec<Weight> = weights.collect();
        let matrix = |cols: usize| [tokens(), Dim::from(cols)];
        let mut operands = vec![operand("ids", OperandKind::Input, DType::I32, &[tokens()])];
        operands.extend(weights.iter().enumerate().map(|(i, w)| {
            let shape = [Dim::from(w.rows), Dim::from(w.cols)];
            operand("w", OperandKind::Weight(i), DType::F32, &shape)
        }));
        operands.extend([
            operand("x", OperandKind::Scratch, DType::F32, &matrix(8)),
            operand("k", OperandKind::Scratch, DType::I32, &[tokens()]),
            operand("y", OperandKind::Output, DType::F32, &matrix(8)),
        ]);
        let step = |name: &str, op: Op, inputs: &[usize], output: usize| Step {
            name: name.into(),
            op,
            inputs: inputs.to_vec(),
            outputs: vec![output],
            macs: Dim::Const(0),
        };
        let transform = GateTransform::Identity;
        let mlp = AdaptiveMlp {
            learners: 2,
            activation: Activation::Relu,
            gated: false,
            bias: false,
            out_bias: false,
            residual: false,
        };
        let steps = vec![
            step("look up", Op::Embedding(Embedding { scale: 1.0 }), &[0, 1], 6),
            step("choose", Op::Choose(Choose { site: 0, transform, first: 0 }), &[6, 2, 3], 7),
            step("mlp", Op::AdaptiveMlp(mlp), &[6, 7, 4, 5], 8),
        ];
        let site = Site {
            name: "ffn".into(),
            kind: SiteKind::Acm,
            first: 0,
            costs: vec![0.0, 0.5, 1.0],
            weight: 1.0,
        };
        let entry = Entry { name: "text".into(), operands, segments: vec![Segment { steps }] };
        let (entries, sites) = (vec![entry], vec![site]);
        Program { entries, weights, sites, ..Program::default() }
    }

    fn error(change: impl FnOnce(&mut Program)) -> String {
        let mut program = program();
        change(&mut program);
        program.check(1 << 20).unwrap_err().to_string()
    }

    /// A mixture of 2 experts in the place of the choice and its MLP: `x` is the logits too.
    fn mixture() -> Program {
        let mut program = program();
        let mut offset = 0;
        for (weight, rows, cols) in [(0, 100, 2), (3, 2 * 16, 2), (4, 2 * 16, 16)] {
            (program.weights[weight].rows, program.weights[weight].cols) = (rows, cols);
        }
        for weight in &mut program.weights {
            weight.offset = offset;
            weight.bytes = weight.format.byte_len(weight.rows, weight.cols).unwrap() as u64;
            offset += weight.bytes.next_multiple_of(WEIGHT_ALIGN);
        }
        for (operand, cols) in [(6, 2u64), (8, 16)] {
            program.entries[0].operands[operand].fact.shape[1] = Dim::from(cols);
        }
        for operand in 1..6 {
            let weight = &program.weights[operand - 1];
            program.entries[0].operands[operand].fact.shape =
                vec![Dim::from(weight.rows), Dim::from(weight.cols)];
        }
        program.entries[0].operands.remove(7);
        let steps = steps(&mut program);
        steps.remove(1);
        steps[1].op = Op::MoeMlp(MoeMlp {
            site: 0,
            experts: 2,
            top_k: 2,
            activation: Activation::Relu,
            gated: false,
            weights: ExpertWeights::Renormalised,
            capacity: None,
            residual: false,
        });
        (steps[1].inputs, steps[1].outputs) = (vec![6, 6, 4, 5], vec![7]);
        let site = &mut program.sites[0];
        (site.kind, site.first, site.costs) = (SiteKind::Experts, 1, vec![0.5, 1.0]);
        program
    }

    #[test]
    fn a_mixture_chooses_at_a_site_of_its_own() {
        let check = |change: fn(&mut Program)| {
            let mut program = mixture();
            change(&mut program);
            program.check(1 << 20).map_err(|e| e.to_string())
        };
        check(|_| {}).unwrap();
        let bad: [fn(&mut Program); 5] = [
            |p| p.sites[0].first = 0,
            |p| p.sites[0].costs.truncate(1),
            |p| p.sites.clear(),
            |p| {
                let mut again = steps(p)[1].clone();
                again.outputs = vec![8];
                let y = p.entries[0].operands[7].clone();
                p.entries[0].operands.push(y);
                steps(p).push(again);
            },
            |p| {
                let Op::MoeMlp(moe) = &mut steps(p)[1].op else { panic!("the mixture") };
                moe.top_k = 1;
            },
        ];
        for change in bad {
            let message = check(change).unwrap_err();
            assert!(message.contains("step \"mlp\"") && message.contains("site"), "{message}");
        }
    }

    #[test]
    fn a_site_with_its_steps_is_accepted_and_round_trips() {
        let program = program();
        program.check(1 << 20).unwrap();
        let json = serde_json::to_string(&program).unwrap();
        assert_eq!(serde_json::from_str::<Program>(&json).unwrap(), program);
    }

    #[test]
    fn bad_numbers_name_the_site() {
        let bad: [fn(&mut Site); 8] = [
            |s| s.weight = 0.0,
            |s| s.weight = f64::INFINITY,
            |s| s.weight = f64::NAN,
            |s| s.costs[1] = f64::NAN,
            |s| s.costs[2] = 1.5,
            |s| s.costs[0] = 0.7,
            |s| s.costs.clear(),
            |s| s.first = usize::MAX,
        ];
        for change in bad {
            assert!(error(|p| change(&mut p.sites[0])).contains("site \"ffn\""));
        }
    }

    #[test]
    fn choices_and_those_who_follow_them_belong_together() {
        assert!(error(|p| p.sites[0].costs.truncate(2)).contains("step \"choose\""));
        assert!(error(|p| p.sites[0].first = 1).contains("step \"choose\""));
        assert!(error(|p| p.sites.clear()).contains("site 0 does not exist"));
        assert!(error(|p| p.sites.push(p.sites[0].clone())).contains("no step chooses there"));
        let no_choice = error(|p| steps(p)[2].inputs[1] = 0);
        assert!(no_choice.contains("step \"mlp\"") && no_choice.contains("choice"), "{no_choice}");
        let as_ids = error(|p| {
            let mut again = steps(p)[0].clone();
            again.inputs[0] = 7;
            again.outputs[0] = p.entries[0].operands.len();
            let x = p.entries[0].operands[6].clone();
            p.entries[0].operands.push(x);
            steps(p).push(again);
        });
        assert!(as_ids.contains("cannot follow"), "{as_ids}");
        let twice = error(|p| {
            let mut again = steps(p)[1].clone();
            again.outputs[0] = p.entries[0].operands.len();
            let k = p.entries[0].operands[7].clone();
            p.entries[0].operands.push(k);
            steps(p).push(again);
        });
        assert!(twice.contains("second time"), "{twice}");
        let out = error(|p| p.entries[0].operands[7].kind = OperandKind::Output);
        assert!(out.contains("cannot be an output"), "{out}");
        let learners = error(|p| {
            let Op::AdaptiveMlp(mlp) = &mut steps(p)[2].op else { panic!("the mlp") };
            mlp.learners = 1;
        });
        assert!(learners.contains("1 learners"), "{learners}");
    }

    fn steps(program: &mut Program) -> &mut Vec<Step> {
        &mut program.entries[0].segments[0].steps
    }
}
