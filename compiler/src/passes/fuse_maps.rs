//! Elementwise ops that follow each other over one shape become one, so that what lies between is
//! never written out.

use limbeck_graph::{Error, Graph, Node, NodeId, ValueId};
use limbeck_plan::{Binary, Dim, Fact, Map, MapStep, Op, Unary};

pub(super) fn apply(graph: &mut Graph, at: NodeId) -> Result<bool, Error> {
    let mut applied = false;
    while fuse_one(graph, at)? {
        applied = true;
    }
    Ok(applied)
}

fn fuse_one(graph: &mut Graph, at: NodeId) -> Result<bool, Error> {
    let node = &graph.nodes()[at];
    let Some(steps) = steps(&node.op) else { return Ok(false) };
    let Some((index, before)) = producer(graph, node) else { return Ok(false) };
    let mut merged = Merged::default();
    let producer = &graph.nodes()[before];
    let Some(given) = steps_of(producer) else { return Ok(false) };
    let result = merged.add(&given, &producer.inputs, None);
    merged.add(&steps, &node.inputs, Some((node.inputs[index], result)));
    let Merged { steps, inputs, .. } = merged;
    if steps.len() > Map::MAX_STEPS || inputs.len() > Map::MAX_INPUTS {
        return Ok(false);
    }
    let op = Op::Map(Map { inputs: inputs.len(), steps });
    let facts: Vec<Fact> = inputs.iter().map(|id| graph.value(*id).fact.clone()).collect();
    let output = &graph.value(graph.nodes()[at].output).fact;
    if !op.infer(&facts).is_ok_and(|found| found.first() == Some(output)) {
        return Ok(false);
    }
    graph.replace(at, op, inputs)?;
    Ok(true)
}

/// Whether a value of these sizes is hardly repeated to those: they are the same, or are where neither is 1.
fn is_as_large(from: &[Dim], to: &[Dim]) -> bool {
    let open = |dim: &Dim| dim.as_const().is_none() && !matches!(dim, Dim::Broadcast(..));
    let pairs = from.iter().zip(to);
    from.len() == to.len() && pairs.into_iter().all(|(a, b)| a == b || open(a) && open(b))
}

/// The input that an elementwise node of the same shape gives to this one alone.
fn producer(graph: &Graph, node: &Node) -> Option<(usize, NodeId)> {
    let shape = &graph.value(node.output).fact.shape;
    node.inputs.iter().enumerate().find_map(|(index, value)| {
        let before = graph.producer(*value)?;
        let fits =
            is_as_large(&graph.value(*value).fact.shape, shape) && alone(graph, node, *value);
        (fits && steps_of(&graph.nodes()[before]).is_some()).then_some((index, before))
    })
}

/// Whether no other node that is needed reads a value.
fn alone(graph: &Graph, node: &Node, value: ValueId) -> bool {
    let other = |n: &Node| n.output != node.output && graph.uses(n.output) > 0;
    !graph.readers(value).any(other) && graph.outputs().iter().all(|(_, v)| *v != value)
}

fn steps_of(node: &Node) -> Option<Vec<MapStep>> {
    steps(&node.op)
}

/// An op as elementwise steps, where it is such.
pub(super) fn steps(op: &Op) -> Option<Vec<MapStep>> {
    Some(match op {
        Op::Map(p) => p.steps.clone(),
        Op::Add(_) => {
            vec![MapStep::Input(0), MapStep::Input(1), MapStep::Binary(Binary::Add, 0, 1)]
        }
        Op::Activate(p) => {
            vec![MapStep::Input(0), MapStep::Unary(Unary::Activation(p.activation), 0)]
        }
        _ => return None,
    })
}

#[derive(Default)]
struct Merged {
    steps: Vec<MapStep>,
    inputs: Vec<ValueId>,
    /// By input, its step.
    taken: Vec<usize>,
}

impl Merged {
    /// Adds steps over these values, of which one is the result of a step; gives the last step.
    fn add(
        &mut self,
        steps: &[MapStep],
        values: &[ValueId],
        known: Option<(ValueId, usize)>,
    ) -> usize {
        let mut now = Vec::with_capacity(steps.len());
        for step in steps {
            let of = |step: &usize| now.get(*step).copied().unwrap_or(0);
            let step = match step {
                MapStep::Input(i) => {
                    let value = values.get(*i).copied().unwrap_or_default();
                    now.push(match known.filter(|(v, _)| *v == value) {
                        Some((_, result)) => result,
                        None => self.input(value),
                    });
                    continue;
                }
                MapStep::Unary(f, a) => MapStep::Unary(*f, of(a)),
                MapStep::Binary(f, a, b) => MapStep::Binary(*f, of(a), of(b)),
                MapStep::Select(c, a, b) => MapStep::Select(of(c), of(a), of(b)),
                known => known.clone(),
            };
            self.steps.push(step);
            now.push(self.steps.len() - 1);
        }
        now.last().copied().unwrap_or(0)
    }

    fn input(&mut self, value: ValueId) -> usize {
        if let Some(at) = self.inputs.iter().position(|have| *have == value) {
            return self.taken[at];
        }
        self.steps.push(MapStep::Input(self.inputs.len()));
        self.inputs.push(value);
        self.taken.push(self.steps.len() - 1);
        self.steps.len() - 1
    }
}
