//! Graph, values and nodes.

use std::fmt;

use limbeck_plan::{DType, Dim, Fact, Op, Site, State};

use crate::TensorExpr;

/// Index of a value.
pub type ValueId = usize;
/// Index of a node.
pub type NodeId = usize;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueSource {
    /// The caller.
    Input,
    /// The checkpoint.
    Weight(TensorExpr),
    /// A node of the graph.
    Node,
}

/// A value with what is known of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Name, for messages.
    pub name: String,
    /// Type and shape.
    pub fact: Fact,
    /// Origin.
    pub source: ValueSource,
}

/// An operation on values.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Name, for messages.
    pub name: String,
    /// Operation.
    pub op: Op,
    /// Values read.
    pub inputs: Vec<ValueId>,
    /// The value written.
    pub output: ValueId,
    /// Further values written; only an ONNX segment has such.
    pub others: Vec<ValueId>,
}

impl Node {
    /// All values written.
    pub fn outputs(&self) -> impl Iterator<Item = ValueId> {
        std::iter::once(self.output).chain(self.others.iter().copied())
    }
}

/// A node that does not type.
#[derive(Debug)]
pub struct Error {
    node: String,
    message: String,
}

impl Error {
    /// What is wrong, without the node.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {:?}: {}", self.node, self.message)
    }
}

impl std::error::Error for Error {}

/// One entry's computation. Nodes are in an order in which they can run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    values: Vec<Value>,
    nodes: Vec<Node>,
    outputs: Vec<(String, ValueId)>,
    states: Vec<State>,
    sites: Vec<Site>,
    /// By value.
    links: Vec<Links>,
}

/// The nodes at a value.
#[derive(Clone, Debug, Default, PartialEq)]
struct Links {
    /// The one that writes it.
    writer: Option<NodeId>,
    /// Those that read it, one as often as it does.
    readers: Vec<NodeId>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Graph {
        Graph::default()
    }

    /// Adds a value that the caller gives.
    pub fn input(&mut self, name: &str, dtype: DType, shape: Vec<Dim>) -> ValueId {
        self.push_value(name.into(), Fact::new(dtype, shape), ValueSource::Input)
    }

    /// Adds a weight, or gives the value that already stands for the same one.
    pub fn weight(&mut self, expr: TensorExpr) -> ValueId {
        let shape = vec![Dim::from(expr.rows()), Dim::from(expr.cols())];
        self.tensor(expr, shape)
    }

    /// The same for a weight whose values, row after row, are a tensor of this shape.
    pub fn tensor(&mut self, expr: TensorExpr, shape: Vec<Dim>) -> ValueId {
        let fact = Fact::new(DType::F32, shape);
        let same =
            |v: &Value| v.fact == fact && matches!(&v.source, ValueSource::Weight(e) if *e == expr);
        if let Some(id) = self.values.iter().position(same) {
            return id;
        }
        self.push_value(expr.name(), fact, ValueSource::Weight(expr))
    }

    /// Adds a state and gives its id.
    pub fn state(&mut self, state: State) -> usize {
        self.states.push(state);
        self.states.len() - 1
    }

    /// Adds a site and gives its index. Its weight is relative to the default, which is only known
    /// when all sites of the plan are: 1 takes the default.
    pub fn site(&mut self, site: Site) -> usize {
        self.sites.push(site);
        self.sites.len() - 1
    }

    /// Adds a node and gives its output.
    ///
    /// # Errors
    /// Inputs that the op does not take.
    pub fn node(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> Result<ValueId, Error> {
        let fact = self.infer(name, &op, inputs)?;
        let output = self.push_value(name.into(), fact, ValueSource::Node);
        let (name, inputs) = (name.into(), inputs.to_vec());
        self.push_node(Node { name, op, inputs, output, others: Vec::new() });
        Ok(output)
    }

    /// Adds a node of several outputs and gives them.
    ///
    /// # Errors
    /// Inputs that the op does not take.
    pub fn nodes_of(
        &mut self,
        name: &str,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<Vec<ValueId>, Error> {
        let facts = self.infer_all(name, &op, inputs)?;
        let outputs: Vec<ValueId> = facts
            .into_iter()
            .map(|fact| self.push_value(name.into(), fact, ValueSource::Node))
            .collect();
        let Some((output, others)) = outputs.split_first() else {
            return Err(Error { node: name.into(), message: "the op gives nothing".into() });
        };
        let (output, others) = (*output, others.to_vec());
        self.push_node(Node { name: name.into(), op, inputs: inputs.to_vec(), output, others });
        Ok(outputs)
    }

    /// Names a value as a result of the graph.
    pub fn output(&mut self, name: &str, value: ValueId) {
        self.outputs.push((name.into(), value));
    }

    /// Puts another op in the place of a node: its output keeps its id and must keep its fact.
    ///
    /// # Errors
    /// Inputs that the op does not take, or another fact.
    pub fn replace(&mut self, id: NodeId, op: Op, inputs: Vec<ValueId>) -> Result<(), Error> {
        let name = self.nodes[id].name.clone();
        let fact = self.infer(&name, &op, &inputs)?;
        let old = &self.values[self.nodes[id].output].fact;
        if fact != *old {
            let message = format!("a rewrite gives {fact} in the place of {old}");
            return Err(Error { node: name, message });
        }
        for &v in &self.nodes[id].inputs {
            self.links[v].readers.retain(|reader| *reader != id);
        }
        for &v in &inputs {
            self.links[v].readers.push(id);
        }
        let node = &mut self.nodes[id];
        node.op = op;
        node.inputs = inputs;
        Ok(())
    }

    /// Inserts a node before `at` and gives its output.
    ///
    /// # Errors
    /// Inputs that the op does not take.
    pub fn insert(
        &mut self,
        at: NodeId,
        name: &str,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<ValueId, Error> {
        let output = self.node(name, op, inputs)?;
        if let Some(node) = self.nodes.pop() {
            self.nodes.insert(at, node);
            self.link();
        }
        Ok(output)
    }

    /// Removes nodes that no output needs, and values that no node needs.
    pub fn prune(&mut self) {
        let mut live = vec![false; self.values.len()];
        for (_, v) in &self.outputs {
            live[*v] = true;
        }
        for node in self.nodes.iter().rev() {
            if node.outputs().any(|v| live[v]) {
                node.outputs().for_each(|v| live[v] = true);
                node.inputs.iter().for_each(|&v| live[v] = true);
            }
        }
        self.nodes.retain(|n| live[n.output]);
        for (value, live) in self.values.iter().zip(&mut live) {
            *live |= value.source == ValueSource::Input;
        }
        let mut next = 0;
        let renumbered: Vec<ValueId> = live
            .iter()
            .map(|&l| {
                next += usize::from(l);
                next.saturating_sub(1)
            })
            .collect();
        let mut keep = live.iter();
        self.values.retain(|_| *keep.next().unwrap_or(&false));
        for node in &mut self.nodes {
            node.inputs.iter_mut().for_each(|v| *v = renumbered[*v]);
            node.output = renumbered[node.output];
            node.others.iter_mut().for_each(|v| *v = renumbered[*v]);
        }
        self.outputs.iter_mut().for_each(|(_, v)| *v = renumbered[*v]);
        self.link();
    }

    /// All values.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// One value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id]
    }

    /// All nodes, in running order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Named results.
    pub fn outputs(&self) -> &[(String, ValueId)] {
        &self.outputs
    }

    /// States that the nodes keep.
    pub fn states(&self) -> &[State] {
        &self.states
    }

    /// Places where compute can vary.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// The node that writes a value.
    pub fn producer(&self, value: ValueId) -> Option<NodeId> {
        self.links[value].writer
    }

    /// The nodes that read a value, one as often as it does.
    pub fn readers(&self, value: ValueId) -> impl Iterator<Item = &Node> {
        self.links[value].readers.iter().map(|id| &self.nodes[*id])
    }

    /// How often a value is read, as a result of the graph too.
    pub fn uses(&self, value: ValueId) -> usize {
        let results = self.outputs.iter().filter(|(_, v)| *v == value).count();
        self.links[value].readers.len() + results
    }

    /// The weight expression behind a value.
    pub fn weight_expr(&self, value: ValueId) -> Option<&TensorExpr> {
        match &self.values[value].source {
            ValueSource::Weight(expr) => Some(expr),
            _ => None,
        }
    }

    fn infer(&self, name: &str, op: &Op, inputs: &[ValueId]) -> Result<Fact, Error> {
        let mut outputs = self.infer_all(name, op, inputs)?;
        let message = "the op gives nothing".into();
        outputs.pop().ok_or_else(|| Error { node: name.into(), message })
    }

    fn infer_all(&self, name: &str, op: &Op, inputs: &[ValueId]) -> Result<Vec<Fact>, Error> {
        let facts: Vec<Fact> = inputs.iter().map(|&v| self.values[v].fact.clone()).collect();
        op.infer(&facts).map_err(|message| Error { node: name.into(), message })
    }

    fn push_value(&mut self, name: String, fact: Fact, source: ValueSource) -> ValueId {
        self.values.push(Value { name, fact, source });
        self.links.push(Links::default());
        self.values.len() - 1
    }

    fn push_node(&mut self, node: Node) {
        self.nodes.push(node);
        self.link_node(self.nodes.len() - 1);
    }

    /// Finds the nodes at each value anew.
    fn link(&mut self) {
        self.links.resize(self.values.len(), Links::default());
        for links in &mut self.links {
            links.writer = None;
            links.readers.clear();
        }
        (0..self.nodes.len()).for_each(|id| self.link_node(id));
    }

    fn link_node(&mut self, id: NodeId) {
        let node = &self.nodes[id];
        node.outputs().for_each(|v| self.links[v].writer = Some(id));
        node.inputs.iter().for_each(|v| self.links[*v].readers.push(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use limbeck_plan::{Activate, Activation, Add};

    fn relu() -> Op {
        Op::Activate(Activate { activation: Activation::Relu })
    }

    /// What an index gives of each value is what a walk over all nodes does.
    fn links_hold(g: &Graph) {
        for value in 0..g.values().len() {
            let writes = |n: &Node| n.outputs().any(|output| output == value);
            assert_eq!(g.producer(value), g.nodes().iter().position(writes));
            let reads = |n: &'_ Node| n.inputs.iter().filter(|v| **v == value).count();
            let mut read: Vec<&str> = g.readers(value).map(|n| n.name.as_str()).collect();
            read.sort_unstable();
            let all = g.nodes().iter();
            let mut expected: Vec<&str> =
                all.flat_map(|n| std::iter::repeat_n(n.name.as_str(), reads(n))).collect();
            expected.sort_unstable();
            assert_eq!(read, expected, "value {value}");
        }
    }

    #[test]
    fn links_follow_every_change() {
        let mut g = Graph::new();
        let x = g.input("x", DType::F32, vec![Dim::symbol("tokens"), Dim::Const(4)]);
        let a = g.node("a", relu(), &[x]).unwrap();
        let b = g.node("b", Op::Add(Add {}), &[a, a]).unwrap();
        g.output("y", b);
        links_hold(&g);
        assert_eq!((g.uses(a), g.uses(b)), (2, 1));
        let c = g.insert(1, "c", relu(), &[a]).unwrap();
        links_hold(&g);
        g.replace(2, Op::Add(Add {}), vec![a, c]).unwrap();
        links_hold(&g);
        g.replace(2, Op::Add(Add {}), vec![x, x]).unwrap();
        g.prune();
        links_hold(&g);
        assert_eq!(g.uses(g.outputs()[0].1), 1);
    }

    #[test]
    fn prune_drops_what_no_output_needs() {
        let mut g = Graph::new();
        let x = g.input("x", DType::F32, vec![Dim::symbol("tokens"), Dim::Const(4)]);
        let a = g.node("a", relu(), &[x]).unwrap();
        let _dead = g.node("dead", relu(), &[a]).unwrap();
        let b = g.node("b", Op::Add(Add {}), &[a, x]).unwrap();
        g.output("y", b);
        g.prune();
        let names: Vec<&str> = g.nodes().iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(g.value(g.outputs()[0].1).name, "b");
        assert_eq!(g.values().len(), 3);
    }

    #[test]
    fn a_node_that_does_not_type_is_named() {
        let mut g = Graph::new();
        let ids = g.input("ids", DType::I32, vec![Dim::symbol("tokens")]);
        let e = g.node("layers.0.act", relu(), &[ids]).unwrap_err();
        assert!(e.to_string().contains("layers.0.act"), "{e}");
    }
}
