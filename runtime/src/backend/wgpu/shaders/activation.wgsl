// Activation functions by their number; see `number` in ops/mod.rs.

fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(-clamp(x, -87.0, 87.0)));
}

fn bounded_tanh(x: f32) -> f32 {
    return tanh(clamp(x, -15.0, 15.0));
}

// Of x >= 0: erf(x) as 1 - t P(t) exp(-x x) (Abramowitz and Stegun 7.1.26), near 0 its series.
fn erf_of(x: f32) -> f32 {
    if x < 0.5 {
        let z = x * x;
        return x * (1.1283791671 + z * (-0.3761263890 + z * (0.1128379167 + z * (-0.0268661706
            + z * (0.0052239776 - z * 0.0008548327)))));
    }
    let t = 1.0 / (1.0 + 0.3275911 * x);
    let p = 0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)));
    return 1.0 - t * p * exp(-min(x * x, 87.0));
}

fn activate(kind: u32, x: f32) -> f32 {
    switch kind {
        case 1u: { return select(x, 0.0, x < 0.0); }
        case 2u: { return x * sigmoid(x); }
        case 3u: { return 0.5 * x * (1.0 + sign(x) * erf_of(abs(x) * 0.7071067812)); }
        case 4u: { return x * sigmoid(1.5957691216 * (x + 0.044715 * x * x * x)); }
        case 5u: { return x * sigmoid(1.702 * x); }
        case 6u: { return bounded_tanh(x); }
        case 7u: { return sigmoid(x); }
        case 8u: { return select(select(x, 0.0, x < 0.0), 6.0, x > 6.0); }
        case 9u: { return x * clamp(x / 6.0 + 0.5, 0.0, 1.0); }
        default: { return x; }
    }
}
