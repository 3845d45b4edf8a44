//! Follows a target fraction: the curve as feed-forward, what was spent as feedback.

use super::curve::Curve;

/// Tokens over which a debt is paid back. Noise of tokens that are independent of one another then
/// adds about 1.5 of one token's deviation to the sum, however many there are.
const PAYBACK: f64 = 4.0;
/// Most tokens of full compute that may be owed either way: a target that could not be followed for
/// long must not be paid for ever.
const MAX_DEBT: f64 = 128.0;
/// Share of a debt that a token keeps where only the present counts.
const LEAK: f64 = 0.9;
/// How fast the curve's shift follows one token.
const LEARN: f64 = 0.15;
/// Largest shift, and largest step that one observation may ask for, in the logarithm of the price.
const MAX_SHIFT: f64 = 10.0;
const MAX_STEP: f64 = 1.4;
/// Slope of the curve below which an observation says little about the shift, as a share of the
/// reachable interval.
const MIN_SLOPE: f64 = 0.05;

/// Finds the price for a target fraction.
#[derive(Clone, Debug)]
pub(super) struct Tracker {
    curve: Curve,
    /// The fraction at a price is that of the curve at `price * exp(shift)`.
    shift: f64,
    /// Tokens observed at prices that say something about the shift.
    seen: f64,
    /// Multiply-adds that the target allowed and that were not spent.
    debt: f64,
    /// Multiply-adds of a token at full compute, as of late.
    per_token: f64,
}

impl Tracker {
    pub fn new(curve: Curve) -> Tracker {
        Tracker { curve, shift: 0.0, seen: 0.0, debt: 0.0, per_token: 0.0 }
    }

    pub fn curve(&self) -> &Curve {
        &self.curve
    }

    /// Forgets what is owed, not what was learned.
    pub fn restart(&mut self) {
        self.debt = 0.0;
    }

    /// The price for the next `tokens` tokens.
    pub fn price(&self, target: f64, tokens: f64) -> f64 {
        let owed = if self.per_token > 0.0 { self.debt / self.per_token } else { 0.0 };
        let wanted = target + owed / tokens.max(PAYBACK);
        let wanted = wanted.clamp(self.curve.lowest(), self.curve.highest());
        let price = self.curve.price(wanted) * (-self.shift).exp();
        price.clamp(0.0, self.curve.max_price())
    }

    /// Takes note that `tokens` tokens spent `macs` of `full` multiply-adds at `price`.
    /// With a target the difference to it is owed; only for a while where it is `leaky`.
    pub fn observe(
        &mut self,
        price: f64,
        tokens: f64,
        macs: f64,
        full: f64,
        target: Option<f64>,
        leaky: bool,
    ) {
        self.per_token = full / tokens;
        if let Some(target) = target {
            if leaky {
                self.debt *= LEAK;
            }
            let most = MAX_DEBT * self.per_token;
            self.debt = (self.debt + target * full - macs).clamp(-most, most);
        }
        self.learn(price, tokens, macs / full);
    }

    fn learn(&mut self, price: f64, tokens: f64, fraction: f64) {
        let span = self.curve.highest() - self.curve.lowest();
        if price <= 0.0 || span <= 0.0 {
            return;
        }
        let shifted = price * self.shift.exp();
        let error = self.curve.fraction(shifted) - fraction;
        let step = error / self.curve.slope(shifted).max(MIN_SLOPE * span);
        self.seen += tokens;
        let rate = (tokens / (self.seen + 1.0)).max(1.0 - (1.0 - LEARN).powf(tokens));
        let step = rate * step.clamp(-MAX_STEP, MAX_STEP);
        self.shift = (self.shift + step).clamp(-MAX_SHIFT, MAX_SHIFT);
    }
}
